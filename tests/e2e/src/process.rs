//! Processes inside pods, found from outside. Works where the pods run on this machine, as on the local cluster.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// A process of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
    /// Its id inside the container; 1 is the supervisor.
    inner: i32,
}

/// The worker process (not its supervisor) of a pod.
pub(crate) fn worker_of(pod_uid: &str) -> Result<Process> {
    processes_of(pod_uid)?
        .into_iter()
        .filter(|process| process.inner != 1)
        .max_by_key(|process| process.inner)
        .with_context(|| format!("no worker process of pod {pod_uid} on this machine"))
}

impl Process {
    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        signal::kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {}", self.pid))
    }
}

fn processes_of(pod_uid: &str) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let folder = entry.path();
        // A process may end while we look at it.
        let Some(inner) = inner_pid(&folder) else { continue };
        let cgroup = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        let command = fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
        let in_pod = cgroup.contains(pod_uid) || cgroup.contains(&pod_uid.replace('-', "_"));
        if in_pod && command.split('\0').any(|word| word == "worker") {
            found.push(Process { pid, inner });
        }
    }
    Ok(found)
}

/// The last number of the line `NSpid:` in `/proc/PID/status`.
fn inner_pid(folder: &Path) -> Option<i32> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}
