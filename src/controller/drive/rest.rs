//! When a pool needs no look: its twin says that its ledger is as the last look showed it, and nothing else asks for one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::RngExt;

use super::{pool::Pool, saturation::Saturation, settled::Settled, turn::Turn};
use crate::{
    controller::plan::PoolPlan,
    lease::{BootTime, LedgerState, LedgerView, Timing},
    store::StoreError,
    system,
};

/// After how long at most a ledger is looked at, whatever its twin says: it may be changed by hand, or by a release that
/// knows no twins.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Pool {
    /// The ledger as it must still be for the pool to need no look in this turn; `None` when it needs one anyway.
    pub fn at_rest(
        &self,
        plan: Option<&Arc<PoolPlan>>,
        marked: bool,
        turn: &Turn<'_>,
        now: BootTime,
    ) -> Option<&LedgerView> {
        let settled = self.settled.as_ref().filter(|settled| marked && now < settled.until)?;
        let view = self.watch.view().filter(|view| view.twinned && view.state == LedgerState::Open)?;
        let is_driven = plan == Some(&settled.plan) && self.standing == settled.standing && self.lent() == settled.lent;
        let is_saturated = self.saturation.as_ref().is_none_or(Saturation::is_watched);
        let dead = &turn.evidence.dead;
        let is_proven_dead = !dead.is_empty() && view.holders.iter().any(|holder| dead.contains(&holder.pod_uid));
        (is_driven && !is_saturated && !is_proven_dead).then_some(view)
    }

    /// Asks holders that rest and were not heard of for long whether they live, where that matters: `mail_waits`, or their pods
    /// are gone. Whoever does not answer is taken for dead.
    pub async fn ask(&mut self, mail_waits: bool, now: BootTime) -> Result<(), StoreError> {
        for inc in self.watch.to_ask(mail_waits, now) {
            self.ledger.ask(&inc).await?;
            self.watch.asked(&inc, now);
            // Its silence is timed from now on.
            self.settled = None;
        }
        Ok(())
    }

    /// The ledger is as the last look showed it.
    pub fn rest(&mut self, now: BootTime) {
        self.watch.unchanged(now);
    }

    /// Nothing was left to do for this plan, while those shares were lent.
    pub(super) fn settle(&mut self, plan: Option<&Arc<PoolPlan>>, lent: BTreeSet<String>, timing: &Timing) {
        // Not all at the same time again and again.
        let later = BootTime::now() + LOOK_EVERY.mul_f64(system::rng().random_range(0.5..=1.0));
        let until = self.watch.due(timing).map_or(later, |due| due.min(later));
        let standing = self.standing.clone();
        self.settled = plan.map(|plan| Settled { plan: Arc::clone(plan), standing, lent, until });
    }
}
