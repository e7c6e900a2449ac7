//! A private Redis.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{ClockLibrary, free_port, wait::until};

/// What Redis writes into its folder.
const FILES: [&str; 2] = ["appendonlydir", "dump.rdb"];

/// What survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// AOF with `appendfsync always` and RDB, as the requirements ask.
    Always,
    /// Nothing: a restart comes back empty.
    Off,
}

/// A `redis-server` of the test's own; it ends, and its folder goes, when this is dropped.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    host: String,
    port: u16,
    password: Option<String>,
    arguments: Vec<String>,
    preload: Option<PathBuf>,
    small_disk: bool,
    child: Option<Child>,
}

/// A copy of what a [`RedisServer`] had written, as a backup is.
#[derive(Debug)]
pub struct DataCopy {
    folder: TempDir,
}

impl RedisServer {
    /// Starts a Redis on loopback, without a password, and waits until it answers.
    ///
    /// # Panics
    /// When `redis-server` is not installed or does not start; the message says what to install.
    pub fn start(persistence: Persistence) -> Self {
        Self::start_on("127.0.0.1", None, persistence)
    }

    /// Starts a Redis on the address given and waits until it answers.
    ///
    /// # Panics
    /// When `redis-server` is not installed or does not start; the message says what to install.
    pub fn start_on(host: &str, password: Option<&str>, persistence: Persistence) -> Self {
        let folder = tempfile::Builder::new().prefix("mailrelay-redis-").tempdir().expect("a temporary folder");
        let mut arguments: Vec<String> =
            ["--bind", host, "--maxmemory-policy", "noeviction", "--daemonize", "no"].map(Into::into).into();
        // A replica need not wait for others that might come.
        arguments.extend(["--repl-diskless-sync-delay", "0"].map(Into::into));
        arguments.extend(match persistence {
            Persistence::Always => {
                ["--appendonly", "yes", "--appendfsync", "always", "--save", "60 1000"].map(Into::into)
            }
            Persistence::Off => ["--appendonly", "no", "--appendfsync", "no", "--save", ""].map(Into::into),
        });
        if let Some(password) = password {
            arguments.extend(["--requirepass".into(), password.into()]);
        }
        let mut server = Self {
            folder,
            host: host.into(),
            port: free_port(),
            password: password.map(Into::into),
            arguments,
            preload: None,
            small_disk: false,
            child: None,
        };
        server.resume();
        server
    }

    /// Starts a replica of this one, on the same host, with the same password and as durable, and waits until it has
    /// everything. It follows the primary through `primary`, which is this server's address or a door to it.
    ///
    /// # Panics
    /// When it does not start, or does not get everything within 20 s.
    pub fn replica(&self, primary: SocketAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("mailrelay-redis-").tempdir().expect("a temporary folder");
        let mut arguments = self.arguments.clone();
        arguments.extend(["--replicaof".into(), primary.ip().to_string(), primary.port().to_string()]);
        if let Some(password) = &self.password {
            arguments.extend(["--masterauth".into(), password.clone()]);
        }
        let mut replica = Self {
            folder,
            host: self.host.clone(),
            port: free_port(),
            password: self.password.clone(),
            arguments,
            preload: None,
            small_disk: false,
            child: None,
        };
        replica.resume();
        let linked = until(Duration::from_secs(20), || {
            let has = |section, fact| replica.command(&["INFO", section]).is_ok_and(|info| info.contains(fact));
            // Until it has written all it was given into a new AOF, it writes nothing else into the old one.
            has("replication", "master_link_status:up")
                && has("persistence", "aof_rewrite_in_progress:0")
                && has("persistence", "aof_rewrite_scheduled:0")
        });
        assert!(linked, "the replica on port {} does not follow {primary}", replica.port);
        replica
    }

    /// Makes a replica a primary, as an operator or Sentinel does; it stays one after a restart.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn promote(&mut self) {
        self.command(&["REPLICAOF", "NO", "ONE"]).expect("a replica that answers");
        if let Some(at) = self.arguments.iter().position(|argument| argument == "--replicaof") {
            self.arguments.drain(at..at + 3);
        }
    }

    /// Sends one command over a connection of its own and returns the answer as text, arrays line by line.
    ///
    /// # Errors
    /// What Redis or the system said instead.
    pub fn command(&self, words: &[&str]) -> Result<String, String> {
        self.command_as(None, words)
    }

    /// The same as a named user with a password.
    ///
    /// # Errors
    /// What Redis or the system said instead.
    pub fn command_as(&self, user: Option<(&str, &str)>, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("timeout");
        command.args(["5", "redis-cli", "-e", "-h", &self.host, "-p", &self.port.to_string()]);
        match (user, &self.password) {
            (Some((user, password)), _) => {
                command.args(["--user", user]).env("REDISCLI_AUTH", password);
            }
            (None, Some(password)) => {
                command.env("REDISCLI_AUTH", password);
            }
            (None, None) => {}
        }
        let output = command.args(words).stdin(Stdio::null()).output();
        let output =
            output.map_err(|error| format!("redis-cli does not start (Debian package redis-tools): {error}"))?;
        let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if output.status.success() { Ok(said) } else { Err(format!("{said}{complained}").trim().to_owned()) }
    }

    /// `redis://host:port`, without the password.
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    /// The password, when there is one.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it was started on a name instead of an address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host.parse().expect("an address"), self.port)
    }

    /// The folder that holds its data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it as a crash would, with SIGKILL. Data that was persisted stays.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it has ended by itself, as it does when it cannot write its files.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("the state of our own child").is_some())
    }

    /// Deletes what it has written, so that it comes back empty.
    ///
    /// # Panics
    /// When it runs, or a file cannot be deleted.
    pub fn lose_data(&mut self) {
        assert!(self.has_ended(), "it still writes");
        for name in FILES {
            let path = self.folder.path().join(name);
            let lost = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            assert!(lost.is_ok() || !path.exists(), "cannot delete {}: {lost:?}", path.display());
        }
    }

    /// Copies what it has written so far, as a backup does; it may run meanwhile.
    ///
    /// # Panics
    /// When a file cannot be copied.
    pub fn copy_data(&self) -> DataCopy {
        let copy = DataCopy { folder: tempfile::tempdir().expect("a temporary folder") };
        for name in FILES {
            copy_all(&self.folder.path().join(name), &copy.folder.path().join(name));
        }
        copy
    }

    /// Goes back to a copy, for the next start.
    ///
    /// # Panics
    /// When it runs, or a file cannot be copied.
    pub fn restore_data(&mut self, copy: &DataCopy) {
        self.lose_data();
        copy_all(copy.folder.path(), self.folder.path());
    }

    /// Puts its folder on a disk (tmpfs) of so many mebibytes, with what is in it; it restarts on the way. Needs root.
    ///
    /// # Panics
    /// When the disk cannot be mounted or the data does not fit.
    pub fn move_to_small_disk(&mut self, mebibytes: u32) {
        self.crash();
        let kept = tempfile::tempdir().expect("a temporary folder");
        copy_all(self.folder.path(), kept.path());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "mailrelay-redis"]).arg(self.folder.path());
        let mounted = mount.output().expect("mount starts");
        assert!(mounted.status.success(), "no tmpfs is mounted (the test runs as root): {mounted:?}");
        self.small_disk = true;
        copy_all(kept.path(), self.folder.path());
        self.resume();
    }

    /// Puts its folder back where it was before [`RedisServer::move_to_small_disk`], with what is in it; it restarts on the
    /// way. Does nothing when it is there already.
    ///
    /// # Panics
    /// When the disk cannot be unmounted or Redis does not start.
    pub fn leave_small_disk(&mut self) {
        if !self.small_disk {
            return;
        }
        self.crash();
        let kept = tempfile::tempdir().expect("a temporary folder");
        let _ = fs::remove_file(self.filler());
        copy_all(self.folder.path(), kept.path());
        let unmounted = Command::new("umount").arg(self.folder.path()).output().expect("umount starts");
        assert!(unmounted.status.success(), "the small disk stays: {unmounted:?}");
        self.small_disk = false;
        self.lose_data();
        copy_all(kept.path(), self.folder.path());
        self.resume();
    }

    /// Fills the small disk to its last byte; [`RedisServer::make_room`] undoes it.
    ///
    /// # Panics
    /// When it is not on a small disk.
    pub fn fill_disk(&self) {
        assert!(self.small_disk, "it would fill the machine's disk");
        let mut filler = fs::File::create(self.filler()).expect("a file");
        let mut block = vec![0; 1 << 16];
        // Large blocks as long as there is room for them, then single bytes: the first failure may have written a part.
        while filler.write_all(&block).is_ok() {}
        block.truncate(1);
        while filler.write_all(&block).is_ok() {}
    }

    /// Gives the small disk its room back.
    ///
    /// # Panics
    /// When the disk was not full.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the file that fills the disk");
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// Restarts it with a wall clock that can be moved (`WallClock::of` its process id), now and at each start to come.
    ///
    /// # Panics
    /// When it does not start.
    pub fn take_clock(&mut self, library: &ClockLibrary) {
        self.preload = Some(library.path());
        self.crash();
        self.resume();
    }

    /// Restarts it with the machine's clock.
    ///
    /// # Panics
    /// When it does not start.
    pub fn give_clock_back(&mut self) {
        self.preload = None;
        self.crash();
        self.resume();
    }

    /// Starts it again on the same port with what was persisted, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&mut self) {
        self.launch();
        let answers = until(Duration::from_secs(30), || self.answers() || self.has_ended());
        if !answers || self.has_ended() {
            let log = fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default();
            panic!("redis-server on port {} ended, or did not answer within 30 s; its log:\n{log}", self.port);
        }
    }

    /// Starts it, as a supervisor does that knows nothing of whether it can start.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn launch(&mut self) {
        self.crash();
        let preload = self.preload.iter().map(|library| ("LD_PRELOAD", library));
        let child = Command::new("redis-server")
            .envs(preload)
            .args(["--port", &self.port.to_string(), "--dir"])
            .arg(self.folder.path())
            .args(["--logfile", "redis.log"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C ends the program that started it, which still needs it to clean up.
            .process_group(0)
            .spawn()
            .expect("redis-server starts (Debian package redis-server; `make setup` installs it)");
        self.child = Some(child);
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// Stops (SIGSTOP) the process without ending it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a paused process go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn unpause(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().expect("redis-server runs");
        kill(Pid::from_raw(pid), signal).expect("the signal is delivered");
    }

    /// Whether it answers at all, if only by asking for a password.
    pub fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((self.host.as_str(), self.port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut answer = [0; 5];
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && (&answer == b"+PONG" || &answer == b"-NOAU")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.crash();
        if self.small_disk {
            let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        }
    }
}

/// Copies a file, or a folder with all that is in it. What goes away meanwhile is left out.
fn copy_all(from: &Path, to: &Path) {
    if from.is_file() {
        let copied = fs::copy(from, to);
        assert!(copied.is_ok() || !from.exists(), "cannot copy {}: {copied:?}", from.display());
    }
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).expect("a folder");
    for entry in entries.flatten() {
        copy_all(&entry.path(), &to.join(entry.file_name()));
    }
}
