//! The network between the simulated processes: connections that behave as TCP's do, with latency, cuts that are made
//! good by sending again, and machines that vanish without a word.

mod socket;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
pub use socket::{Interface, Port, Stream};

use crate::{
    plan::Broken,
    process::{Time, now},
};

/// A place in the network: a pod, a controller, a server.
pub type Place = u32;

/// How long a packet takes before it is sent again, at least and at most.
const RESEND_MS: (u64, u64) = (100, 300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
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

/// What travels.
#[derive(Debug)]
enum Packet {
    Syn,
    SynAck,
    Ack,
    Data(Vec<u8>),
    Fin,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Established,
    Refused,
}

/// One end of a connection, as its kernel has it.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states of one thing")]
struct End {
    /// On their way to this end, in order.
    coming: VecDeque<Packet>,
    /// When the last of them arrives.
    last: Time,
    ready: VecDeque<u8>,
    eof: bool,
    reset: bool,
    reader: Option<Waker>,
    /// We sent FIN.
    ended: bool,
    /// No process has it any more.
    closed: bool,
}

#[derive(Debug)]
struct Conn {
    places: [Place; 2],
    state: State,
    connector: Option<Waker>,
    client: End,
    server: End,
}

impl Conn {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn place(&self, side: Side) -> Place {
        self.places[side as usize]
    }
}

#[derive(Debug, Default)]
struct Listener {
    refuses: bool,
    backlog: VecDeque<u64>,
    acceptor: Option<Waker>,
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

struct Inner {
    chance: SmallRng,
    latency: Latency,
    conns: BTreeMap<u64, Conn>,
    /// When something arrives, for which connection, at which end.
    arrivals: BinaryHeap<Reverse<(Time, u64, u64, Side)>>,
    serial: u64,
    listeners: BTreeMap<Place, Listener>,
    /// From, to.
    cuts: BTreeSet<(Place, Place)>,
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

impl Net {
    pub fn new(seed: u64, latency: Latency, broken: Broken) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            chance: SmallRng::seed_from_u64(seed),
            latency,
            conns: BTreeMap::new(),
            arrivals: BinaryHeap::new(),
            serial: 0,
            listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            off: BTreeSet::new(),
            broken,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic inside")
    }

    /// Delivers everything that arrives until `time`.
    pub fn deliver(&self, time: Time) {
        let mut woken = Vec::new();
        {
            let mut inner = self.inner();
            while let Some(Reverse((at, _, _, _))) = inner.arrivals.peek() {
                if *at > time {
                    break;
                }
                let Some(Reverse((_, _, conn, side))) = inner.arrivals.pop() else { break };
                inner.arrive(conn, side, time, &mut woken);
            }
        }
        for waker in woken {
            waker.wake();
        }
    }

    /// Opens a port that everybody may connect to.
    pub fn listen(&self, place: Place) -> Port {
        self.inner().listeners.insert(place, Listener::default());
        Port { net: self.clone(), place }
    }

    /// Whether connections are refused from now on.
    pub fn refuse(&self, place: Place, refuses: bool) {
        if let Some(listener) = self.inner().listeners.get_mut(&place) {
            listener.refuses = refuses;
        }
    }

    /// Cuts, or heals, the way from one place to another; packets on it are sent again and again meanwhile.
    pub fn cut(&self, from: Place, to: Place, is_cut: bool) {
        let mut inner = self.inner();
        if is_cut {
            inner.cuts.insert((from, to));
        } else {
            inner.cuts.remove(&(from, to));
        }
    }

    /// Heals everything.
    pub fn heal(&self) {
        self.inner().cuts.clear();
    }

    /// Takes a place off the net: its connections are forgotten there without a word to the others. `off`: what comes
    /// for it is lost; else its kernel answers with RST.
    pub fn vanish(&self, place: Place) {
        let mut inner = self.inner();
        inner.off.insert(place);
        for conn in inner.conns.values_mut() {
            for side in [Side::Client, Side::Server] {
                if conn.place(side) == place {
                    let end = conn.end(side);
                    (end.closed, end.ended) = (true, true);
                    conn.end(side.other()).coming.clear();
                }
            }
        }
    }

    /// Closes all connections that a process at `place` made, as the kernel does at its end.
    pub fn hang_up(&self, place: Place) {
        let mut inner = self.inner();
        let made: Vec<u64> =
            inner.conns.iter().filter(|(_, conn)| conn.places[0] == place).map(|(id, _)| *id).collect();
        for conn in made {
            inner.close(conn, Side::Client);
        }
    }

    /// Puts it on the net again.
    pub fn appear(&self, place: Place) {
        self.inner().off.remove(&place);
    }

    /// How many connections to `server` the kernel at `client` still holds open although no process has them: the
    /// server has not acknowledged their end.
    pub fn left_behind(&self, client: Place, server: Place) -> u32 {
        let inner = self.inner();
        let left = |conn: &&Conn| {
            conn.places == [client, server]
                && conn.state == State::Established
                && conn.client.closed
                && conn.server.coming.iter().any(|packet| matches!(packet, Packet::Fin | Packet::Data(_)))
        };
        u32::try_from(inner.conns.values().filter(left).count()).expect("few")
    }
}

impl Inner {
    /// Puts a packet on its way from `side`.
    fn send(&mut self, conn: u64, side: Side, packet: Packet) {
        let Latency { least_ms, jitter_ms, late_per_mille } = self.latency;
        let mut ms = least_ms + self.chance.random_range(0..=jitter_ms);
        if self.chance.random_range(0..1000) < late_per_mille {
            ms += self.chance.random_range(0..2_000);
        }
        let Some(found) = self.conns.get_mut(&conn) else { return };
        let packet = match packet {
            Packet::Data(bytes) if self.broken == Broken::NoCommitting => Packet::Data(without_committing(bytes)),
            other => other,
        };
        let to = found.end(side.other());
        to.last = to.last.max(now() + Duration::from_millis(ms));
        let at = to.last;
        to.coming.push_back(packet);
        self.serial += 1;
        self.arrivals.push(Reverse((at, self.serial, conn, side.other())));
    }

    /// The next packet for this end.
    fn arrive(&mut self, id: u64, side: Side, time: Time, woken: &mut Vec<Waker>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (from, to) = (conn.place(side.other()), conn.place(side));
        let is_reset = matches!(conn.end(side).coming.front(), Some(Packet::Reset));
        if self.cuts.contains(&(from, to)) && !is_reset {
            let wait = Duration::from_millis(self.chance.random_range(RESEND_MS.0..RESEND_MS.1));
            self.serial += 1;
            self.arrivals.push(Reverse((time + wait, self.serial, id, side)));
            return;
        }
        let Some(packet) = conn.end(side).coming.pop_front() else { return };
        if self.off.contains(&to) {
            return;
        }
        match packet {
            Packet::Syn => match self.listeners.get(&to) {
                Some(listener) if !listener.refuses => self.send(id, side, Packet::SynAck),
                _ => self.send(id, side, Packet::Reset),
            },
            Packet::SynAck => {
                if conn.client.closed {
                    // Given up meanwhile: the server's kernel forgets it, its process never hears of it.
                    self.conns.remove(&id);
                    return;
                }
                conn.state = State::Established;
                woken.extend(conn.connector.take());
                self.send(id, side, Packet::Ack);
            }
            Packet::Ack => match self.listeners.get_mut(&to) {
                Some(listener) if !listener.refuses => {
                    listener.backlog.push_back(id);
                    woken.extend(listener.acceptor.take());
                }
                _ => self.send(id, side, Packet::Reset),
            },
            Packet::Data(bytes) => {
                let end = conn.end(side);
                if end.closed {
                    self.send(id, side, Packet::Reset);
                } else {
                    end.ready.extend(bytes);
                    woken.extend(end.reader.take());
                }
            }
            Packet::Fin => {
                // The server's kernel has acknowledged the client's end.
                let early = self.broken == Broken::EofAtAck && side == Side::Server;
                let end = conn.end(side);
                end.eof = true;
                woken.extend(end.reader.take());
                if early {
                    conn.client.eof = true;
                    woken.extend(conn.client.reader.take());
                }
            }
            Packet::Reset => {
                if conn.state == State::Connecting {
                    conn.state = State::Refused;
                    woken.extend(conn.connector.take());
                }
                let end = conn.end(side);
                end.reset = true;
                end.ready.clear();
                woken.extend(end.reader.take());
            }
        }
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let over = |end: &End| end.closed && end.coming.is_empty();
        if over(&conn.client) && over(&conn.server) {
            self.conns.remove(&id);
        }
    }

    /// RST overtakes everything, and always arrives: a real one that is lost is not sent again and leaves no socket behind,
    /// so nobody can know of it, and the product promises nothing for it.
    fn reset(&mut self, id: u64, side: Side) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.end(side.other()).coming.clear();
            self.send(id, side, Packet::Reset);
        }
    }

    fn close(&mut self, id: u64, side: Side) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let established = conn.state == State::Established;
        let end = conn.end(side);
        if end.closed {
            return;
        }
        end.closed = true;
        let (unread, ended, reset) = (!end.ready.is_empty(), end.ended, end.reset);
        end.ended = true;
        if established && !reset {
            if unread {
                self.reset(id, side);
            } else if !ended {
                self.send(id, side, Packet::Fin);
            }
        }
        self.forget_if_over(id);
    }
}

/// A worker that never says `committing`.
fn without_committing(bytes: Vec<u8>) -> Vec<u8> {
    let (word, other) = (b"$10\r\ncommitting\r\n", b"$7\r\nsending\r\n");
    match bytes.windows(word.len()).position(|window| window == word) {
        Some(at) => [&bytes[..at], other, &bytes[at + word.len()..]].concat(),
        None => bytes,
    }
}
