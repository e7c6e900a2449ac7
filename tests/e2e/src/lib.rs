//! mailrelay on a real cluster: an installation, relays under test, and the means to disturb them.
//!
//! Everything runs where the cluster can be seen, so start it through `hack/cluster/run`. Redis and the mail sink run
//! beside the cluster, as a company's would, on [`Stage::address`].

pub mod command;
pub mod mails;
mod process;
mod relay;
mod stage;
pub mod wait;

pub use relay::{Rebalance, Relay, RelayOptions};
pub use stage::{Stage, is_local};
