//! The talk with the ledger: what a SYNC says, and what its answer and the pool's events change (R1, R2, R7).

use std::time::Duration;

use super::{Flight, Holder, Stage, count};
use crate::lease::{
    clock::BootTime,
    state::{Granted, LedgerState, SyncReply, SyncRequest},
    timing::Timing,
    wire,
};

impl Holder {
    /// Whether a SYNC should go at once rather than at the next heartbeat.
    pub fn is_due(&self) -> bool {
        self.due && self.flight.is_none()
    }

    /// How long to wait until the next request when nothing happens; `jitter` is random in -1..=1.
    pub fn pause(&self, jitter: f64) -> Duration {
        let base = match self.answered && !self.recovering {
            true if self.is_resting() => self.timing.rest,
            true => self.timing.heartbeat,
            false => self.timing.retry,
        };
        base.mul_f64(1.0 + Timing::JITTER * jitter.clamp(-1.0, 1.0))
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
            want: self.wanted(),
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
        // Who claims nothing has nothing that could end.
        let rests = self.resting && granted.claim == 0;
        self.deadline = (!rests).then(|| flight.sent + granted.lease.min(self.timing.lease));
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

    /// An event of the pool: `<kind> <inc or ->`. Whoever is asked whether it lives answers. Not for what we published
    /// ourselves, nor for freed slots when we have all, nor for slots that others lack when we have none, nor for other shares
    /// while we rest with one.
    pub fn hear(&mut self, event: &str) {
        let (kind, inc) = event.split_once(' ').unwrap_or((event, "-"));
        if kind == wire::ASK {
            self.due |= inc == self.inc();
            return;
        }
        if inc == self.inc() {
            return;
        }
        let rests = self.is_resting() && self.entitlement > 0;
        match (kind, &mut self.flight) {
            ("free", Some(flight)) => flight.free_heard = true,
            ("free", None) => self.due |= self.is_short() || self.stage != Stage::Held,
            ("short", None) => self.due |= self.claim > 0 || self.stage != Stage::Held,
            ("policy", None) if rests => {}
            _ => self.due = true,
        }
    }

    /// How many slots could be used from now on.
    pub fn set_want(&mut self, want: u32) {
        self.due |= self.stage == Stage::Held && want.min(self.entitlement) != self.want.min(self.entitlement);
        self.want = want;
    }

    /// Whether we have less than we could use.
    pub(super) fn is_short(&self) -> bool {
        self.granted < self.entitlement.min(self.wanted())
    }
}
