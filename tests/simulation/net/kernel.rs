//! What the kernels at both ends of a connection do: TCP's states, what waits unsent, what comes unread, the errors that
//! are told once. As Linux does it.

use std::{collections::VecDeque, io, task::Waker, time::Duration};

use super::{Place, Side};
use crate::process::Time;

/// The largest piece of data in a packet.
const SEGMENT: usize = 1448;

/// The state of a socket, as the kernel's table shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tcp {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    Closing,
    TimeWait,
    CloseWait,
    LastAck,
    /// Not in the table: there is no such socket, or none any more.
    #[default]
    Closed,
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    Syn,
    SynAck,
    /// The third of the handshake.
    Ack,
    Data(Vec<u8>),
    Fin,
    FinAck,
    /// Room for more.
    Window,
    Reset,
}

/// One end of a connection.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states of one thing")]
pub(super) struct End {
    pub tcp: Tcp,
    /// On their way to this end, in order.
    pub coming: VecDeque<Packet>,
    /// When the last of them arrives.
    pub last: Time,
    /// How often the first of them was sent again.
    pub tries: u32,
    /// Something on the way to this end is lost for good: what follows it makes no sense.
    pub hole: bool,
    /// Arrived and not read.
    pub ready: VecDeque<u8>,
    /// How much may be in there.
    pub room: usize,
    /// Written and not sent.
    pub unsent: VecDeque<u8>,
    /// How much may be in there.
    pub buffer: usize,
    /// Our FIN is to follow what is unsent.
    pub fin_due: bool,
    pub fin_sent: bool,
    /// Told to the process once.
    pub error: Option<io::ErrorKind>,
    /// The other side's FIN was received: reads say 0 from then on, errors or not.
    pub done: bool,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// A process has it.
    pub held: bool,
    /// Since when the other side owes an answer, or until when the kernel keeps what nobody has any more.
    pub until: Option<Time>,
}

impl End {
    pub fn new(room: usize, buffer: usize) -> Self {
        Self { room, buffer, ..Self::default() }
    }

    /// Whether our side can still be written to.
    pub fn may_write(&self) -> bool {
        matches!(self.tcp, Tcp::Established | Tcp::CloseWait) && !self.fin_due
    }

    pub fn wake(&mut self, woken: &mut Vec<Waker>) {
        woken.extend(self.reader.take());
        woken.extend(self.writer.take());
    }

    /// The socket is no more; what was received can still be read.
    pub fn die(&mut self) {
        self.tcp = Tcp::Closed;
        self.unsent.clear();
        (self.fin_due, self.until) = (false, None);
        if !self.held {
            self.ready.clear();
        }
    }

    /// What a read or a write that finds nothing to do says first.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take().map(Into::into)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub places: [Place; 2],
    /// The client's.
    pub port: u16,
    /// Which of the server's addresses and ports the client meant.
    pub remote: std::net::SocketAddr,
    pub client: End,
    pub server: End,
    /// A box on the way has forgotten it; whether it answers the client's packets with RST.
    pub forgotten: Option<bool>,
}

impl Conn {
    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    pub fn look(&self, side: Side) -> &End {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    pub fn place(&self, side: Side) -> Place {
        self.places[side as usize]
    }

    /// What `side` can send now.
    pub fn next(&mut self, side: Side) -> Option<Packet> {
        let to = self.look(side.other());
        let flying: usize =
            to.coming.iter().map(|packet| if let Packet::Data(bytes) = packet { bytes.len() } else { 0 }).sum();
        let space = to.room.saturating_sub(to.ready.len() + flying);
        let end = self.end(side);
        if !end.unsent.is_empty() {
            let count = end.unsent.len().min(space).min(SEGMENT);
            return (count > 0).then(|| Packet::Data(end.unsent.drain(..count).collect()));
        }
        let fin = end.fin_due && !end.fin_sent;
        end.fin_sent |= fin;
        fin.then_some(Packet::Fin)
    }
}

/// How long kernels keep what no process has any more.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// An end whose FIN, or what comes before it, is not acknowledged (`tcp_orphan_retries`).
    pub orphan: Duration,
    /// `FIN_WAIT2` (`tcp_fin_timeout`).
    pub fin_wait: Duration,
    /// `TIME_WAIT`.
    pub time_wait: Duration,
}
