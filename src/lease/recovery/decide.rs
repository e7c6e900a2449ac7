//! What is to be done, from what was seen.

use std::time::Duration;

use super::{
    ASK_AFTER, Seen, Watch,
    action::{Action, Evidence, OldPrimary},
};
use crate::lease::{
    clock::BootTime,
    state::{HolderView, LedgerView, Missing, Quarantine, QuarantineView},
    timing::Timing,
    wire,
};

impl Watch {
    /// What is to be done now. `session_timeout` is the pool's. `opened`: whether the pool was ever open (R9's mark); a
    /// fresh one opens at once.
    pub fn actions(
        &self,
        now: BootTime,
        timing: &Timing,
        session_timeout: Duration,
        opened: bool,
        old_primary: OldPrimary,
        evidence: &Evidence,
    ) -> Vec<Action> {
        let hold = timing.hold(session_timeout);
        if let Some((fence, since)) = &self.outage {
            if self.is_older_copy {
                return vec![Action::Condemn { version: self.version }];
            }
            // Where nothing bounds the old primary, waiting is of no use: nothing is granted before everyone has come over.
            let OldPrimary::StopsWithin(wait) = old_primary else { return vec![self.init(fence, now, timing)] };
            let safe = now.saturating_since(*since) >= wait;
            return if safe { vec![self.init(fence, now, timing)] } else { Vec::new() };
        }
        let Some(view) = &self.view else { return Vec::new() };
        let mut actions = Vec::new();
        let reclaim = self.reclaim(now, timing);
        if let Some((token, since)) = &self.recovery {
            let waited = old_primary != OldPrimary::Unbounded && now.saturating_since(*since) >= reclaim;
            if !opened || waited || self.all_answer(view, evidence) {
                actions.push(Action::Open {
                    token: token.clone(),
                    missing: if opened { self.missing(view, hold, evidence) } else { Vec::new() },
                });
            }
        }
        for holder in &view.holders {
            let named = || (view.token.clone(), holder.inc.clone());
            let since = self.seen.get(&holder.inc).and_then(Seen::silent_since);
            let is_silent = since.is_some_and(|since| now.saturating_since(since) >= reclaim);
            if evidence.dead.contains(&holder.pod_uid) {
                let (token, inc) = named();
                actions.push(Action::ReapDead { token, inc, quarantine: hold });
            } else if is_silent {
                let (token, inc) = named();
                actions.push(Action::Reap { token, inc, seq: holder.seq, quarantine: hold });
            }
        }
        let ids = self.withheld.over(now, timing);
        if !ids.is_empty() {
            actions.push(Action::Clear { token: view.token.clone(), ids });
        }
        actions
    }

    /// When [`Watch::actions`] on an open ledger, or [`Watch::to_ask`] while no mail waits, may first have something to say if
    /// nothing but time goes by: never too late, though perhaps too early. `None` when that is never.
    pub fn due(&self, timing: &Timing) -> Option<BootTime> {
        // By the shortest of the leases that may be in use: a longer one is forgotten meanwhile.
        let reclaim = reclaim_of(self.lease, timing);
        let silent = self.seen.values().filter_map(Seen::silent_since).map(|since| since + reclaim);
        let unasked = self.seen.values().filter(|seen| seen.is_unasked() && self.is_gone(seen));
        silent.chain(unasked.map(|seen| seen.since + ASK_AFTER)).chain(self.withheld.next_end(timing)).min()
    }

    fn init(&self, fence: &str, now: BootTime, timing: &Timing) -> Action {
        let quarantine = self.withheld.unexpired(now, timing).into_iter().map(anew).collect();
        Action::Init { fence: fence.to_owned(), quarantine, version: self.version }
    }

    /// How long a seq must stay the same until its holder has passed its deadline: by the longest lease that may be in use,
    /// since a worker learns the length from the ledger, and keeps what it learnt until it renews.
    fn reclaim(&self, now: BootTime, timing: &Timing) -> Duration {
        let longest = self
            .longer
            .iter()
            .filter(|(lease, since)| now.saturating_since(*since) < timing.stretched(*lease + Timing::SLACK))
            .map(|(lease, _)| *lease)
            .chain([self.lease])
            .max();
        reclaim_of(longest.unwrap_or_default(), timing)
    }

    /// Whether everyone on the roll has re-asserted, is proven dead or never started: then nothing is open that the new
    /// ledger does not count, and it need not wait (R8).
    fn all_answer(&self, view: &LedgerView, evidence: &Evidence) -> bool {
        let Some(listed) = self.listed.as_ref().filter(|_| self.history) else { return false };
        let gone = self.seen.iter().filter(|(inc, _)| view.holder(inc).is_none());
        let answers = |pod: &str| {
            let is_there = view.holders_of(pod).next().is_some();
            is_there || evidence.dead.contains(pod) || evidence.never_started.contains(pod)
        };
        gone.map(|(_, seen)| seen).all(|seen| self.fate(seen, view, evidence) != Fate::Unknown)
            && self.shares().into_keys().chain(listed.iter().map(String::as_str)).all(answers)
    }

    /// What became of a holder that is not in the ledger.
    fn fate(&self, gone: &Seen, view: &LedgerView, evidence: &Evidence) -> Fate {
        let pod = &gone.holder.pod_uid;
        let heirs = || view.holders_of(pod);
        // The same process under a new incarnation has accounted for all its old sockets (R3).
        if heirs().any(|heir| heir.process == gone.holder.process) {
            return Fate::Lives;
        }
        // Generations begin anew with the ledger, so what came later to our eyes is also newer.
        let is_newer = |heir: &HolderView| {
            let later = self.seen.get(&heir.inc).is_some_and(|seen| seen.first > gone.since);
            let later = later && !self.over.contains_key(&heir.inc);
            heir.generation > gone.holder.generation || later
        };
        if heirs().any(is_newer) {
            return Fate::Replaced;
        }
        if evidence.dead.contains(pod) { Fate::Dead } else { Fate::Unknown }
    }

    /// Who was seen before and has not re-asserted, with the larger of its claim and its share.
    fn missing(&self, view: &LedgerView, hold: Duration, evidence: &Evidence) -> Vec<Missing> {
        let withhold = |inc: &str, id: String, slots: u32| {
            let quarantine = Quarantine { id, slots, seconds: wire::seconds(hold), why: "missing".to_owned() };
            (slots > 0).then(|| Missing { inc: inc.to_owned(), quarantine })
        };
        let shares = self.shares();
        let share = |pod: &str| shares.get(pod).copied().unwrap_or(0);
        let gone = self.seen.iter().filter(|(inc, _)| view.holder(inc).is_none());
        let holders = gone.filter_map(|(inc, seen)| {
            // However its process ended, the server may not know.
            (self.fate(seen, view, evidence) != Fate::Lives).then_some(())?;
            let holder = &seen.holder;
            withhold(inc, format!("{inc}.{}", holder.seq), holder.claim.max(share(&holder.pod_uid)))
        });
        // A pod that came, was granted and was lost between two looks. Who answers for it now may be the successor of the
        // one that was granted, of an earlier boot even, of which it knows nothing.
        let strangers = shares.iter().filter_map(|(pod, share)| {
            let mut known = self.seen.values().filter(|seen| seen.holder.pod_uid == **pod);
            if known.any(|seen| seen.settled || !self.history) || evidence.never_started.contains(*pod) {
                return None;
            }
            let own = view.holders_of(pod).map(|holder| holder.claim);
            let left = share.saturating_sub(own.sum());
            withhold("", format!("{pod}.{}", view.token), left)
        });
        let unlisted = self
            .unlisted
            .iter()
            .filter_map(|unlisted| withhold("", format!("unlisted.{}", view.token), unlisted.missing(view)));
        holders.chain(strangers).chain(unlisted).collect()
    }
}

/// What became of a holder that did not re-assert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its process goes on under another incarnation.
    Lives,
    /// A newer process of its pod proves it dead (R5a).
    Replaced,
    /// Proven dead by the state of its pod (R5b).
    Dead,
    Unknown,
}

fn reclaim_of(lease: Duration, timing: &Timing) -> Duration {
    timing.reclaim.max(timing.stretched(lease + Timing::SLACK))
}

/// As a new ledger withholds it.
fn anew(entry: QuarantineView) -> Quarantine {
    let QuarantineView { id, slots, seconds, why } = entry;
    Quarantine { id, slots, seconds, why }
}
