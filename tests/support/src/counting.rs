//! A mail server that counts sessions as real ones do.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};
use tempfile::NamedTempFile;

use crate::session::{End, Manners, serve};

/// How long it waits for a call before it looks whether a process has ended.
const LOOK_MS: u8 = 1;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct CountingOptions {
    /// The address that clients know; it listens on all of them.
    pub address: IpAddr,
    /// Sessions that it is meant to have; it takes more, and says so.
    pub budget: usize,
    /// How it treats each session, at the start.
    pub manners: Manners,
    /// The buffer for what was not read yet, where it is not the kernel's usual one.
    pub buffer: Option<usize>,
    /// Its own time-out, after which it ends a silent session.
    pub timeout: Duration,
    /// After QUIT its FIN goes first, and it counts until the client's comes, as proxies do (`HAProxy`, Envoy, stunnel).
    pub half_close: bool,
    /// The program that serves one session on its standard input: a process for each session, counted until it is
    /// collected, as Exim, tcpserver, inetd and systemd do. It is started with the pause, the rate (0: none), the time-out
    /// and how long it stays after its end, the times in milliseconds; on standard error it writes the Message-IDs.
    pub program: Option<PathBuf>,
}

/// What it has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Sessions now.
    pub open: usize,
    /// The most at once.
    pub peak: usize,
    /// Sessions so far.
    pub sessions: u64,
    /// For how long there were more than it is meant to have.
    pub above: Duration,
    /// Mails taken so far.
    pub taken: u64,
}

#[derive(Debug, Default)]
struct Books {
    counted: Counted,
    by_peer: BTreeMap<IpAddr, usize>,
    above_since: Option<Instant>,
    taken: Vec<String>,
    manners: Manners,
    /// What processes have written down, and a line of it whose end is not there yet.
    journal: Option<BufReader<File>>,
    partial: String,
}

/// A server that takes whoever comes and counts each session from `accept` until it has read EOF or a reset, or until its
/// own time-out. Dropping it closes its ports; sessions end by themselves.
#[derive(Debug)]
pub struct CountingServer {
    options: CountingOptions,
    port: u16,
    books: Arc<Mutex<Books>>,
    journal: Arc<NamedTempFile>,
    stop: Arc<AtomicBool>,
}

impl CountingServer {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When the machine has no free port or thread left.
    pub fn start(options: CountingOptions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = listener.local_addr().expect("the address of a bound socket").port();
        let journal = NamedTempFile::with_prefix("mailrelay-counting-").expect("a temporary file");
        let read = options.program.as_ref().and_then(|_| journal.reopen().ok());
        let books = Books { manners: options.manners, journal: read.map(BufReader::new), ..Books::default() };
        let server = Self {
            options,
            port,
            books: Arc::new(Mutex::new(books)),
            journal: Arc::new(journal),
            stop: Arc::default(),
        };
        server.listen(listener);
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (self.options.address, self.port).into()
    }

    /// Listens on another port as well, and tells where: still one server with one count.
    ///
    /// # Panics
    /// When the machine has no free port or thread left.
    pub fn another_port(&self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = listener.local_addr().expect("the address of a bound socket").port();
        self.listen(listener);
        (self.options.address, port).into()
    }

    /// What it has counted so far.
    pub fn counted(&self) -> Counted {
        let mut books = lock(&self.books);
        books.read();
        let more = books.above_since.map_or(Duration::ZERO, |since| since.elapsed());
        let taken = books.taken.len().try_into().unwrap_or(u64::MAX);
        Counted { above: books.counted.above + more, taken, ..books.counted.clone() }
    }

    /// The sessions of one client now.
    pub fn open_from(&self, peer: IpAddr) -> usize {
        lock(&self.books).by_peer.get(&peer).copied().unwrap_or(0)
    }

    /// The Message-IDs of the mails that it took, in order.
    pub fn taken(&self) -> Vec<String> {
        let mut books = lock(&self.books);
        books.read();
        books.taken.clone()
    }

    /// From now on, in open sessions too, those of processes excepted.
    pub fn treat(&self, manners: Manners) {
        lock(&self.books).manners = manners;
    }

    fn listen(&self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("a socket that does not block");
        if let Some(bytes) = self.options.buffer {
            // Above the machine's usual limit too, which root may.
            setsockopt(&listener, RcvBufForce, &bytes).expect("a buffer of that size (the test runs as root)");
        }
        let server = Port {
            options: self.options.clone(),
            books: Arc::clone(&self.books),
            journal: Arc::clone(&self.journal),
            stop: Arc::clone(&self.stop),
        };
        thread::spawn(move || server.accept(&listener));
    }
}

impl Drop for CountingServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Port {
    options: CountingOptions,
    books: Arc<Mutex<Books>>,
    journal: Arc<NamedTempFile>,
    stop: Arc<AtomicBool>,
}

impl Port {
    /// One loop for calls and for processes that have ended, like Exim's: these are collected before the next call is taken.
    fn accept(&self, listener: &TcpListener) {
        let mut processes: Vec<(Child, IpAddr)> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_MS));
            processes.retain_mut(|(process, peer)| {
                let ended = !matches!(process.try_wait(), Ok(None));
                if ended {
                    self.count(*peer, false);
                }
                !ended
            });
            let Ok((stream, peer)) = listener.accept() else { continue };
            let peer = peer.ip();
            self.count(peer, true);
            // A socket that was just accepted takes these.
            let _ = stream.set_nonblocking(false).and(stream.set_nodelay(true));
            let limit = Some(self.options.timeout);
            let _ = stream.set_read_timeout(limit).and(stream.set_write_timeout(limit));
            if let Some(program) = &self.options.program {
                match self.spawn(program, stream) {
                    Some(process) => processes.push((process, peer)),
                    None => self.count(peer, false),
                }
                continue;
            }
            let session = Session {
                books: Arc::clone(&self.books),
                half_close: self.options.half_close,
                budget: self.options.budget,
                peer,
            };
            thread::spawn(move || session.run(&stream));
        }
    }

    fn spawn(&self, program: &PathBuf, stream: TcpStream) -> Option<Child> {
        let manners = lock(&self.books).manners;
        let words = [manners.pause.as_millis(), manners.rate.unwrap_or(0).into(), self.options.timeout.as_millis()];
        let journal = File::options().append(true).open(self.journal.path()).ok()?;
        Command::new(program)
            .args(words.map(|word| word.to_string()))
            .stdin(Stdio::from(OwnedFd::from(stream)))
            .stdout(Stdio::null())
            .stderr(journal)
            .spawn()
            .inspect_err(|error| eprintln!("counting: no process for a session: {error}"))
            .ok()
    }

    fn count(&self, peer: IpAddr, comes: bool) {
        lock(&self.books).count(peer, comes, self.options.budget);
    }
}

struct Session {
    books: Arc<Mutex<Books>>,
    half_close: bool,
    budget: usize,
    peer: IpAddr,
}

impl Session {
    fn run(&self, stream: &TcpStream) {
        let end = serve(stream, stream, || lock(&self.books).manners, |id| lock(&self.books).taken.push(id.to_owned()));
        if self.half_close && matches!(end, Ok(End::Quit)) && stream.shutdown(Shutdown::Write).is_ok() {
            let mut rest = [0; 64];
            let mut stream = stream;
            while matches!(stream.read(&mut rest), Ok(1..)) {}
        }
        // It is taken off the count before the socket closes: who sees the end and calls again is counted after this.
        lock(&self.books).count(self.peer, false, self.budget);
    }
}

impl Books {
    /// Takes over what processes have written down since.
    fn read(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        while matches!(journal.read_line(&mut self.partial), Ok(1..)) && self.partial.ends_with('\n') {
            self.taken.push(std::mem::take(&mut self.partial).trim_end().to_owned());
        }
    }

    fn count(&mut self, peer: IpAddr, comes: bool, budget: usize) {
        let of_peer = self.by_peer.entry(peer).or_default();
        if comes {
            *of_peer += 1;
            self.counted.open += 1;
            self.counted.sessions += 1;
        } else {
            *of_peer -= 1;
            self.counted.open -= 1;
        }
        let open = self.counted.open;
        if open > self.counted.peak {
            self.counted.peak = open;
            if open > budget {
                let by_peer: Vec<_> = self.by_peer.iter().filter(|(_, count)| **count > 0).collect();
                println!("counting: {open} sessions of {budget}: {by_peer:?}");
            }
        }
        match self.above_since {
            None if open > budget => self.above_since = Some(Instant::now()),
            Some(since) if open <= budget => {
                self.counted.above += since.elapsed();
                self.above_since = None;
            }
            _ => {}
        }
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
