//! Who a worker is, and what proves that an older process of its pod is dead (R5a).

use std::{
    fmt, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A 128-bit id of one run of the worker, as 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(String);

impl ProcessId {
    /// A new one.
    pub fn random() -> Self {
        Self(format!("{:032x}", u128::from_le_bytes(crate::system::random_bytes())))
    }

    /// The id from its text; `None` unless it is 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The 32 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Numbers that never repeat within a process: of incarnations and of slots, whatever pool they are in and however often a
/// pool is left and joined again. Clones draw from the same source, and any two are equal.
#[derive(Clone, Default)]
pub struct Numbers(Arc<AtomicU64>);

impl Numbers {
    /// The next one, from 1.
    pub(super) fn draw(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A source of its own that goes on from here, for a world that goes another way.
    pub(super) fn fork(&self) -> Self {
        Self(Arc::new(AtomicU64::new(self.0.load(Ordering::Relaxed))))
    }
}

impl PartialEq for Numbers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Numbers {}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Numbers({})", self.0.load(Ordering::Relaxed))
    }
}

/// Who a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the pod.
    pub pod: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// This run of the worker.
    pub process: ProcessId,
    /// Boot of the node, see [`boot_id`].
    pub boot_id: String,
    /// Where the numbers of its incarnations and slots come from: `Numbers::default()` once a process, then clones.
    pub numbers: Numbers,
}

/// Proof that no other process of this pod is a worker, for as long as it is kept; the kernel ends it with the process.
#[derive(Debug)]
pub struct PodGuard {
    _listener: UnixListener,
}

/// Binds the abstract socket `@mailrelay/<POD_UID>` in the pod's network namespace. To be held before the first SYNC and
/// until the process ends: then a newer `gen` of the pod proves that the older process is dead.
///
/// # Errors
/// `AddrInUse` while another worker of the pod lives; anything else from the system.
pub fn bind_pod(pod_uid: &str) -> io::Result<PodGuard> {
    let address = SocketAddr::from_abstract_name(format!("mailrelay/{pod_uid}"))?;
    Ok(PodGuard { _listener: UnixListener::bind_addr(&address)? })
}

/// The id of this boot of the node, from `/proc/sys/kernel/random/boot_id`; `Node.status.nodeInfo.bootID` is the same.
///
/// # Errors
/// When /proc cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_process_of_a_pod_can_be_its_worker() {
        let uid = format!("test-{}", ProcessId::random());
        let guard = bind_pod(&uid).expect("the first");
        assert_eq!(bind_pod(&uid).expect_err("the second").kind(), io::ErrorKind::AddrInUse);
        drop(guard);
        bind_pod(&uid).expect("after the first ended");
    }

    #[test]
    fn ids_have_the_shape_that_the_ledger_stores() {
        let id = ProcessId::random();
        assert_eq!(ProcessId::parse(id.as_str()), Some(id));
        assert_eq!(ProcessId::parse("0123"), None);
        assert_eq!(boot_id().expect("/proc").len(), 36);
    }
}
