//! Fixtures of mailrelay's tests: real servers on free loopback ports, each with a folder of its own, gone with the test,
//! and what disturbs them.

mod api_server;
mod clock;
mod command;
mod counting;
mod door;
mod exim;
mod forgetful;
mod link;
mod mta;
mod payload;
mod ports;
mod postfix;
mod redis;
pub mod session;
mod usage;
mod wait;

pub use api_server::{ApiServer, Mood};
pub use clock::{ClockLibrary, WallClock};
pub use command::output_of;
pub use counting::{Counted, CountingOptions, CountingServer};
pub use door::Door;
pub use exim::Exim;
pub use forgetful::ForgetfulBox;
pub use link::SlowLink;
pub use mta::{Limits, LogFigures};
pub use payload::recipients;
pub use ports::free_port;
pub use postfix::Postfix;
pub use redis::{DataCopy, Persistence, RedisServer};
pub use usage::processor_time;
pub use wait::{PATIENCE, eventually, eventually_within, throughout, within};
