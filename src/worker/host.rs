//! The machine under a worker: what it does beside Redis and clocks. A simulation puts another one in its place.

use std::{any::Any, io, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::{connection_file::ConnectionFile, memory::OUT_OF_MEMORY};
use crate::{
    lease::{ConnectionTable, DeadManSwitch, KernelSwitch, SwitchError, bind_pod, self_check},
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
    /// Whether the kernel killed the worker before this one since memory ran out, as far as its supervisor saw.
    fn predecessor_ran_out_of_memory(&self) -> bool {
        false
    }
    /// Where this pod's workers write down their connections; `None` without a supervisor that could make use of it: then
    /// all slots of a dead worker are withheld.
    fn connections(&self) -> Option<Arc<dyn ConnectionTable>>;
}

/// The host's name, which is the pod's: what EHLO says when it was not told another one.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if is_name { name.to_owned() } else { "localhost".to_owned() }
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

    fn predecessor_ran_out_of_memory(&self) -> bool {
        std::env::var_os(OUT_OF_MEMORY).is_some()
    }

    fn connections(&self) -> Option<Arc<dyn ConnectionTable>> {
        match ConnectionFile::inherited() {
            Ok(file) => Some(Arc::new(file?)),
            Err(error) => {
                tracing::warn!(%error, "the supervisor's list of connections cannot be opened; should this process die, all its slots are withheld");
                None
            }
        }
    }
}
