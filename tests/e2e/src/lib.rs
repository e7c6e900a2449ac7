//! mailrelay on a real cluster: an installation, relays under test, and the means to disturb them.
//!
//! Everything runs where the cluster can be seen, so start it through `hack/cluster/run`. Redis and the mail sink run
//! beside the cluster, as a company's would, on [`Stage::address`].

pub mod chaos;
pub mod command;
pub mod mails;
pub mod network;
mod options;
pub mod process;
mod relay;
mod server;
mod stage;
mod tenants;
pub mod wait;

pub use options::RelayOptions;
pub use relay::{Rebalance, Relay};
pub use server::{Server, Side};
pub use stage::{Stage, is_local};
pub use tenants::Tenants;

use tokio::signal::unix::{SignalKind, signal};

/// Ctrl-C, or SIGTERM where there is no terminal to press it on.
pub async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
