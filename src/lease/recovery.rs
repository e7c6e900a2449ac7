//! What the leader does to a ledger besides writing shares: pure decisions on what it saw, timed on its own clock.
//!
//! Every 250 ms the leader gives each pool's [`Snapshot`] to [`Watch::observe`], or says [`Watch::unchanged`] where the ledger's
//! twin shows that it is as it was ([`super::Twins`]). What [`Watch::actions`] says is done after a fresh look alone. A new
//! leader starts with what the one before wrote down ([`Mirror`]), and waits the full times (R8).

mod action;
mod decide;
mod mirror;
mod restore;
mod unlisted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use action::{Action, Evidence, OldPrimary};
pub use mirror::{Incarnation, Mirror, MirroredHolder, MirroredQuarantine};

use self::unlisted::Unlisted;
use super::{
    clock::BootTime,
    quarantine::QuarantineTimers,
    state::{HolderView, LedgerState, LedgerView, Snapshot},
};

/// How many ended incarnations a leader remembers; forgetting one can only withhold more.
const MOST_REMEMBERED: usize = 10_000;

/// The longest time without attention after which a leader still knows that nobody else led meanwhile: less than the
/// leader's Lease, so that no other one can have taken over and stepped down again.
const ATTENTION: Duration = Duration::from_secs(4);
/// After how long a holder that rests is asked whether it lives, if that matters.
const ASK_AFTER: Duration = Duration::from_secs(20);
/// How long a policy without an answer may still come into force.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// A holder as last seen, and since when its seq has been the same.
#[derive(Clone, Debug)]
struct Seen {
    holder: HolderView,
    /// When we first saw this seq.
    since: BootTime,
    /// When we first saw the incarnation.
    first: BootTime,
    /// Whether it was there before the ledger was lost: who was seen only in a recovery may be someone's successor.
    settled: bool,
    /// When it was asked whether it lives, since it rests.
    asked: Option<BootTime>,
}

impl Seen {
    /// Since when its silence counts: who rests has nothing to say unless it is asked.
    fn silent_since(&self) -> Option<BootTime> {
        if self.holder.is_resting() { self.asked } else { Some(self.since) }
    }

    fn is_unasked(&self) -> bool {
        self.holder.is_resting() && self.asked.is_none()
    }
}

/// Shares that were sent to the ledger.
#[derive(Clone, Debug)]
struct Sent {
    shares: BTreeMap<String, u32>,
    at: BootTime,
    answered: bool,
    /// Sent to a ledger in recovery: nobody can claim any of it before OPEN.
    dormant: bool,
}

/// What a leader saw of one pool, on its own clock.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: BTreeMap<String, Seen>,
    /// Incarnations that we saw end, with their pods: a stale copy of the ledger cannot bring them back.
    over: BTreeMap<String, String>,
    withheld: QuarantineTimers,
    /// Since when nothing has been in force, and on which node.
    outage: Option<(String, BootTime)>,
    /// The recovery in sight, and since when.
    recovery: Option<(String, BootTime)>,
    view: Option<Arc<LedgerView>>,
    /// The roll: the share that each pod had, or may have had, since the ledger was last seen open (R8).
    roll: BTreeMap<String, u32>,
    sent: Vec<Sent>,
    /// The epoch of what was sent.
    epoch: Option<u64>,
    /// Whether the roll is complete: this leader saw the pool open under its own policy and has led ever since.
    history: bool,
    attended: Option<BootTime>,
    /// When the last look that was answered was, and whether one after it was not.
    looked: Option<BootTime>,
    blind: bool,
    /// Which servers the ledger is for, as it or a mirror said last.
    servers: BTreeSet<String>,
    /// The highest version that any look showed. A ledger in force that shows a lower one was restored in place.
    version: u64,
    /// Whether the last look showed such a copy.
    is_older_copy: bool,
    /// The lease length that was seen in force last.
    lease: Duration,
    /// Lengths that were shortened since, and when that was seen: who renewed before may still hold such a lease.
    longer: Vec<(Duration, BootTime)>,
    /// The pods that the API lists as workers of the pool.
    listed: Option<BTreeSet<String>>,
    /// Holders that the mirror of the leader before did not list.
    unlisted: Option<Unlisted>,
    /// Whose slots a quarantine holds, as the leader before knew it, by its id.
    origins: BTreeMap<String, String>,
}

impl Watch {
    /// Takes in a snapshot; `now` is the moment its answer came, so that everything is timed too long rather than too short.
    pub fn observe(&mut self, snapshot: &Snapshot, now: BootTime) {
        self.attend(now);
        self.forgive(now);
        let in_force = snapshot.in_force();
        self.is_older_copy = in_force.is_some_and(|view| view.version < self.version);
        self.version = snapshot.ledger.as_ref().map_or(0, |ledger| ledger.version).max(self.version);
        let Some(view) = in_force.filter(|_| !self.is_older_copy) else {
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
                let over = self.seen.iter().filter(|(inc, _)| view.holder(inc).is_none());
                self.over.extend(over.map(|(inc, seen)| (inc.clone(), seen.holder.pod.clone())));
                self.forget_restored(view);
                self.seen.retain(|inc, _| view.holder(inc).is_some());
                if self.over.len() > MOST_REMEMBERED {
                    self.over.clear();
                }
                self.settle_sent(now);
                self.roll.clear();
                self.enroll(&view.entitlements);
                self.history = self.epoch == Some(view.epoch);
            }
        }
        self.remember(view, now);
        if !view.servers.is_empty() {
            self.servers.clone_from(&view.servers);
        }
        if view.lease < self.lease {
            self.longer.push((self.lease, now));
        }
        self.lease = view.lease;
        self.forget_longer(now);
        self.withheld.observe(&view.quarantine, now);
        self.view = snapshot.shared().cloned();
    }

    /// Time passes over a ledger in force of which it is known that it is as the last look showed it: does what
    /// [`Watch::observe`] of the same snapshot would do, and reads nothing.
    pub fn unchanged(&mut self, now: BootTime) {
        self.attend(now);
        self.forgive(now);
        if let Some(view) = self.view.as_ref().filter(|view| view.state == LedgerState::Open) {
            self.history = self.epoch == Some(view.epoch);
            self.settle_sent(now);
        }
        self.forget_longer(now);
    }

    /// What came of shares that were sent and answered is in the look that shows the ledger open.
    fn settle_sent(&mut self, now: BootTime) {
        self.sent.retain(|sent| !sent.answered && now.saturating_since(sent.at) < UNDER_WAY);
    }

    fn forget_longer(&mut self, now: BootTime) {
        self.longer.retain(|(lease, since)| now.saturating_since(*since) < *lease * 2);
    }

    /// The ledger of the last look, if it showed one in force.
    pub fn view(&self) -> Option<&LedgerView> {
        self.view.as_deref()
    }

    /// Whether the last look showed an older copy of the ledger: it is not to be taken for the one in force.
    pub fn is_older_copy(&self) -> bool {
        self.is_older_copy
    }

    /// A look was not answered: this leader lives, and no other one leads.
    pub fn unanswered(&mut self, now: BootTime) {
        self.attend(now);
        self.blind = true;
    }

    /// A store that gave us no answer gave workers none either: the time in which it stood still is nobody's silence. They
    /// come back after it, and each that was reaped meanwhile would cost its slots for a whole hold.
    fn forgive(&mut self, now: BootTime) {
        let last = self.looked.replace(now);
        if !std::mem::take(&mut self.blind) {
            return;
        }
        let blind = last.map_or(Duration::ZERO, |last| now.saturating_since(last));
        let since = self.seen.values_mut().flat_map(|seen| std::iter::once(&mut seen.since).chain(&mut seen.asked));
        for since in since.chain(self.recovery.as_mut().map(|(_, since)| since)) {
            *since = (*since + blind).min(now);
        }
    }

    fn attend(&mut self, now: BootTime) {
        if self.attended.is_some_and(|last| now.saturating_since(last) > ATTENTION) {
            self.history = false;
        }
        self.attended = Some(now);
    }

    /// Takes in a ledger that is not in force, such as a stale copy: what we saw ourselves goes first.
    pub fn load(&mut self, view: &LedgerView, now: BootTime) {
        for holder in view.holders.iter().filter(|holder| !self.over.contains_key(&holder.inc)) {
            let seen = || Seen { holder: holder.clone(), since: now, first: now, settled: true, asked: None };
            self.seen.entry(holder.inc.clone()).or_insert_with(seen);
        }
        if self.servers.is_empty() {
            self.servers.clone_from(&view.servers);
        }
        // Who saw the shares in force knows better than a copy.
        if !self.history {
            self.enroll(&view.entitlements);
        }
        self.withheld.add(&view.quarantine, now);
    }

    /// Shares are on their way to the ledger, by POLICY or INIT: pods may have claimed them by the next look (R8). To be
    /// called before they are sent.
    pub fn sent(&mut self, epoch: u64, shares: &BTreeMap<String, u32>, now: BootTime) {
        let dormant = self.view.as_ref().is_none_or(|view| view.state == LedgerState::Rec);
        self.epoch = Some(epoch);
        self.sent.push(Sent { shares: shares.clone(), at: now, answered: false, dormant });
    }

    /// OPEN is on its way: the shares of the ledger may be claimed by the next look. To be called before it is sent.
    pub fn opening(&mut self, now: BootTime) {
        let shares = self.view.as_ref().map(|view| view.entitlements.clone()).unwrap_or_default();
        self.sent.push(Sent { shares, at: now, answered: false, dormant: false });
        for sent in &mut self.sent {
            sent.dormant = false;
        }
    }

    /// What was sent last was answered: the next look shows what came of it.
    pub fn answered(&mut self) {
        if let Some(sent) = self.sent.last_mut() {
            sent.answered = true;
        }
    }

    /// The pods that the API lists as workers of the pool now: with them the roll can be called (R8).
    pub fn list(&mut self, pods: &BTreeSet<String>) {
        if self.listed.as_ref() != Some(pods) {
            self.listed = Some(pods.clone());
        }
    }

    /// Who is to be asked whether it lives: who rests, was not heard of for long, and has slots that idle while `mail_waits`, or a
    /// pod that the API does not list. Each is asked once.
    pub fn to_ask(&self, mail_waits: bool, now: BootTime) -> Vec<String> {
        let is_silent = |seen: &Seen| now.saturating_since(seen.since) >= ASK_AFTER;
        let matters = |seen: &Seen| mail_waits || self.is_gone(seen);
        let silent = self.seen.iter().filter(|(_, seen)| seen.is_unasked() && is_silent(seen) && matters(seen));
        silent.map(|(inc, _)| inc.clone()).collect()
    }

    /// Whether its pod is none that the API lists.
    fn is_gone(&self, seen: &Seen) -> bool {
        self.listed.as_ref().is_some_and(|listed| !listed.contains(&seen.holder.pod_uid))
    }

    /// It was asked: from now on its silence is counted as anybody's.
    pub fn asked(&mut self, inc: &str, now: BootTime) {
        if let Some(seen) = self.seen.get_mut(inc) {
            seen.asked = Some(now);
        }
    }

    /// Which servers the ledger is for, as far as it is known, as words of [`super::Policy`].
    pub fn servers(&self) -> &BTreeSet<String> {
        &self.servers
    }

    /// The holders that this leader knows of, in force or not.
    pub fn known(&self) -> impl Iterator<Item = &HolderView> {
        self.seen.values().map(|seen| &seen.holder)
    }

    /// Whether slots are withheld, by the ledger or by a mirror.
    pub fn withholds(&self) -> bool {
        !self.withheld.is_empty()
    }

    fn enroll(&mut self, shares: &BTreeMap<String, u32>) {
        for (pod, share) in shares {
            let most = self.roll.entry(pod.clone()).or_default();
            *most = (*most).max(*share);
        }
    }

    /// The largest share that each pod may have had since the ledger was last seen open.
    fn shares(&self) -> BTreeMap<&str, u32> {
        let sent = self.sent.iter().filter(|sent| !sent.dormant).flat_map(|sent| &sent.shares);
        let mut most = BTreeMap::new();
        for (pod, share) in self.roll.iter().chain(sent).filter(|(_, share)| **share > 0) {
            let known = most.entry(pod.as_str()).or_default();
            *known = (*share).max(*known);
        }
        most
    }

    fn remember(&mut self, view: &LedgerView, now: BootTime) {
        for holder in &view.holders {
            // An incarnation that is new to us was not there at the look before.
            let settled = view.state == LedgerState::Open;
            let mut fresh = Seen { holder: holder.clone(), since: now, first: now, settled, asked: None };
            if let Some(known) = self.seen.get(&holder.inc) {
                (fresh.first, fresh.settled) = (known.first, known.settled || settled);
                if known.holder.seq == holder.seq {
                    (fresh.since, fresh.asked) = (known.since, known.asked);
                }
            }
            self.seen.insert(holder.inc.clone(), fresh);
        }
    }
}

#[cfg(test)]
mod tests;
