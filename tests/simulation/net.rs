//! The network between the simulated processes: connections that behave as Linux's do, with latency; cuts that are made
//! good by sending again as long as somebody is there to do so; boxes on the way that forget, reset and delay; network
//! namespaces that vanish with all that is in them.

mod kernel;
mod socket;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
    time::Duration,
};

use kernel::{Conn, End, Packet};
pub use kernel::{Patience, Tcp};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
pub use socket::{Interface, Port, Stream};

use crate::{
    plan::Broken,
    process::{Time, now},
};

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

struct Inner {
    chance: SmallRng,
    ways: Ways,
    conns: BTreeMap<u64, Conn>,
    agenda: BinaryHeap<Reverse<(Time, u64, u64, Side, Event)>>,
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

    /// Heals everything. Clients whose connections a box forgot hear of it: they would wait for an answer for minutes.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.cuts.clear();
        inner.delays.clear();
        let forgotten: Vec<u64> =
            inner.conns.iter().filter(|(_, conn)| conn.forgotten.is_some()).map(|(id, _)| *id).collect();
        for id in forgotten {
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

impl Inner {
    fn plan(&mut self, at: Time, conn: u64, side: Side, event: Event) {
        self.serial += 1;
        self.agenda.push(Reverse((at, self.serial, conn, side, event)));
    }

    /// A new connection of a process at `client`.
    fn connect(&mut self, client: Place, server: Place, remote: SocketAddr, buffer: Option<usize>) -> io::Result<u64> {
        let taken: BTreeSet<u16> = self
            .conns
            .values()
            .filter(|conn| conn.places == [client, server] && conn.client.tcp != Tcp::Closed)
            .map(|conn| conn.port)
            .collect();
        let free: Vec<u16> = (40_000..40_000 + self.ways.ports).filter(|port| !taken.contains(port)).collect();
        if free.is_empty() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let port = free[self.chance.random_range(0..free.len())];
        self.serial += 1;
        let id = self.serial;
        let mut own = End::new(AMPLE, buffer.unwrap_or(AMPLE));
        (own.tcp, own.held) = (Tcp::SynSent, true);
        let room = self.listeners.get(&server).map_or(AMPLE, |listener| listener.room);
        let places = [client, server];
        let conn = Conn { places, port, remote, client: own, server: End::new(room, AMPLE), forgotten: None };
        self.conns.insert(id, conn);
        self.send(id, Side::Client, Packet::Syn);
        Ok(id)
    }

    /// Puts a packet on its way from `side`.
    fn send(&mut self, conn: u64, side: Side, packet: Packet) {
        let Latency { least_ms, jitter_ms, late_per_mille } = self.ways.latency;
        let mut ms = least_ms + self.chance.random_range(0..=jitter_ms);
        if self.chance.random_range(0..1000) < late_per_mille {
            ms += self.chance.random_range(0..2_000);
        }
        let Some(found) = self.conns.get_mut(&conn) else { return };
        let (from, to) = (found.place(side), found.place(side.other()));
        let delay = self.delays.get(&(from, to)).copied().unwrap_or_default();
        let packet = match packet {
            Packet::Data(bytes) if self.broken == Broken::NoCommitting => Packet::Data(without_committing(bytes)),
            other => other,
        };
        let to = found.end(side.other());
        to.last = to.last.max(now() + Duration::from_millis(ms) + delay);
        let at = to.last;
        to.coming.push_back(packet);
        self.plan(at, conn, side.other(), Event::Arrival);
    }

    /// Sends what there is, as far as the other side has room.
    fn pump(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
        while let Some(packet) = self.conns.get_mut(&id).and_then(|conn| conn.next(side)) {
            self.send(id, side, packet);
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            let end = conn.end(side);
            if end.unsent.len() < end.buffer {
                woken.extend(end.writer.take());
            }
        }
    }

    /// The next packet for this end is there, or lost.
    fn arrive(&mut self, id: u64, side: Side, time: Time, woken: &mut Vec<Waker>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (from, to) = (conn.place(side.other()), conn.place(side));
        let lost = self.cuts.contains(&(from, to)) || self.off.contains(&to) || conn.forgotten.is_some();
        if lost {
            let sender = conn.look(side.other()).tcp;
            let answered = conn.forgotten == Some(true) && side == Side::Server;
            let end = conn.end(side);
            let Some(packet) = end.coming.front() else { return };
            // RST is never sent again, and nobody is left who would send the rest.
            if sender == Tcp::Closed || matches!(packet, Packet::Reset) {
                end.hole |= !matches!(packet, Packet::Reset);
                end.coming.pop_front();
            } else {
                end.tries += 1;
                let tries = end.tries.min(4);
                let wait = Duration::from_millis(self.chance.random_range(RESEND_MS.0..RESEND_MS.1) << (tries / 2));
                self.plan(time + wait, id, side, Event::Arrival);
            }
            if answered && sender != Tcp::Closed {
                self.reset_by_box(id, Side::Client);
            }
            return;
        }
        let end = conn.end(side);
        let Some(packet) = end.coming.pop_front() else { return };
        end.tries = 0;
        if end.hole && !matches!(packet, Packet::Reset) {
            return;
        }
        match packet {
            Packet::Syn => self.take_syn(id, time),
            Packet::SynAck => match conn.client.tcp {
                Tcp::SynSent => {
                    conn.client.tcp = Tcp::Established;
                    conn.client.wake(woken);
                    self.send(id, Side::Client, Packet::Ack);
                }
                // Given up meanwhile: the server's kernel forgets it, its process never hears of it.
                _ => self.send(id, Side::Client, Packet::Reset),
            },
            Packet::Ack => match self.listeners.get_mut(&to) {
                _ if conn.server.tcp != Tcp::SynReceived => {}
                Some(listener) if !listener.refuses => {
                    conn.server.tcp = Tcp::Established;
                    // The backlog's, until it is accepted.
                    conn.server.held = true;
                    listener.backlog.push_back(id);
                    woken.extend(listener.acceptor.take());
                }
                _ => self.reset(id, side),
            },
            Packet::Data(bytes) => {
                if !end.held || !matches!(end.tcp, Tcp::Established | Tcp::FinWait1 | Tcp::FinWait2) {
                    // Nobody will read it.
                    self.reset(id, side);
                } else {
                    end.ready.extend(bytes);
                    woken.extend(end.reader.take());
                }
            }
            Packet::Fin => self.take_fin(id, side, time, woken),
            Packet::FinAck => self.take_fin_ack(id, side, time),
            Packet::Window => self.pump(id, side, woken),
            Packet::Reset => self.take_reset(id, side, woken),
        }
    }

    fn take_syn(&mut self, id: u64, time: Time) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (places, port, remote, to) = (conn.places, conn.port, conn.remote, conn.places[1]);
        let older = self.conns.iter().find_map(|(other, conn)| {
            let same = *other != id && (conn.places, conn.port, conn.remote) == (places, port, remote);
            (same && !matches!(conn.server.tcp, Tcp::Closed | Tcp::TimeWait)).then_some(*other)
        });
        if let Some(older) = older {
            // The server asks whether the old one is meant, and the client's kernel knows of none.
            self.send(older, Side::Client, Packet::Reset);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.server.coming.push_front(Packet::Syn);
            }
            self.plan(time + SYN_AGAIN, id, Side::Server, Event::Arrival);
            return;
        }
        match self.listeners.get(&to) {
            Some(listener) if !listener.refuses => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.server.tcp = Tcp::SynReceived;
                }
                self.send(id, Side::Server, Packet::SynAck);
            }
            _ => self.send(id, Side::Server, Packet::Reset),
        }
    }

    fn take_fin(&mut self, id: u64, side: Side, time: Time, woken: &mut Vec<Waker>) {
        let early = self.broken == Broken::EofAtAck && side == Side::Server;
        let patience = self.ways.patience;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let end = conn.end(side);
        match end.tcp {
            Tcp::Established => end.tcp = Tcp::CloseWait,
            Tcp::FinWait1 => end.tcp = Tcp::Closing,
            Tcp::FinWait2 => {
                end.tcp = Tcp::TimeWait;
                end.until = Some(time + patience.time_wait);
            }
            Tcp::Closed | Tcp::SynSent | Tcp::SynReceived => return self.send(id, side, Packet::Reset),
            Tcp::TimeWait | Tcp::CloseWait | Tcp::LastAck | Tcp::Closing => {}
        }
        end.done = true;
        woken.extend(end.reader.take());
        if early {
            // The server's kernel has acknowledged the client's end.
            conn.client.done = true;
            woken.extend(conn.client.reader.take());
        }
        if let Some(until) = conn.look(side).until {
            self.plan(until, id, side, Event::Timer);
        }
        self.send(id, side, Packet::FinAck);
    }

    fn take_fin_ack(&mut self, id: u64, side: Side, time: Time) {
        let patience = self.ways.patience;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let end = conn.end(side);
        match end.tcp {
            Tcp::FinWait1 => {
                end.tcp = Tcp::FinWait2;
                end.until = (!end.held).then_some(time + patience.fin_wait);
            }
            Tcp::Closing => {
                end.tcp = Tcp::TimeWait;
                end.until = Some(time + patience.time_wait);
            }
            Tcp::LastAck => end.die(),
            _ => return,
        }
        if let Some(until) = conn.look(side).until {
            self.plan(until, id, side, Event::Timer);
        }
    }

    fn take_reset(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
        let believes = self.broken == Broken::ErrorForgotten && side == Side::Client;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let end = conn.end(side);
        let error = match end.tcp {
            Tcp::Closed => return,
            Tcp::SynSent => io::ErrorKind::ConnectionRefused,
            Tcp::CloseWait => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::ConnectionReset,
        };
        end.die();
        // Somebody has met the error before, and nobody remembers it.
        if !believes || error == io::ErrorKind::ConnectionRefused {
            end.error = Some(error);
        }
        end.wake(woken);
    }

    /// The kernel keeps nothing for ever.
    fn expire(&mut self, id: u64, side: Side, time: Time) {
        let orphan = self.ways.patience.orphan;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let unanswered = conn.look(side.other()).tries > 0;
        let end = conn.end(side);
        if end.until.is_none_or(|until| until > time) {
            return;
        }
        if matches!(end.tcp, Tcp::FinWait1 | Tcp::Closing | Tcp::LastAck) {
            if !unanswered {
                // The other side is slow, and there.
                end.until = Some(time + orphan);
                return self.plan(time + orphan, id, side, Event::Timer);
            }
            let other = conn.end(side.other());
            other.coming.clear();
            other.hole = true;
        }
        conn.end(side).die();
    }

    fn forget_if_over(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let over = |end: &End| end.tcp == Tcp::Closed && !end.held && end.coming.is_empty();
        if over(&conn.client) && over(&conn.server) {
            self.conns.remove(&id);
        }
    }

    /// Ends a socket by RST.
    fn reset(&mut self, id: u64, side: Side) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.end(side).die();
        self.send(id, side, Packet::Reset);
    }

    fn reset_by_box(&mut self, id: u64, side: Side) {
        let at = now() + Duration::from_millis(self.ways.latency.least_ms);
        self.plan(at, id, side, Event::BoxReset);
    }

    fn interfere(&mut self, client: Place, server: Place, what: Box) -> u64 {
        let mut count = 0;
        let ids: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.places == [client, server] && conn.client.tcp != Tcp::SynSent)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            count += 1;
            match what {
                Box::Forgets { answers } => conn.forgotten = Some(answers),
                Box::Resets { client, server } => {
                    conn.forgotten = Some(false);
                    for (is_meant, side) in [(client, Side::Client), (server, Side::Server)] {
                        if is_meant {
                            self.reset_by_box(id, side);
                        }
                    }
                }
            }
        }
        count
    }

    /// Ends our side: FIN, behind what is unsent; an attempt that is not connected yet is taken back.
    fn end(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let end = conn.end(side);
        match end.tcp {
            Tcp::SynSent => {
                end.die();
                end.wake(woken);
            }
            Tcp::Established => (end.tcp, end.fin_due) = (Tcp::FinWait1, true),
            Tcp::CloseWait => (end.tcp, end.fin_due) = (Tcp::LastAck, true),
            _ => {}
        }
        self.pump(id, side, woken);
    }

    /// No process has it any more.
    fn close(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
        let patience = self.ways.patience;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let end = conn.end(side);
        if !std::mem::replace(&mut end.held, false) {
            return;
        }
        if end.tcp == Tcp::Closed {
            end.ready.clear();
        } else if !end.ready.is_empty() {
            // What nobody has read, nobody will: not an end, but RST.
            self.reset(id, side);
            // The other side's next packet is answered by another one.
            self.pump(id, side.other(), woken);
        } else {
            self.end(id, side, woken);
            if let Some(conn) = self.conns.get_mut(&id) {
                let end = conn.end(side);
                let keep = match end.tcp {
                    Tcp::FinWait2 => Some(patience.fin_wait),
                    Tcp::FinWait1 | Tcp::Closing | Tcp::LastAck => Some(patience.orphan),
                    _ => None,
                };
                if let Some(keep) = keep {
                    end.until = Some(now() + keep);
                    self.plan(now() + keep, id, side, Event::Timer);
                }
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
