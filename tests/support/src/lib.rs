//! Fixtures of mailrelay's tests: real servers on free loopback ports, each with a folder of its own, gone with the test,
//! and what disturbs them.

mod clock;
mod door;
mod forgetful;
mod ports;
mod postfix;
mod redis;
mod wait;

pub use clock::{ClockLibrary, WallClock};
pub use door::Door;
pub use forgetful::ForgetfulBox;
pub use ports::free_port;
pub use postfix::Postfix;
pub use redis::{DataCopy, Persistence, RedisServer};
pub use wait::{PATIENCE, eventually, throughout};
