//! The machine under a worker: what it does beside Redis and clocks. A simulation puts another one in its place.

use std::{any::Any, io, net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use crate::{
    lease::{DeadManSwitch, KernelSwitch, SwitchError, bind_pod, older_sockets, self_check},
    smtp::{Network, Tcp},
};

/// Proof that no other process of this pod is a worker, for as long as it is kept.
pub type Guard = Box<dyn Any + Send + Sync>;

/// What a worker needs of the machine that it runs on.
pub trait Host: Send + Sync {
    /// The way to the mail servers.
    fn network(&self) -> Arc<dyn Network>;
    /// Makes this process the pod's only worker; fails while another one lives ([`bind_pod`]).
    fn claim_pod(&self, pod_uid: &str) -> io::Result<Guard>;
    /// Whether [`Host::switch`] works here ([`self_check`]).
    fn check_switch(&self) -> BoxFuture<'_, Result<(), SwitchError>>;
    /// A dead-man switch (lease R6).
    fn switch(&self) -> Box<dyn DeadManSwitch>;
    /// How many sockets to `servers` an older process of this pod left ([`older_sockets`]).
    fn older_sockets<'a>(&'a self, servers: &'a [SocketAddr]) -> BoxFuture<'a, io::Result<u32>>;
}

/// Linux.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Host for Machine {
    fn network(&self) -> Arc<dyn Network> {
        Arc::new(Tcp)
    }

    fn claim_pod(&self, pod_uid: &str) -> io::Result<Guard> {
        Ok(Box::new(bind_pod(pod_uid)?))
    }

    fn check_switch(&self) -> BoxFuture<'_, Result<(), SwitchError>> {
        self_check().boxed()
    }

    fn switch(&self) -> Box<dyn DeadManSwitch> {
        Box::new(KernelSwitch::new())
    }

    fn older_sockets<'a>(&'a self, servers: &'a [SocketAddr]) -> BoxFuture<'a, io::Result<u32>> {
        older_sockets(servers).boxed()
    }
}
