//! What happens on the way: packets are sent, lost, sent again, taken; what kernels and boxes make of them.

use std::{collections::BTreeSet, io, net::SocketAddr, task::Waker, time::Duration};

use rand::RngExt;

use super::{AMPLE, Box, Conn, End, Event, Inner, Latency, Packet, Place, RESEND_MS, Reverse, SYN_AGAIN, Side, Tcp};
use crate::{
    broken::Broken,
    process::{Time, now},
};

impl Inner {
    pub(super) fn plan(&mut self, at: Time, conn: u64, side: Side, event: Event) {
        self.serial += 1;
        self.agenda.push(Reverse((at, self.serial, conn, side, event)));
    }

    /// A new connection of a process at `client`.
    pub(super) fn connect(
        &mut self,
        client: Place,
        server: Place,
        remote: SocketAddr,
        buffer: Option<usize>,
    ) -> io::Result<u64> {
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
    pub(super) fn send(&mut self, conn: u64, side: Side, packet: Packet) {
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
    pub(super) fn pump(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
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
    pub(super) fn arrive(&mut self, id: u64, side: Side, time: Time, woken: &mut Vec<Waker>) {
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

    pub(super) fn take_syn(&mut self, id: u64, time: Time) {
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

    pub(super) fn take_fin(&mut self, id: u64, side: Side, time: Time, woken: &mut Vec<Waker>) {
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

    pub(super) fn take_fin_ack(&mut self, id: u64, side: Side, time: Time) {
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

    pub(super) fn take_reset(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
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
    pub(super) fn expire(&mut self, id: u64, side: Side, time: Time) {
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

    pub(super) fn forget_if_over(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let over = |end: &End| end.tcp == Tcp::Closed && !end.held && end.coming.is_empty();
        if over(&conn.client) && over(&conn.server) {
            self.conns.remove(&id);
        }
    }

    /// Ends a socket by RST.
    pub(super) fn reset(&mut self, id: u64, side: Side) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.end(side).die();
        self.send(id, side, Packet::Reset);
    }

    pub(super) fn reset_by_box(&mut self, id: u64, side: Side) {
        let at = now() + Duration::from_millis(self.ways.latency.least_ms);
        self.plan(at, id, side, Event::BoxReset);
    }

    pub(super) fn interfere(&mut self, client: Place, server: Place, what: Box) -> u64 {
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
    pub(super) fn end(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
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
    pub(super) fn close(&mut self, id: u64, side: Side, woken: &mut Vec<Waker>) {
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
