//! A private Redis.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{free_port, wait::until};

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
    child: Option<Child>,
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
            child: None,
        };
        server.resume();
        server
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

    /// Starts it again on the same port with what was persisted, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&mut self) {
        let child = Command::new("redis-server")
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
        let answers = until(Duration::from_secs(10), || self.answers());
        assert!(answers, "redis-server on port {} did not answer within 10 s", self.port);
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
        let child = self.child.as_ref().expect("redis-server runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the signal is delivered");
    }

    fn answers(&self) -> bool {
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
    }
}
