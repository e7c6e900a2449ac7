//! What the leader does to a ledger besides writing shares: pure decisions on what it saw, timed on its own clock.
//!
//! The leader takes a [`Snapshot`] of each pool every 250 ms, gives it to [`Watch::observe`] and does what
//! [`Watch::actions`] says. A new leader starts with an empty [`Watch`] and thereby waits the full times (R8).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    clock::BootTime,
    quarantine::QuarantineTimers,
    state::{HolderView, LedgerState, LedgerView, Missing, Quarantine, QuarantineView, Snapshot},
    timing::Timing,
    wire,
};

/// What the leader knows besides the ledger.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// For each boot of a node (boot id), when the leader last saw the node's Lease renewed, on the leader's clock.
    pub nodes: BTreeMap<String, BootTime>,
    /// UIDs of pods whose worker process is proven dead by R5b: pod phase Succeeded or Failed AND the worker's container
    /// terminated with a container id, in the same boot of the node that the ledger names.
    pub dead: BTreeSet<String>,
}

/// How long slots are withheld, by the server, as its spec says.
#[derive(Clone, Copy, Debug)]
pub struct Holds {
    /// `closeGrace`.
    pub close_grace: Duration,
    /// `sessionTimeout`.
    pub session_timeout: Duration,
}

/// What the leader is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// INIT with a new token and the current policy; then read the epoch back (R9).
    Init {
        /// The fence to name.
        fence: String,
        /// Quarantine that is not over.
        quarantine: Vec<Quarantine>,
    },
    /// OPEN, after the mark that the pool was opened is durable (R9).
    Open {
        /// The token to name.
        token: String,
        /// Who did not re-assert.
        missing: Vec<Missing>,
    },
    /// REAP: silent for too long (R5c).
    Reap {
        /// The token to name.
        token: String,
        /// The incarnation.
        inc: String,
        /// The seq to compare.
        seq: u64,
        /// For how long its slots are withheld.
        quarantine: Duration,
    },
    /// `REAP_DEAD`: proven dead (R5b).
    ReapDead {
        /// The token to name.
        token: String,
        /// The incarnation.
        inc: String,
        /// For how long its slots are withheld.
        quarantine: Duration,
    },
    /// CLEAR: a quarantine is over.
    Clear {
        /// The token to name.
        token: String,
        /// The entry.
        id: String,
    },
}

/// How many ended incarnations a leader remembers; forgetting one can only withhold more.
const MOST_REMEMBERED: usize = 10_000;

/// A holder as last seen, and since when its seq has been the same.
#[derive(Clone, Debug)]
struct Seen {
    holder: HolderView,
    since: BootTime,
    /// Its share as last seen: what it may claim by the time of the next look.
    share: u32,
}

/// What a leader saw of one pool, on its own clock.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: BTreeMap<String, Seen>,
    /// Incarnations that we saw end: a stale copy of the ledger cannot bring them back.
    over: BTreeSet<String>,
    withheld: QuarantineTimers,
    /// Since when nothing has been in force, and on which node.
    outage: Option<(String, BootTime)>,
    /// The recovery in sight, and since when.
    recovery: Option<(String, BootTime)>,
    view: Option<LedgerView>,
}

impl Watch {
    /// Takes in a snapshot; `now` is the moment its answer came, so that everything is timed too long rather than too short.
    pub fn observe(&mut self, snapshot: &Snapshot, now: BootTime) {
        let Some(view) = snapshot.in_force() else {
            if self.outage.as_ref().is_none_or(|(fence, _)| *fence != snapshot.node_fence) {
                self.outage = Some((snapshot.node_fence.clone(), now));
            }
            // Not in force, but what it says was true once: nobody in it may be forgotten (R8).
            if let Some(stale) = &snapshot.ledger {
                self.load(stale, now);
            }
            (self.view, self.recovery) = (None, None);
            return;
        };
        self.outage = None;
        match view.state {
            LedgerState::Rec => {
                if self.recovery.as_ref().is_none_or(|(token, _)| *token != view.token) {
                    self.recovery = Some((view.token.clone(), now));
                }
            }
            // Whoever is not in an open ledger has been reaped, replaced or withheld by it.
            LedgerState::Open => {
                self.recovery = None;
                let over = self.seen.keys().filter(|inc| view.holder(inc).is_none()).cloned();
                self.over.extend(over);
                self.seen.retain(|inc, _| view.holder(inc).is_some());
                if self.over.len() > MOST_REMEMBERED {
                    self.over.clear();
                }
            }
        }
        self.remember(view, now);
        self.withheld.observe(&view.quarantine, now);
        self.view = Some(view.clone());
    }

    /// Takes in a ledger that is not in force, such as a stale copy or what is mirrored in the status: what we saw
    /// ourselves goes first.
    pub fn load(&mut self, view: &LedgerView, now: BootTime) {
        for holder in view.holders.iter().filter(|holder| !self.over.contains(&holder.inc)) {
            let share = view.entitlements.get(&holder.pod_uid).copied().unwrap_or(0);
            let seen = || Seen { holder: holder.clone(), since: now, share };
            self.seen.entry(holder.inc.clone()).or_insert_with(seen);
        }
        self.withheld.add(&view.quarantine, now);
    }

    /// Shares that are on their way to the ledger: what a holder may claim before the next look (R8). To be called before
    /// POLICY is sent.
    pub fn sent(&mut self, shares: &BTreeMap<String, u32>) {
        for seen in self.seen.values_mut() {
            seen.share = seen.share.max(shares.get(&seen.holder.pod_uid).copied().unwrap_or(0));
        }
    }

    fn remember(&mut self, view: &LedgerView, now: BootTime) {
        for holder in &view.holders {
            let share = view.entitlements.get(&holder.pod_uid).copied().unwrap_or(0);
            let known = self.seen.get(&holder.inc);
            let since = known.filter(|seen| seen.holder.seq == holder.seq).map_or(now, |seen| seen.since);
            self.seen.insert(holder.inc.clone(), Seen { holder: holder.clone(), since, share });
        }
    }

    /// What is to be done now. `opened`: whether the pool was ever open (R9's mark); a fresh one opens at once.
    /// `store_wait`: how long an old primary may still write (R8): zero for a single node.
    pub fn actions(
        &self,
        now: BootTime,
        timing: &Timing,
        holds: Holds,
        opened: bool,
        store_wait: Duration,
        evidence: &Evidence,
    ) -> Vec<Action> {
        if let Some((fence, since)) = &self.outage {
            let safe = now.saturating_since(*since) >= store_wait;
            let quarantine = self.withheld.unexpired(now, timing).into_iter().map(again).collect();
            return if safe { vec![Action::Init { fence: fence.clone(), quarantine }] } else { Vec::new() };
        }
        let Some(view) = &self.view else { return Vec::new() };
        let mut actions = Vec::new();
        if let Some((token, since)) = &self.recovery {
            // A worker may have learnt a longer lease from the ledger than ours.
            let reclaim = timing.reclaim.max(timing.stretched(view.lease + Timing::SLACK));
            if !opened || now.saturating_since(*since) >= reclaim {
                actions.push(Action::Open { token: token.clone(), missing: self.missing(view, now, holds, evidence) });
            }
        }
        for holder in &view.holders {
            actions.extend(self.reap(view, holder, now, timing, holds, evidence));
        }
        actions.extend(
            self.withheld.over(now, timing).into_iter().map(|id| Action::Clear { token: view.token.clone(), id }),
        );
        actions
    }

    /// Whether and how a holder of the ledger in force is taken out (R5b, R5c).
    fn reap(
        &self,
        view: &LedgerView,
        holder: &HolderView,
        now: BootTime,
        timing: &Timing,
        holds: Holds,
        evidence: &Evidence,
    ) -> Option<Action> {
        let seen = self.seen.get(&holder.inc)?;
        let silent = now.saturating_since(seen.since);
        // A lost FIN is sent again within as long again as it has been silent.
        let short = (holds.close_grace + silent).min(holds.session_timeout);
        let (token, inc) = (view.token.clone(), holder.inc.clone());
        if evidence.dead.contains(&holder.pod_uid) {
            return Some(Action::ReapDead { token, inc, quarantine: short });
        }
        let reclaim = timing.reclaim.max(timing.stretched(view.lease + Timing::SLACK));
        if silent < reclaim {
            return None;
        }
        let quarantine = if self.node_lives(view, holder, seen.since, timing, evidence) {
            short
        } else if silent < reclaim + timing.stretched(timing.node_renewal) {
            return None;
        } else {
            holds.session_timeout
        };
        Some(Action::Reap { token, inc, seq: holder.seq, quarantine })
    }

    /// Whether the holder's node, in the same boot, gave a sign of life after the holder's process must have been dead.
    fn node_lives(
        &self,
        view: &LedgerView,
        holder: &HolderView,
        since: BootTime,
        timing: &Timing,
        evidence: &Evidence,
    ) -> bool {
        let dead_by = since + timing.stretched(view.lease.max(timing.lease));
        let renewed = evidence.nodes.get(&holder.boot_id).is_some_and(|renewed| *renewed > dead_by);
        let neighbour = self.seen.values().any(|other| {
            other.holder.boot_id == holder.boot_id && other.holder.process != holder.process && other.since > dead_by
        });
        renewed || neighbour
    }

    /// Who was seen before and has not re-asserted, with the larger of its claim and its share.
    fn missing(&self, view: &LedgerView, now: BootTime, holds: Holds, evidence: &Evidence) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (inc, seen) in self.seen.iter().filter(|(inc, _)| view.holder(inc).is_none()) {
            let holder = &seen.holder;
            let heirs = || view.holders.iter().filter(|heir| heir.pod_uid == holder.pod_uid);
            // The same process under a new incarnation has accounted for all its old sockets (R3).
            if heirs().any(|heir| heir.process == holder.process) {
                continue;
            }
            let same_boot = heirs().any(|heir| heir.boot_id == holder.boot_id);
            let dead = same_boot || evidence.dead.contains(&holder.pod_uid);
            let short = holds.close_grace + now.saturating_since(seen.since);
            let hold = if dead { short.min(holds.session_timeout) } else { holds.session_timeout };
            let slots = holder.claim.max(seen.share);
            if slots > 0 {
                let id = format!("{inc}.{}", holder.seq);
                let quarantine = Quarantine { id, slots, seconds: wire::seconds(hold), why: "missing".to_owned() };
                missing.push(Missing { inc: inc.clone(), quarantine });
            }
        }
        missing
    }
}

fn again(entry: QuarantineView) -> Quarantine {
    let QuarantineView { id, slots, seconds, why } = entry;
    Quarantine { id, slots, seconds, why }
}

#[cfg(test)]
mod tests;
