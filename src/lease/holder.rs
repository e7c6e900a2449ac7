//! The worker's side of the protocol as a pure state machine: time comes in as an argument, messages go in and out.
//!
//! | rule | where |
//! |---|---|
//! | R1 limit falls to `need` before a SYNC, rises only from the reply to the latest | [`Holder::request`], [`Holder::answer`] |
//! | R2 deadline from the moment of sending | [`Holder::answer`] |
//! | R3 at the deadline the limit is 0; a new incarnation only when every old slot is accounted for | [`Holder::tick`], [`Holder::request`] |
//! | R4 counted before `connect()` until EOF, or until a SYNC with its quarantine was sent | [`Holder::count`], [`Holder::release`], [`Holder::quarantine`], [`Holder::prove`] |
//! | R5a what an older process of the pod left | [`Holder::inherit`] |
//! | R7 a new token is answered by re-assertion | [`Holder::answer`] |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    clock::BootTime,
    connections::{Entry, Left, Note},
    evidence::{Identity, Numbers},
    quarantine::QuarantineTimers,
    slot::SlotStatus,
    state::{Granted, LedgerState, Quarantine, SyncReply, SyncRequest},
    timing::Timing,
    wire,
};

/// Why the slot of a connection that an older process left is withheld.
const INHERITED: &str = "inherited";

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

/// What an older process of this pod left (R5a).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// The older processes whose every connection is proven to have ended, or is in `unproven`.
    pub accounts: Vec<String>,
    /// Connections that a server may still count: the id of each slot, and for how long it is to be withheld.
    pub unproven: Vec<(String, Duration)>,
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

    /// What an older process of this pod left (R5a): unproven connections go into quarantine with the registration, and the
    /// claims of the processes that are accounted for are free with it. To be called before the first request.
    pub fn inherit(&mut self, inheritance: Inheritance, now: BootTime) {
        self.accounts.extend(inheritance.accounts);
        for (id, hold) in inheritance.unproven {
            self.push_unclean(id, INHERITED, hold, None, now);
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

    /// When the lease ends; `None` before the first registration.
    pub fn deadline(&self) -> Option<BootTime> {
        self.deadline
    }

    /// Whether a SYNC should go at once rather than at the next heartbeat.
    pub fn is_due(&self) -> bool {
        self.due && self.flight.is_none()
    }

    /// How long to wait until the next request when nothing happens; `jitter` is random in -1..=1.
    pub fn pause(&self, jitter: f64) -> Duration {
        let base = if self.answered && !self.recovering { self.timing.heartbeat } else { self.timing.retry };
        base.mul_f64(1.0 + Timing::JITTER * jitter.clamp(-1.0, 1.0))
    }

    /// How many slots count here (R4).
    pub fn counted(&self) -> u32 {
        count(self.slots.len() + self.unclean.iter().filter(|unclean| !unclean.sent).count())
    }

    /// How many slots may have a socket of ours: counted, and not given up as unclean.
    pub fn held(&self) -> usize {
        self.slots.len()
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

    /// The next message, if one may be sent now: one SYNC in flight, each seq once (R1). `now` is the moment of sending.
    pub fn request(&mut self, now: BootTime) -> Option<SyncRequest> {
        self.tick(now);
        if self.flight.is_some() {
            return None;
        }
        self.due = false;
        self.forget_expired(now);
        if self.stage == Stage::Abandoned {
            if !self.slots.is_empty() || (self.closing && !self.has_untold()) {
                return None;
            }
            self.begin_incarnation(0);
        }
        let asking = self.stage == Stage::Asking;
        let mut carried = Vec::new();
        if !asking {
            self.seq += 1;
            for unclean in &mut self.unclean {
                if !unclean.known && !unclean.proven {
                    unclean.sent = true;
                    carried.push(unclean.entry.clone());
                }
            }
        }
        let need = count(self.slots.len());
        self.limit = self.limit.min(need);
        self.flight = Some(Flight {
            inc: self.inc(),
            seq: self.seq,
            sent: now,
            carried: carried.iter().map(|entry| entry.id.clone()).collect(),
            free_heard: false,
        });
        let connected = self.slots.values().filter(|slot| slot.connected).count();
        let busy = self.slots.values().filter(|slot| slot.busy).count();
        Some(SyncRequest {
            token: self.token.clone(),
            inc: self.inc(),
            pod_uid: self.pod_uid.clone(),
            pod: self.pod.clone(),
            process: self.process.clone(),
            boot_id: self.boot_id.clone(),
            generation: if asking { 0 } else { self.generation },
            seq: self.seq,
            need,
            want: if self.closing { 0 } else { self.want },
            open: count(connected),
            busy: count(busy),
            hold: self.hold(),
            seen: self.seen,
            quarantine: carried,
            accounts: if asking { Vec::new() } else { self.accounts.clone() },
        })
    }

    /// Takes in the answer to `request`, or that there was none in time.
    pub fn answer(&mut self, request: &SyncRequest, reply: Option<SyncReply>, now: BootTime) {
        self.tick(now);
        // Only the latest message of the living incarnation counts; a late answer raises nothing (R1).
        let Some(flight) = self.flight.take_if(|flight| flight.inc == request.inc && flight.seq == request.seq) else {
            return;
        };
        self.answered = matches!(reply, Some(SyncReply::Ok(_)));
        match reply {
            None | Some(SyncReply::Wait(_) | SyncReply::Stale) => {}
            Some(SyncReply::Ok(granted)) => self.accept(&flight, &granted, now),
            Some(SyncReply::Token { token, .. }) => {
                self.token = token;
                for unclean in &mut self.unclean {
                    unclean.known = false;
                }
                if self.stage == Stage::Registering {
                    self.begin_incarnation(0);
                }
                self.due = true;
            }
            Some(SyncReply::Register { last }) => match self.stage {
                Stage::Asking => {
                    (self.stage, self.generation, self.due) = (Stage::Registering, last + 1, true);
                }
                // Someone was faster: with a pause, so that two processes cannot drive each other in a circle.
                Stage::Registering => self.begin_incarnation(last + 1),
                Stage::Held | Stage::Abandoned => self.abandon(),
            },
            Some(SyncReply::Gone) => match self.stage {
                Stage::Asking | Stage::Registering => self.begin_incarnation(0),
                Stage::Held | Stage::Abandoned => self.abandon(),
            },
        }
    }

    fn accept(&mut self, flight: &Flight, granted: &Granted, now: BootTime) {
        self.stage = Stage::Held;
        self.deadline = Some(flight.sent + granted.lease.min(self.timing.lease));
        (self.claim, self.granted, self.limit) = (granted.claim, granted.limit, granted.limit);
        self.entitlement = granted.entitlement;
        self.recovering = granted.state == LedgerState::Rec;
        self.keep = if self.recovering { granted.claim } else { granted.claim.min(granted.entitlement) };
        self.seen = self.seen.max(granted.version);
        for unclean in &mut self.unclean {
            if flight.carried.contains(&unclean.entry.id) {
                unclean.known = true;
            }
        }
        // Whatever carried an entry before has been answered or comes too late: the list is the truth about it.
        let is_there = |id: &String| granted.quarantine.iter().any(|entry| entry.id == *id);
        let proven = &mut self.proven;
        proven.retain(is_there);
        self.unclean.retain(|unclean| {
            if unclean.proven && is_there(&unclean.entry.id) {
                proven.insert(unclean.entry.id.clone());
            }
            !unclean.proven
        });
        self.withheld.observe(&granted.quarantine, now);
        self.due |= flight.free_heard && self.is_short();
        self.revoke_surplus();
        self.tick(now);
    }

    /// An event of the pool: `<kind> <inc or ->`. Not for what we published ourselves, nor for freed slots when we have all.
    pub fn hear(&mut self, event: &str) {
        let (kind, inc) = event.split_once(' ').unwrap_or((event, "-"));
        if inc == self.inc() {
            return;
        }
        match (kind, &mut self.flight) {
            ("free", Some(flight)) => flight.free_heard = true,
            ("free", None) => self.due |= self.is_short() || self.stage != Stage::Held,
            _ => self.due = true,
        }
    }

    /// Whether [`Holder::count`] would give a slot.
    pub fn may_count(&self, now: BootTime) -> bool {
        let lives = self.stage == Stage::Held && !self.closing;
        lives && self.counted() < self.limit && self.has_time(now, self.timing.start_margin)
    }

    /// Counts one more slot, if the limit and the time allow (R4). To be called before `connect()`.
    pub fn count(&mut self, now: BootTime) -> Option<u64> {
        self.tick(now);
        self.may_count(now).then(|| {
            let slot = self.numbers.0.draw();
            self.slots.insert(slot, Counted::default());
            slot
        })
    }

    /// Where the slot's connection is written down.
    pub fn set_entry(&mut self, slot: u64, entry: Entry) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            counted.entry = Some(entry);
        }
    }

    /// What became of connections that are written down, since this was last asked.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The server's end was seen, though the slot is not given back yet: it counts, but should this process die, nothing of
    /// its connection is left to be found.
    pub fn ended(&mut self, slot: u64) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            self.notes.extend(counted.entry.take().map(Note::Ended));
        }
    }

    /// The slot's session is over: EOF was read, or `connect()` failed (R4).
    pub fn release(&mut self, slot: u64) {
        if let Some(counted) = self.slots.remove(&slot) {
            self.notes.extend(counted.entry.map(Note::Ended));
            self.tell_of_free();
        }
    }

    fn tell_of_free(&mut self) {
        let kept = self.entitlement.min(self.want);
        let others_wait = !self.recovering && self.claim > self.granted.min(kept);
        self.due |= others_wait || self.closing || (self.stage == Stage::Abandoned && self.slots.is_empty());
    }

    /// The slot's session ended uncleanly: the server may count it for `hold` more. It counts until a SYNC took it along.
    /// Returns the id under which it is withheld.
    pub fn quarantine(&mut self, slot: u64, why: &str, hold: Duration, now: BootTime) -> String {
        let id = Left::id_of(&self.process, slot);
        if let Some(counted) = self.slots.remove(&slot) {
            self.push_unclean(id.clone(), why, hold, counted.entry, now);
            self.due = true;
        }
        id
    }

    /// The server's end of a withheld connection was seen after all: its slot is free at once. For slots of this process and
    /// for inherited ones; an id that is not withheld changes nothing.
    pub fn prove(&mut self, id: &str) {
        if let Some(at) = self.unclean.iter().position(|unclean| unclean.entry.id == id) {
            self.notes.extend(self.unclean[at].written.take().map(Note::Ended));
            if !self.unclean[at].sent {
                self.unclean.remove(at);
                self.tell_of_free();
                return;
            }
            // No SYNC tells of it any more. One that did may be on its way: only the answer to a later one shows whether
            // the ledger has it.
            self.unclean[at].proven = true;
            self.due |= !self.unclean[at].known;
        }
        if self.withheld.has(id) {
            self.proven.insert(id.to_owned());
        }
    }

    fn push_unclean(&mut self, id: String, why: &str, hold: Duration, written: Option<Entry>, now: BootTime) {
        let entry = Quarantine { id, slots: 1, seconds: wire::seconds(hold), why: why.to_owned() };
        let over = now + self.timing.quarantine_watch(Duration::from_secs(entry.seconds));
        self.notes.extend(written.map(|written| Note::Withheld(written, over)));
        self.unclean.push(Unclean { entry, over, sent: false, known: false, proven: false, written });
    }

    /// What the server has forgotten by now is nobody's business any more.
    fn forget_expired(&mut self, now: BootTime) {
        self.unclean.retain(|unclean| now < unclean.over);
    }

    /// How many slots could be used from now on.
    pub fn set_want(&mut self, want: u32) {
        self.due |= self.stage == Stage::Held && want.min(self.entitlement) != self.want.min(self.entitlement);
        self.want = want;
    }

    /// The pool's `sessionTimeout`: the longest among those who share it.
    pub fn set_hold(&mut self, session_timeout: Duration) {
        self.session_timeout = session_timeout;
    }

    /// How long a slot is withheld when nothing proves that the server knows its session to be over.
    pub fn hold(&self) -> Duration {
        self.timing.hold(self.session_timeout)
    }

    /// Whether the slot is in a mail transaction: such slots are revoked last.
    pub fn set_busy(&mut self, slot: u64, busy: bool) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            counted.busy = busy;
        }
    }

    /// The slot's session is connected.
    pub fn set_connected(&mut self, slot: u64) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            counted.connected = true;
        }
    }

    /// Whether the slot must be given back: finish this mail, start no other, close.
    pub fn is_revoked(&self, slot: u64) -> bool {
        self.slots.get(&slot).is_none_or(|counted| counted.revoked)
    }

    /// Whether a transaction may start on the slot.
    pub fn may_start(&self, slot: u64, now: BootTime) -> bool {
        !self.is_revoked(slot) && self.has_time(now, self.timing.start_margin)
    }

    /// Whether the final dot may be sent.
    pub fn may_commit(&self, now: BootTime) -> bool {
        self.has_time(now, self.timing.commit_margin)
    }

    /// How long until all sessions must be closed.
    pub fn time_left(&self, now: BootTime) -> Duration {
        self.deadline.map_or(Duration::ZERO, |d| d.saturating_sub(self.timing.close_margin).saturating_since(now))
    }

    fn has_time(&self, now: BootTime, margin: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now + margin < deadline)
    }

    /// Quarantine that may be cleared, with the token to name: it is over on our clock, or its server's end was seen.
    pub fn over(&self, now: BootTime) -> Vec<String> {
        if self.stage != Stage::Held {
            return Vec::new();
        }
        let mut over = self.withheld.over(now, &self.timing);
        over.extend(self.proven.iter().cloned());
        over.sort();
        over.dedup();
        over
    }

    /// How long until the next quarantine may be cleared.
    pub fn next_over(&self, now: BootTime) -> Option<Duration> {
        let next = if self.proven.is_empty() { self.withheld.next(now, &self.timing) } else { Some(Duration::ZERO) };
        next.filter(|_| self.stage == Stage::Held)
    }

    /// Someone cleared it, maybe we.
    pub fn cleared(&mut self, id: &str) {
        self.withheld.forget(id);
        self.proven.remove(id);
        self.due |= self.closing;
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

    /// Whether slots are withheld of which the ledger has not heard. Until it has, no other holder of this process may take
    /// this one's place: to the ledger it would have accounted for them.
    fn has_untold(&self) -> bool {
        self.unclean.iter().any(|unclean| !unclean.known && !unclean.proven)
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
        let lives = self.stage == Stage::Held && self.deadline.is_some_and(|deadline| now < deadline);
        SlotStatus {
            registered: lives,
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

    /// Whether we have less than we could use.
    fn is_short(&self) -> bool {
        self.granted < self.entitlement.min(self.want)
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

    /// Revokes what is above the share: idle slots first, and of those the youngest.
    fn revoke_surplus(&mut self) {
        let mut kept: Vec<(bool, std::cmp::Reverse<u64>)> = self
            .slots
            .iter()
            .filter(|(_, counted)| !counted.revoked)
            .map(|(id, counted)| (counted.busy, std::cmp::Reverse(*id)))
            .collect();
        kept.sort_unstable();
        let surplus = kept.len().saturating_sub(self.keep as usize);
        for (_, id) in &kept[..surplus] {
            if let Some(counted) = self.slots.get_mut(&id.0) {
                counted.revoked = true;
            }
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
