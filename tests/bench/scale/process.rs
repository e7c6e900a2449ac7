//! The product's processes, and what they cost the machine.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use testkit::{free_port, processor_time};

/// A process of the real binary, built as this bench is; it ends when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// A controller of this Kubernetes and this Redis. Its log is a file of its name in the folder.
    pub fn controller(name: &str, redis: &str, kubeconfig: &Path, folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailrelay"));
        command.args(["controller", "--namespace", "mailrelay", "--identity", name, "--redis-url", redis]);
        // As the chart starts it.
        command.env_clear().env("KUBECONFIG", kubeconfig).env("MALLOC_ARENA_MAX", "2");
        Self::start(&mut command, name, folder)
    }

    /// A worker of a pod of a relay in the namespace `mail`.
    pub fn worker(relay: &str, pod: &str, uid: &str, redis: &str, folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailrelay"));
        command.args(["worker", "--relay", relay, "--namespace", "mail", "--redis-url", redis]);
        command.args(["--pod-name", pod, "--pod-uid", uid]);
        Self::start(command.env_clear(), "worker", folder)
    }

    fn start(command: &mut Command, name: &str, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let child = command
            .args(["--http", &format!("127.0.0.1:{}", free_port())])
            .env("MAILRELAY_LOG", "warn,mailrelay=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("the product starts");
        Self { child, log }
    }

    /// Whether this stands in its log.
    pub fn said(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).expect("its log").contains(text)
    }

    /// Processor time used so far, user and system.
    pub fn cpu(&self) -> Duration {
        processor_time(self.child.id())
    }

    /// Memory that is resident now, in MiB.
    pub fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("KiB") / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
