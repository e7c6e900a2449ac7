//! The worker's side of the protocol as a pure state machine: time comes in as an argument, messages go in and out. Here are
//! the life of an incarnation and its end; `sync` is the talk with the ledger, `slots` what is counted, `withheld` what may
//! not be used, `rest` having nothing while nothing is to be sent.
//!
//! | rule | where |
//! |---|---|
//! | R1 limit falls to `need` before a SYNC, rises only from the reply to the latest | [`Holder::request`], [`Holder::answer`] |
//! | R2 deadline from the moment of sending | [`Holder::answer`] |
//! | R3 at the deadline the limit is 0; a new incarnation only when every old slot is accounted for | [`Holder::tick`], [`Holder::request`] |
//! | R4 counted before `connect()` until EOF, or until a SYNC with its quarantine was sent | [`Holder::count`], [`Holder::release`], [`Holder::quarantine`], [`Holder::prove`] |
//! | R5a what an older process of the pod left | [`Holder::inherit`] |
//! | R7 a new token is answered by re-assertion | [`Holder::answer`] |

mod rest;
mod slots;
mod sync;
mod withheld;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    clock::BootTime,
    connections::{Entry, Note},
    evidence::{Identity, Numbers},
    quarantine::QuarantineTimers,
    state::Quarantine,
    status::SlotStatus,
    timing::Timing,
};

pub use self::withheld::Inheritance;

/// Where an incarnation is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The pod's last generation is not known yet.
    Asking,
    /// It is; the first SYNC that registers is next, or has no answer yet.
    Registering,
    /// The ledger knows us and the deadline lies ahead.
    Held,
    /// Over: no slot may be opened, and no new incarnation begins before the last one is closed.
    Abandoned,
}

/// One counted slot.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// Where its connection is written down.
    entry: Option<Entry>,
    busy: bool,
    connected: bool,
    revoked: bool,
}

/// A slot whose session ended uncleanly.
#[derive(Clone, Debug)]
struct Unclean {
    entry: Quarantine,
    /// When the server has forgotten the session, on our clock.
    over: BootTime,
    /// A SYNC that carries it was sent: it no longer counts here.
    sent: bool,
    /// The ledger in force has it.
    known: bool,
    /// The server's end was seen after all. It stays until no SYNC that carries it can take effect any more.
    proven: bool,
    /// Where its connection is written down.
    written: Option<Entry>,
}

/// The SYNC on its way.
#[derive(Clone, Debug)]
struct Flight {
    inc: String,
    seq: u64,
    sent: BootTime,
    carried: Vec<String>,
    /// Something became free meanwhile; the answer may not know.
    free_heard: bool,
}

/// What a clean end needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The token.
    pub token: String,
    /// The incarnation.
    pub inc: String,
    /// The seq of the LEAVE.
    pub seq: u64,
}

/// Numbers that a copy of the machine goes on with by itself, so that two worlds do not change each other.
#[derive(Debug)]
struct OwnNumbers(Numbers);

impl Clone for OwnNumbers {
    fn clone(&self) -> Self {
        Self(self.0.fork())
    }
}

/// One process in one pool.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states of one thing")]
pub struct Holder {
    pod_uid: String,
    pod: String,
    process: String,
    boot_id: String,
    numbers: OwnNumbers,
    timing: Timing,
    session_timeout: Duration,
    accounts: Vec<String>,
    token: String,
    /// The version of the ledger that was heard last. It outlives tokens: no ledger may be older.
    seen: u64,
    stage: Stage,
    incarnation: u64,
    generation: u64,
    seq: u64,
    claim: u32,
    /// What the last answer granted.
    granted: u32,
    /// What holds now: `granted`, or less since a SYNC was sent (R1).
    limit: u32,
    /// Above this, sessions are revoked. More than `limit` while others have not yet given back what is ours: nothing may
    /// be opened then, but closing what our share covers would help nobody.
    keep: u32,
    entitlement: u32,
    recovering: bool,
    deadline: Option<BootTime>,
    want: u32,
    /// Nothing is wanted until it is woken.
    resting: bool,
    closing: bool,
    due: bool,
    /// The last message was answered with a renewal.
    answered: bool,
    flight: Option<Flight>,
    slots: BTreeMap<u64, Counted>,
    unclean: Vec<Unclean>,
    withheld: QuarantineTimers,
    /// What is in the ledger's quarantine though its server's end was seen.
    proven: BTreeSet<String>,
    /// What became of connections that are written down.
    notes: Vec<Note>,
}

impl Holder {
    /// A process that the ledger does not know yet. `session_timeout` is the server's.
    pub fn new(identity: Identity, timing: Timing, session_timeout: Duration) -> Self {
        let Identity { pod_uid, pod, namespace, process, boot_id, numbers } = identity;
        Self {
            pod_uid,
            pod: format!("{namespace}/{pod}"),
            process: process.to_string(),
            boot_id,
            incarnation: numbers.draw(),
            numbers: OwnNumbers(numbers),
            timing,
            session_timeout,
            accounts: Vec::new(),
            token: String::new(),
            seen: 0,
            stage: Stage::Asking,
            generation: 0,
            seq: 0,
            claim: 0,
            granted: 0,
            limit: 0,
            keep: 0,
            entitlement: 0,
            recovering: false,
            deadline: None,
            want: u32::MAX,
            resting: false,
            closing: false,
            due: true,
            answered: false,
            flight: None,
            slots: BTreeMap::new(),
            unclean: Vec::new(),
            withheld: QuarantineTimers::default(),
            proven: BTreeSet::new(),
            notes: Vec::new(),
        }
    }

    /// The times in use.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The token as last heard.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// When the lease ends; `None` before the first registration, and while nothing is claimed that could end.
    pub fn deadline(&self) -> Option<BootTime> {
        self.deadline
    }

    /// R3: at the deadline the limit is 0 and the incarnation is over. Returns whether that happened now.
    pub fn tick(&mut self, now: BootTime) -> bool {
        let ended = self.stage == Stage::Held && self.deadline.is_some_and(|deadline| now >= deadline);
        if ended {
            self.abandon();
            self.due = true;
        }
        ended
    }

    /// No slot any more: give everything back.
    pub fn close(&mut self) {
        self.closing = true;
        self.due = true;
        for counted in self.slots.values_mut() {
            counted.revoked = true;
        }
    }

    /// Whether a closing process has nothing left to say: nothing is counted, and the ledger does not know it but for what
    /// it withholds.
    pub fn is_done(&self) -> bool {
        self.closing && self.slots.is_empty() && self.stage != Stage::Held && !self.has_untold()
    }

    /// The LEAVE of a closing process, once nothing is counted and its unclean slots are in the ledger's quarantine.
    pub fn leaving(&mut self, now: BootTime) -> Option<Leaving> {
        self.tick(now);
        self.forget_expired(now);
        let ready = self.closing && self.stage == Stage::Held && self.flight.is_none() && self.slots.is_empty();
        if !ready || !self.proven.is_empty() || self.unclean.iter().any(|unclean| !unclean.known) {
            return None;
        }
        self.seq += 1;
        Some(Leaving { token: self.token.clone(), inc: self.inc(), seq: self.seq })
    }

    /// The LEAVE was answered: the ledger does not know us any more.
    pub fn left(&mut self) {
        self.abandon();
    }

    /// Where things stand.
    pub fn status(&self, now: BootTime) -> SlotStatus {
        let lives = self.stage == Stage::Held && self.deadline.is_none_or(|deadline| now < deadline);
        SlotStatus {
            registered: lives,
            resting: self.resting,
            recovering: self.recovering,
            entitlement: self.entitlement,
            claim: self.claim,
            limit: if lives && !self.closing { self.limit } else { 0 },
            counted: self.counted(),
            open: count(self.slots.values().filter(|slot| slot.connected).count()),
            busy: count(self.slots.values().filter(|slot| slot.busy).count()),
            deadline: self.deadline,
        }
    }

    fn inc(&self) -> String {
        format!("{}.{}", self.process, self.incarnation)
    }

    fn abandon(&mut self) {
        self.stage = Stage::Abandoned;
        (self.limit, self.keep, self.granted, self.claim) = (0, 0, 0, 0);
        self.flight = None;
        self.revoke_surplus();
    }

    /// A new incarnation; `generation` 0 asks for the pod's last one first.
    fn begin_incarnation(&mut self, generation: u64) {
        self.incarnation = self.numbers.0.draw();
        self.stage = if generation == 0 { Stage::Asking } else { Stage::Registering };
        (self.generation, self.seq) = (generation, 0);
        (self.limit, self.keep, self.granted, self.claim) = (0, 0, 0, 0);
        self.deadline = None;
        self.flight = None;
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
