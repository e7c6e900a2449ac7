//! The mail server of a relay under test: the sink, which fails on demand, or one that counts sessions as real ones do.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mailsink::{Behaviour, Sink, Stats};
use testkit::{CountingOptions, CountingServer, Exim, Limits, LogFigures, Postfix, free_port, session::Manners};
use tokio::time::{Instant, sleep};

use crate::{command, network::Disguise};

/// How often figures that nobody announces are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often the kernel's sockets are looked at: under churn its table is long.
const SOCKETS: Duration = Duration::from_millis(100);
/// Bytes that a slow reader reads in a second.
const SLOW_RATE: u64 = 20_000;
/// What waits for it in its own kernel at most: little, so that the rest waits in the client's, or whole mails.
const SHALLOW: usize = 32_768;
const DEEP: usize = 2_000_000;
/// What a real server takes anyway.
const BLINK: Duration = Duration::from_millis(100);
/// How large the mails are that a slow reader gets; others get small ones.
const LARGE: usize = 300_000;
const LARGER: usize = 800_000;

/// A kind of mail server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Side {
    /// The sink: refuses what is above its limit, fails on demand, counts until it has closed.
    #[default]
    Sink,
    /// Counts from `accept` to EOF, reset or its own time-out, and refuses nobody; so do all that follow.
    Plain,
    /// Reads large mails slowly; what it has not read waits in the client's kernel.
    Slow,
    /// The same, and it waits in the server's kernel, where no client sees it.
    Deep,
    /// Works for 8 s on each mail, after the final dot, and hears nothing meanwhile.
    Long,
    /// A process for each session, counted until it is collected.
    Processes,
    /// After QUIT its FIN goes first, and it counts until the client's comes.
    HalfClose,
    /// Debian's Postfix with `smtpd_client_connection_count_limit`, to which all pods are one client.
    Postfix,
    /// Debian's Exim with `smtp_accept_max`.
    Exim,
}

/// What a scenario asks of its server, whatever side it is.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Sessions that it is meant to have.
    pub budget: usize,
    /// What it takes for each mail.
    pub pause: Duration,
    /// Its own time-out.
    pub timeout: Duration,
}

/// A running mail server.
pub enum Server {
    /// The sink.
    Sink(Sink),
    /// One of ours that counts as real ones do.
    Counting(CountingServer),
    /// Postfix.
    Postfix(Postfix, Watch, Disguise),
    /// Exim.
    Exim(Exim, Watch),
}

impl Side {
    /// As it is called in reports and by `ONLY`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Plain => "plain",
            Self::Slow => "slow",
            Self::Deep => "deep",
            Self::Long => "long",
            Self::Processes => "processes",
            Self::HalfClose => "half-close",
            Self::Postfix => "postfix",
            Self::Exim => "exim",
        }
    }

    /// Bytes of the text of its mails; nothing: a line.
    pub fn mail_size(self) -> Option<usize> {
        match self {
            Self::Slow => Some(LARGE),
            Self::Deep => Some(LARGER),
            _ => None,
        }
    }

    /// How long this side may go on with what it has when a client is gone: beyond that it counts by its time-out only.
    pub fn pause(self, wished: Duration) -> Duration {
        match self {
            Self::Long => Duration::from_secs(8),
            // They know whole seconds only.
            Self::Postfix | Self::Exim if wished < BLINK => Duration::ZERO,
            Self::Postfix | Self::Exim => Duration::from_secs(wished.as_secs().max(1)),
            _ => wished,
        }
    }

    /// Starts a server of this kind; never the sink.
    pub(crate) async fn start(self, address: IpAddr, terms: Terms) -> Result<Server> {
        tokio::task::spawn_blocking(move || self.launch(address, terms)).await?
    }

    fn launch(self, address: IpAddr, terms: Terms) -> Result<Server> {
        let pause = self.pause(terms.pause);
        let limits = Limits { sessions: terms.budget, timeout: terms.timeout, pause };
        let counting = CountingOptions {
            address,
            budget: terms.budget,
            manners: Manners { pause, rate: self.mail_size().map(|_| SLOW_RATE) },
            buffer: match self {
                Self::Slow => Some(SHALLOW),
                Self::Deep => Some(DEEP),
                _ => None,
            },
            timeout: terms.timeout,
            half_close: self == Self::HalfClose,
            program: None,
        };
        match self {
            Self::Sink => anyhow::bail!("the sink is started by its options"),
            Self::Processes => {
                let program = Some(command::beside("smtp-session")?);
                Ok(Server::Counting(CountingServer::start(CountingOptions { program, ..counting })))
            }
            Self::Plain | Self::Slow | Self::Deep | Self::Long | Self::HalfClose => {
                Ok(Server::Counting(CountingServer::start(counting)))
            }
            Self::Postfix => {
                let place = SocketAddr::new(address, free_port());
                let disguise = Disguise::of_clients(place)?;
                let postfix = Postfix::discarding(place, limits);
                Ok(Server::Postfix(postfix, Watch::start(place.port()), disguise))
            }
            Self::Exim => {
                let place = SocketAddr::new(address, free_port());
                let exim = Exim::start(&exim()?, place, limits);
                Ok(Server::Exim(exim, Watch::start(place.port())))
            }
        }
    }
}

/// Debian's Exim, unpacked into the cache folder.
fn exim() -> Result<PathBuf> {
    let output = std::process::Command::new(command::repository().join("hack/exim")).output().context("hack/exim")?;
    ensure!(output.status.success(), "hack/exim failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

impl Server {
    /// Where it listens.
    pub fn smtp(&self) -> SocketAddr {
        match self {
            Self::Sink(sink) => sink.smtp(),
            Self::Counting(server) => server.address(),
            Self::Postfix(postfix, ..) => postfix.address(),
            Self::Exim(exim, _) => exim.address(),
        }
    }

    /// The certificate that clients must trust, in PEM.
    pub fn certificate(&self) -> Option<&str> {
        match self {
            Self::Sink(sink) => sink.certificate(),
            _ => None,
        }
    }

    /// What it has counted so far; of a real one, what its log and the kernel's sockets say.
    pub fn stats(&self) -> Stats {
        match self {
            Self::Sink(sink) => sink.stats(),
            Self::Counting(server) => {
                let counted = server.counted();
                let (open, sessions) = (counted.open, counted.sessions);
                with_mails(counted.taken, Stats { open, peak: counted.peak, sessions, ..Stats::default() })
            }
            Self::Postfix(postfix, watch, _) => real(&postfix.figures(), watch),
            Self::Exim(exim, watch) => real(&exim.figures(), watch),
        }
    }

    /// For how long it counted more than it is meant to, where that is known.
    pub fn above(&self) -> Option<Duration> {
        match self {
            Self::Counting(server) => Some(server.counted().above),
            _ => None,
        }
    }

    /// The Message-IDs of the mails that it took, each as often as it did, in order.
    pub fn taken(&self) -> Vec<String> {
        match self {
            Self::Sink(sink) => sink.journal().into_iter().map(|entry| entry.message_id).collect(),
            Self::Counting(server) => server.taken(),
            Self::Postfix(postfix, ..) => postfix.taken(),
            Self::Exim(exim, _) => exim.taken(),
        }
    }

    /// Waits until the figures fit; the last ones seen are the error when they don't within `limit`.
    pub async fn wait_for(&self, limit: Duration, fits: impl Fn(&Stats) -> bool) -> Result<Stats, Stats> {
        if let Self::Sink(sink) = self {
            return sink.wait_for(limit, fits).await;
        }
        let deadline = Instant::now() + limit;
        loop {
            let stats = self.stats();
            if fits(&stats) {
                return Ok(stats);
            }
            if Instant::now() > deadline {
                return Err(stats);
            }
            sleep(LOOK).await;
        }
    }

    /// From now on mails are taken as fast as they come, as far as this server can be told; so that a scenario ends.
    pub fn hurry(&self) {
        if let Self::Counting(server) = self {
            server.treat(Manners::default());
        }
    }

    /// One that counts as real ones do.
    ///
    /// # Panics
    /// When the scenario asked for another one.
    pub fn counting(&self) -> &CountingServer {
        let Self::Counting(server) = self else { panic!("this server does not count for us") };
        server
    }

    /// The sink.
    ///
    /// # Panics
    /// When the scenario asked for another server.
    pub fn sink(&self) -> &Sink {
        let Self::Sink(sink) = self else { panic!("only the sink does that on demand") };
        sink
    }

    /// Whether it is the sink, which does on demand whatever a scenario needs.
    pub fn is_sink(&self) -> bool {
        matches!(self, Self::Sink(_))
    }

    /// The sink's behaviour from now on, in open sessions too.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.sink().set_behaviour(behaviour);
    }
}

/// What a real server's log says, and the kernel's sockets.
fn real(figures: &LogFigures, watch: &Watch) -> Stats {
    let (open, sessions) = (watch.open(), figures.sessions);
    let stats = Stats { open, peak: figures.peak, rejected: figures.refused, sessions, ..Stats::default() };
    Stats { peak_attempted: stats.peak.max(watch.peak()), ..with_mails(figures.taken, stats) }
}

/// The figures that follow from the others: such servers let everybody in, and what comes twice is found by its id.
fn with_mails(taken: u64, mut stats: Stats) -> Stats {
    stats.peak_attempted = stats.peak;
    stats.accepted = taken;
    stats.unique_message_ids = usize::try_from(taken).unwrap_or(usize::MAX);
    stats
}

/// Looks at the kernel's sockets: what processes of the server have not closed yet.
pub struct Watch {
    open: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(port: u16) -> Self {
        let watch = Self { open: Arc::default(), peak: Arc::default(), stop: Arc::default() };
        let (open, peak, stop) = (Arc::clone(&watch.open), Arc::clone(&watch.peak), Arc::clone(&watch.stop));
        thread::spawn(move || {
            let mut before = HashSet::new();
            while !stop.load(Ordering::Relaxed) {
                let now = sockets(port).unwrap_or_default();
                // The table is not read in one moment. What is in two of them was there at once, between both.
                peak.fetch_max(now.intersection(&before).count(), Ordering::Relaxed);
                open.store(now.len(), Ordering::Relaxed);
                before = now;
                thread::sleep(SOCKETS);
            }
        });
        watch
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The sockets of a port's sessions that a process of this network namespace has, by inode: ESTABLISHED (01) or `CLOSE_WAIT`
/// (08). One that was not accepted yet has no inode.
fn sockets(port: u16) -> Result<HashSet<u64>> {
    let table = fs::read_to_string("/proc/self/net/tcp").context("cannot read /proc/self/net/tcp")?;
    let ours = format!(":{port:04X}");
    let open = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_open = columns.len() > 9 && columns[1].ends_with(&ours) && ["01", "08"].contains(&columns[3]);
        columns.get(9).filter(|_| is_open)?.parse().ok().filter(|inode| *inode != 0)
    });
    Ok(open.collect())
}
