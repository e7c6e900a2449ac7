//! The network between the simulated processes: connections that behave as Linux's do, with latency; cuts that are made
//! good by sending again as long as somebody is there to do so; boxes on the way that forget, reset and delay; network
//! namespaces that vanish with all that is in them.

mod kernel;
mod socket;
mod traffic;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::Duration,
};

use kernel::{Conn, End, Packet};
pub use kernel::{Patience, Tcp};
use rand::{SeedableRng, rngs::SmallRng};
pub use socket::{Interface, Port, Stream};

use crate::{broken::Broken, process::Time};

/// A place in the network, with kernel and addresses of its own: a pod, a controller, a server.
pub type Place = u32;

/// How long a packet takes before it is sent again, at least and at most; longer each time.
const RESEND_MS: (u64, u64) = (100, 300);
/// How long a SYN takes that comes again since the first one met an older connection.
const SYN_AGAIN: Duration = Duration::from_secs(1);
/// Buffers of those who are always fast.
const AMPLE: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What happens at its time at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next packet.
    Arrival,
    /// A box's RST, which comes in nobody's order.
    BoxReset,
    /// The kernel looks whether it has kept the end for long enough.
    Timer,
}

#[derive(Debug, Default)]
struct Listener {
    refuses: bool,
    backlog: VecDeque<u64>,
    acceptor: Option<Waker>,
    room: usize,
}

/// How long packets take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The least: the length of a window.
    pub least_ms: u64,
    /// What may be added.
    pub jitter_ms: u64,
    /// How many of a thousand are late by up to two seconds.
    pub late_per_mille: u32,
}

/// What the network is like.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    pub latency: Latency,
    pub patience: Patience,
    /// What a client's kernel takes before it is sent.
    pub buffer: usize,
    /// How many ports a client uses.
    pub ports: u16,
}

/// When, in which order, at which connection and side, what.
type Due = (Time, u64, u64, Side, Event);

struct Inner {
    chance: SmallRng,
    ways: Ways,
    conns: BTreeMap<u64, Conn>,
    agenda: BinaryHeap<Reverse<Due>>,
    serial: u64,
    listeners: BTreeMap<Place, Listener>,
    /// From, to.
    cuts: BTreeSet<(Place, Place)>,
    /// From, to: how much longer packets take.
    delays: BTreeMap<(Place, Place), Duration>,
    off: BTreeSet<Place>,
    broken: Broken,
}

/// The network; clones are the same.
#[derive(Clone)]
pub struct Net(Arc<Mutex<Inner>>);

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

/// What a box on the way does to connections. It has forgotten them from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Box {
    /// It drops what comes; whether it answers the client with RST.
    Forgets { answers: bool },
    /// It resets these sides; the other one stands on.
    Resets { client: bool, server: bool },
}

impl Net {
    pub fn new(seed: u64, ways: Ways, broken: Broken) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            chance: SmallRng::seed_from_u64(seed),
            ways,
            conns: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            serial: 0,
            listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            delays: BTreeMap::new(),
            off: BTreeSet::new(),
            broken,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic inside")
    }

    /// Lets everything happen that happens until `time`.
    pub fn deliver(&self, time: Time) {
        let mut woken = Vec::new();
        {
            let mut inner = self.inner();
            while let Some(Reverse((at, ..))) = inner.agenda.peek() {
                if *at > time {
                    break;
                }
                let Some(Reverse((_, _, conn, side, event))) = inner.agenda.pop() else { break };
                match event {
                    Event::Arrival => inner.arrive(conn, side, time, &mut woken),
                    Event::BoxReset => inner.take_reset(conn, side, &mut woken),
                    Event::Timer => inner.expire(conn, side, time),
                }
                inner.forget_if_over(conn);
            }
        }
        for waker in woken {
            waker.wake();
        }
    }

    /// Opens a port that everybody may connect to; `room`: how much may come unread.
    pub fn listen(&self, place: Place, room: Option<usize>) -> Port {
        let listener = Listener { room: room.unwrap_or(AMPLE), ..Listener::default() };
        self.inner().listeners.insert(place, listener);
        Port { net: self.clone(), place }
    }

    /// Whether connections are refused from now on.
    pub fn refuse(&self, place: Place, refuses: bool) {
        if let Some(listener) = self.inner().listeners.get_mut(&place) {
            listener.refuses = refuses;
        }
    }

    /// Cuts, or heals, the way from one place to another; packets on it are lost, and sent again and again by those who
    /// are still there.
    pub fn cut(&self, from: Place, to: Place, is_cut: bool) {
        let mut inner = self.inner();
        if is_cut {
            inner.cuts.insert((from, to));
        } else {
            inner.cuts.remove(&(from, to));
        }
    }

    /// A box on the way holds packets back for so long from now on.
    pub fn delay(&self, from: Place, to: Place, by: Duration) {
        let mut inner = self.inner();
        if by.is_zero() {
            inner.delays.remove(&(from, to));
        } else {
            inner.delays.insert((from, to), by);
        }
    }

    /// Heals everything. Clients that nobody would ever answer any more, since a box forgot their connection or the server's
    /// kernel gave it up, hear of it: they would wait for minutes.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.cuts.clear();
        inner.delays.clear();
        let waits = |conn: &Conn| {
            let given_up = conn.server.tcp == Tcp::Closed && conn.client.tcp != Tcp::SynSent;
            conn.forgotten.is_some() || (given_up && conn.client.coming.is_empty())
        };
        let waiting: Vec<u64> = inner.conns.iter().filter(|(_, conn)| waits(conn)).map(|(id, _)| *id).collect();
        for id in waiting {
            inner.reset_by_box(id, Side::Client);
        }
    }

    /// A box on the way does something to all connections between two places; to how many.
    pub fn interfere(&self, client: Place, server: Place, what: Box) -> u64 {
        self.inner().interfere(client, server, what)
    }

    /// Takes a place off the net: its sockets are gone without a word to the others, sent is what is on its way. Until it
    /// appears again nothing gets there; then its kernel answers with RST.
    pub fn vanish(&self, place: Place) {
        let mut inner = self.inner();
        inner.off.insert(place);
        for conn in inner.conns.values_mut() {
            for side in [Side::Client, Side::Server] {
                if conn.place(side) == place {
                    let end = conn.end(side);
                    end.held = false;
                    end.die();
                }
            }
        }
    }

    /// Puts it on the net again.
    pub fn appear(&self, place: Place) {
        self.inner().off.remove(&place);
    }

    /// Closes all connections that processes at `place` made, as the kernel does at their end.
    pub fn hang_up(&self, place: Place) {
        let mut woken = Vec::new();
        let mut inner = self.inner();
        let made: Vec<u64> = inner
            .conns
            .iter()
            .filter(|(_, conn)| conn.places[0] == place && conn.client.held)
            .map(|(id, _)| *id)
            .collect();
        for conn in made {
            inner.close(conn, Side::Client, &mut woken);
        }
        drop(inner);
        for waker in woken {
            waker.wake();
        }
    }

    /// The kernel's table of a client's connections to `server`: local and remote address, state, and whether a process
    /// has it.
    pub fn table(&self, client: Place, server: Place) -> Vec<(SocketAddr, SocketAddr, Tcp, bool)> {
        let inner = self.inner();
        let of = |conn: &&Conn| conn.places == [client, server] && conn.client.tcp != Tcp::Closed;
        let row = |conn: &Conn| (address(client, conn.port), conn.remote, conn.client.tcp, conn.client.held);
        inner.conns.values().filter(of).map(row).collect()
    }
}

/// The address of a pod's network namespace.
pub fn address(place: Place, port: u16) -> SocketAddr {
    let [_, _, high, low] = place.to_be_bytes();
    (Ipv4Addr::new(10, 1, high, low), port).into()
}
