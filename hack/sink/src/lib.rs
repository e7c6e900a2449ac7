//! A counting SMTP server: the oracle of mailrelay's promise in tests and in the demo.
//!
//! It counts sessions when `accept` returns and until it has closed its side, on EOF, on a reset, on its own time-out or
//! of its own accord, however long it takes until it looks; and longer on demand. It refuses the one beyond its limit with
//! `421 4.7.0`, keeps a journal of what it took, and fails on demand.

mod behaviour;
mod control;
mod session;
mod state;
mod tls;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

pub use behaviour::{Behaviour, Ending, Failure, FailureStage};
pub use state::{JournalEntry, Stats};

use session::Shared;
use state::State;
use tls::Tls;

/// User and password that clients must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub username: String,
    /// The password; the token for XOAUTH2.
    pub password: String,
}

/// How a sink is started.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Where SMTP listens; port 0 for a free one.
    pub smtp: SocketAddr,
    /// Where SMTP over TLS listens; needs `tls`.
    pub smtps: Option<SocketAddr>,
    /// Where figures and behaviour are served by HTTP.
    pub control: Option<SocketAddr>,
    /// Sessions allowed at once.
    pub limit: usize,
    /// Whether STARTTLS is offered.
    pub tls: bool,
    /// Names and addresses in the certificate.
    pub names: Vec<String>,
    /// Where `ca.crt` is written.
    pub tls_dir: Option<PathBuf>,
    /// Without it nobody need log in.
    pub login: Option<Login>,
    /// Entries are appended, one JSON a line; those that are there already count.
    pub journal: Option<PathBuf>,
    /// Whether [`Sink::messages`] has the messages themselves.
    pub keep_messages: bool,
    /// From the start.
    pub behaviour: Behaviour,
}

impl Default for SinkConfig {
    fn default() -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            smtp: anywhere,
            smtps: None,
            control: None,
            limit: 16,
            tls: false,
            names: vec!["localhost".into(), "127.0.0.1".into()],
            tls_dir: None,
            login: None,
            journal: None,
            keep_messages: false,
            behaviour: Behaviour::default(),
        }
    }
}

/// A sink at work; dropping it closes everything.
pub struct Sink {
    state: State,
    smtp: SocketAddr,
    smtps: Option<SocketAddr>,
    control: Option<SocketAddr>,
    certificate: Option<String>,
    ports: Vec<Port>,
    /// One for each port that is open, and the control's.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A port that mail comes to.
struct Port {
    address: SocketAddr,
    shared: Shared,
    implicit: bool,
}

impl Sink {
    /// Starts a sink; it listens when this returns. Fails when a port is taken or a file can't be written.
    pub async fn start(config: SinkConfig) -> io::Result<Self> {
        let state = State::new(config.limit, config.behaviour, config.keep_messages, config.journal.as_deref())?;
        let tls = if config.tls || config.smtps.is_some() {
            Some(Tls::new(&config.names, config.tls_dir.as_deref())?)
        } else {
            None
        };
        let certificate = tls.as_ref().map(|tls| tls.certificate.clone());
        let offered = tls.clone().filter(|_| config.tls);
        let shared = Shared { state: state.clone(), tls: offered, login: config.login.clone() };
        let mut ports = vec![Port { address: config.smtp, shared, implicit: false }];
        if let Some(address) = config.smtps {
            let shared = Shared { state: state.clone(), tls, login: config.login };
            ports.push(Port { address, shared, implicit: true });
        }
        let mut tasks = Vec::new();
        for port in &mut ports {
            let listener = TcpListener::bind(port.address).await?;
            port.address = listener.local_addr()?;
            tasks.push(port.serve(listener));
        }
        let (smtp, smtps) = (ports[0].address, ports.get(1).map(|port| port.address));
        let mut control = None;
        if let Some(address) = config.control {
            let listener = TcpListener::bind(address).await?;
            control = Some(listener.local_addr()?);
            tasks.push(tokio::spawn(accept_control(listener, state.clone())));
        }
        Ok(Self { state, smtp, smtps, control, certificate, ports, tasks: Mutex::new(tasks) })
    }

    /// Ends all sessions and closes the ports, as a server does that goes down: whoever connects is refused by the kernel.
    /// Figures, journal and behaviour stay. The control, if there is one, ends too.
    pub async fn go_down(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        // The sessions' own tasks end a moment after the one that accepted them.
        let mut changes = self.state.changes();
        let _ = changes.wait_for(|()| self.state.is_empty()).await;
    }

    /// Opens the same ports again. Fails when somebody else took one meanwhile.
    pub async fn come_up(&self) -> io::Result<()> {
        for port in &self.ports {
            let task = port.serve(TcpListener::bind(port.address).await?);
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        }
        Ok(())
    }

    /// Where SMTP listens.
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Where SMTP over TLS listens.
    pub fn smtps(&self) -> Option<SocketAddr> {
        self.smtps
    }

    /// Where HTTP listens.
    pub fn control(&self) -> Option<SocketAddr> {
        self.control
    }

    /// The certificate that clients must trust, in PEM.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// The figures now.
    pub fn stats(&self) -> Stats {
        self.state.stats()
    }

    /// What was taken, in order.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.state.journal()
    }

    /// The messages themselves, as they came (dots unstuffed), when `keep_messages` is set.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.state.messages()
    }

    /// The behaviour in force; what is left of each failure's times is in it.
    pub fn behaviour(&self) -> Behaviour {
        self.state.behaviour()
    }

    /// From now on, in open sessions too.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.state.set_behaviour(behaviour);
    }

    /// Waits until the figures fit; the last ones seen are the error when they don't within `limit`.
    pub async fn wait_for(&self, limit: Duration, fits: impl Fn(&Stats) -> bool) -> Result<Stats, Stats> {
        let mut changes = self.state.changes();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                let stats = self.stats();
                if fits(&stats) || changes.changed().await.is_err() {
                    return stats;
                }
            }
        };
        timeout(limit, waiting).await.map_err(|_| self.stats())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Port {
    fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        tokio::spawn(accept(listener, self.shared.clone(), self.implicit))
    }
}

/// Sessions end with the task that accepts them.
async fn accept(listener: TcpListener, shared: Shared, implicit: bool) {
    let mut sessions = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let number = shared.state.enter();
                sessions.spawn(session::serve(shared.clone(), stream, peer, implicit, number));
            }
            Err(error) => {
                eprintln!("mailsink: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        while sessions.try_join_next().is_some() {}
    }
}

async fn accept_control(listener: TcpListener, state: State) {
    let mut requests = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            requests.spawn(control::serve(state.clone(), stream));
        }
        while requests.try_join_next().is_some() {}
    }
}
