//! A private Exim.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    mta::{Limits, LogFigures, LogReader, user_id},
    wait::until,
};

/// The user that Debian's Exim insists on, and an id for it where the machine has none.
const USER: &str = "Debian-exim";
const ID: u32 = 64_999;

/// A real Exim, as Debian builds it (hack/exim unpacks it), that takes all mail and throws it away. It counts processes and
/// has one limit for all clients together (`smtp_accept_max`). It ends, and its folder goes, when this is dropped. Needs root.
#[derive(Debug)]
pub struct Exim {
    folder: TempDir,
    address: SocketAddr,
    daemon: Child,
    limit: usize,
    reader: Mutex<LogReader>,
}

impl Exim {
    /// Starts the program given, and waits until it greets.
    ///
    /// # Panics
    /// When it does not start; the message has its log.
    pub fn start(program: &Path, address: SocketAddr, limits: Limits) -> Self {
        let folder = tempfile::Builder::new().prefix("mailrelay-exim-").tempdir().expect("a temporary folder");
        let root = folder.path().display().to_string();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        let id = user_id(USER).unwrap_or(ID);
        for name in ["spool", "log"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
            chown(folder.path().join(name), Some(id), None).expect("a folder is given away (the test runs as root)");
        }
        let pause = limits.pause.as_secs();
        let configuration = CONFIGURATION
            .replace("@ROOT@", &root)
            .replace("@PROGRAM@", &program.to_string_lossy())
            .replace("@HOST@", &address.ip().to_string())
            .replace("@PORT@", &address.port().to_string())
            .replace("@LIMIT@", &limits.sessions.to_string())
            .replace("@TIMEOUT@", &limits.timeout.as_secs().max(1).to_string())
            .replace("@DELAY@", &if pause > 0 { format!("warn delay = {pause}s") } else { "warn".into() });
        let script = format!(
            "for file in passwd group; do mount --bind {root}/$file /etc/$file; done\nexec {} -C {root}/conf -bdf\n",
            program.display()
        );
        let more = |file: &str, line: String| fs::read_to_string(file).unwrap_or_default() + &line;
        let files = [
            ("conf", configuration),
            ("start", script),
            ("passwd", more("/etc/passwd", format!("{USER}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"))),
            ("group", more("/etc/group", format!("{USER}:x:{id}:\n"))),
        ];
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file is written");
        }
        // In a mount namespace of its own the machine seems to have that user.
        let daemon = Command::new("unshare")
            .args(["--mount", "sh", "-e"])
            .arg(folder.path().join("start"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log/said")).expect("a file"))
            .spawn()
            .expect("unshare starts (Debian package util-linux)");
        let exim = Self { folder, address, daemon, limit: limits.sessions, reader: Mutex::default() };
        let greets = until(Duration::from_secs(15), || exim.greets());
        assert!(greets, "Exim did not greet within 15 s:\n{}", exim.log());
        exim
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        read("log/main") + &read("log/panic") + &read("log/said")
    }

    /// What its log says.
    pub fn figures(&self) -> LogFigures {
        self.read().figures()
    }

    /// The Message-IDs of the mails that it took, in order.
    pub fn taken(&self) -> Vec<String> {
        self.read().taken()
    }

    fn read(&self) -> MutexGuard<'_, LogReader> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.follow(&self.path("log/main"), |reader, line| reader.exim(line, self.limit));
        reader
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address()) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut greeting = [0; 4];
        let greeted = stream.read_exact(&mut greeting).is_ok() && &greeting == b"220 ";
        greeted && stream.write_all(b"QUIT\r\n").is_ok() && stream.read_to_end(&mut Vec::new()).is_ok()
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        // `unshare` and the shell became the daemon; its sessions end by themselves.
        if let Ok(pid) = self.daemon.id().try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if !until(Duration::from_secs(5), || !matches!(self.daemon.try_wait(), Ok(None))) {
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

const CONFIGURATION: &str = "\
primary_hostname = exim.test
spool_directory = @ROOT@/spool
log_file_path = @ROOT@/log/%s
log_selector = +smtp_connection +incoming_port
keep_environment =
exim_path = @PROGRAM@
pid_file_path = @ROOT@/pid
daemon_smtp_ports = @PORT@
local_interfaces = @HOST@
smtp_accept_max = @LIMIT@
smtp_accept_max_per_host = @LIMIT@
smtp_accept_max_per_connection = 100000
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
smtp_receive_timeout = @TIMEOUT@s
smtp_enforce_sync = false
queue_only = true
tls_advertise_hosts =
host_lookup =
rfc1413_hosts =
acl_smtp_mail = accept
acl_smtp_rcpt = accept
acl_smtp_data = take
begin acl
take:
  @DELAY@
  discard
begin routers
";
