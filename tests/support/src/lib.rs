//! Fixtures of mailrelay's tests: real servers on free loopback ports, each with a folder of its own, gone with the test.

mod ports;
mod postfix;
mod redis;
mod wait;

pub use ports::free_port;
pub use postfix::Postfix;
pub use redis::{Persistence, RedisServer};
pub use wait::{PATIENCE, eventually, throughout};
