//! The whole controller, as a test runs it in its own process.

use std::net::Ipv4Addr;

use kube::Client;
use mailrelay::{
    controller::{ControllerOptions, Replica},
    store::{Store, StoreOptions},
};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

/// A replica of this name, as the chart starts it, that does nothing before it is run; only who owns a process looks at where
/// it serves and how it finds Redis.
pub fn replica(name: &str, store: Store, client: Client) -> Replica {
    let options = ControllerOptions {
        store: StoreOptions::from_url("redis://unused"),
        namespace: "mailrelay".into(),
        identity: name.into(),
        lease_name: "mailrelay-controller".into(),
        http: (Ipv4Addr::LOCALHOST, 0).into(),
    };
    let (ready, _) = watch::channel(false);
    Replica::new(options, store, client, &mut Registry::default(), ready)
}
