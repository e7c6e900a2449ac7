//! Processes of pods and of the cluster, found from outside. Works where the pods run on this machine, as on the local
//! cluster.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id on this machine.
    pub pid: i32,
    /// Its id inside its container; 1 is the supervisor.
    pub inner: i32,
}

/// The worker process (not its supervisor) of a pod.
pub fn worker_of(pod_uid: &str) -> Result<Process> {
    processes_of(pod_uid, Some("worker"))?
        .into_iter()
        .filter(|process| process.inner != 1)
        .max_by_key(|process| process.inner)
        .with_context(|| format!("no worker process of pod {pod_uid} on this machine"))
}

/// The process 1 of a pod's container that runs the product's command given: a supervisor, or the controller.
pub fn first_of(pod_uid: &str, command: &str) -> Result<Process> {
    processes_of(pod_uid, Some(command))?
        .into_iter()
        .find(|process| process.inner == 1)
        .with_context(|| format!("no container with mailrelay {command} in pod {pod_uid} on this machine"))
}

/// All processes of a pod, or those with the word given in their command line.
pub fn processes_of(pod_uid: &str, command: Option<&str>) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = Process { pid, inner: 0 };
        // A process may end while we look at it.
        let Some(inner) = process.inner_pid() else { continue };
        let cgroup = process.read("cgroup");
        let in_pod = cgroup.contains(pod_uid) || cgroup.contains(&pod_uid.replace('-', "_"));
        let fits = |word| process.read("cmdline").split('\0').any(|other| other == word);
        if in_pod && command.is_none_or(fits) {
            found.push(Process { inner, ..process });
        }
    }
    Ok(found)
}

/// A program of the local cluster, such as `kubelet` (hack/cluster keeps its id).
pub fn component(name: &str) -> Result<Process> {
    let path = cluster_folder().join("pids").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok()).context("a process id")?;
    Ok(Process { pid, inner: pid })
}

/// Where the local cluster keeps its files.
pub fn cluster_folder() -> PathBuf {
    env::var_os("MAILRELAY_CLUSTER_DIR").map_or_else(|| "/var/tmp/mailrelay-cluster".into(), PathBuf::from)
}

impl Process {
    /// Sends a signal.
    pub fn signal(self, signal: Signal) -> Result<()> {
        signal::kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {}", self.pid))
    }

    /// Stops it until the value returned is dropped.
    pub fn pause(self) -> Result<Paused> {
        self.signal(Signal::SIGSTOP)?;
        Ok(Paused(self))
    }

    /// Whether it exists and is not a zombie.
    pub fn lives(self) -> bool {
        let stat = self.read("stat");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// A file of its folder in `/proc`, or nothing once it has ended.
    fn read(self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// The last number of the line `NSpid:` in `/proc/PID/status`.
    fn inner_pid(self) -> Option<i32> {
        let status = self.read("status");
        status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
    }
}

/// A stopped process; it goes on when this is dropped, however the test ends.
#[derive(Debug)]
pub struct Paused(Process);

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = self.0.signal(Signal::SIGCONT);
    }
}
