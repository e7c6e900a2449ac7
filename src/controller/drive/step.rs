//! One step of a pool: what the last look at its ledger calls for.

use std::{sync::Arc, time::Duration};

use super::{
    error::ApplyError,
    incident::Incident,
    pool::Pool,
    shares,
    turn::{Driven, Turn},
};
use crate::{
    api::DurationText,
    controller::plan::PoolPlan,
    lease::{Action, BootTime, LedgerState, LedgerView, OldPrimary, Policy, PolicyReply},
};

/// The `sessionTimeout` of a pool that no relay named since this leader began: as long as the API allows at most.
const NAMELESS: Duration = Duration::from_secs(24 * 3_600);

/// What became of the policy.
enum Written {
    /// It was in force already.
    No,
    Yes,
    /// The ledger cannot be written now, or not as it was seen.
    Wait,
}

impl Pool {
    /// Does what the last look calls for. Returns whether another look is worth while.
    pub(super) async fn step(
        &mut self,
        plan: Option<&Arc<PoolPlan>>,
        marked: bool,
        turn: &Turn<'_>,
        driven: &mut Driven,
        incidents: &mut Vec<Incident>,
    ) -> Result<bool, ApplyError> {
        let nothing_known = self.mirror(turn.timing).is_empty();
        // A lost ledger is made anew as long as someone may hold its slots: the pool may be named again before that is over.
        if plan.is_none() && driven.snapshot.ledger.is_none() && nothing_known && !marked {
            driven.removed = true;
            return Ok(false);
        }
        // A mirror tells of a pool that was open, even when ledger and mark are lost.
        let is_new = !marked && driven.snapshot.ledger.is_none() && nothing_known;
        let fresh = *self.fresh.get_or_insert(is_new);
        let mut changed = false;
        let target = self.target(plan.map(|plan| &**plan), driven.snapshot.in_force(), turn);
        if let Some(ledger) = driven.snapshot.in_force() {
            // A pool may be open without our mark when the ConfigMap was deleted or restored.
            driven.wants_mark = !marked;
            if ledger.state == LedgerState::Open {
                self.fresh = Some(false);
            }
            if plan.is_none() && self.remove_unused(ledger).await? {
                driven.removed = true;
                return Ok(true);
            }
            match self.write_policy(ledger, target.clone(), turn).await? {
                Written::Wait => return Ok(true),
                Written::Yes => changed = true,
                Written::No => {}
            }
        }
        if let Some(plan) = plan {
            self.session_timeout = Some(plan.session_timeout.get());
        }
        Ok(changed | self.recover(fresh, marked, &target, turn, driven, incidents).await?)
    }

    /// Removes a ledger that nothing is left on; whether it is gone.
    async fn remove_unused(&self, ledger: &LedgerView) -> Result<bool, ApplyError> {
        let carried = self.standing.carried;
        if !shares::is_unused(ledger, carried) || !self.ledger.remove_unused(ledger, carried).await? {
            return Ok(false);
        }
        self.ledger.record_saturation(None).await?;
        Ok(true)
    }

    /// Writes the policy if the ledger's is another one.
    async fn write_policy(
        &mut self,
        ledger: &LedgerView,
        target: Policy,
        turn: &Turn<'_>,
    ) -> Result<Written, ApplyError> {
        let Some(policy) = shares::correction(ledger, target) else { return Ok(Written::No) };
        self.watch.sent(policy.epoch, &policy.entitlements, BootTime::now());
        let reply = self.ledger.policy(&policy).await?;
        self.watch.answered();
        match reply {
            PolicyReply::Ok => {
                let (pool, shares) = (self.ledger.pool(), policy.entitlements.values().collect::<Vec<_>>());
                tracing::info!(pool, policy.budget, policy.revision, ?shares, "wrote the shares");
                Ok(Written::Yes)
            }
            PolicyReply::Old { epoch, .. } => {
                self.check(epoch, Some("policy"), turn)?;
                // What it is older than has come since the look.
                Ok(Written::Wait)
            }
            PolicyReply::Wait(_) => Ok(Written::Wait),
        }
    }

    /// Makes, opens and cleans the ledger as [`crate::lease::Watch::actions`] says; whether anything was done.
    async fn recover(
        &mut self,
        fresh: bool,
        marked: bool,
        target: &Policy,
        turn: &Turn<'_>,
        driven: &mut Driven,
        incidents: &mut Vec<Incident>,
    ) -> Result<bool, ApplyError> {
        let heirs = self.standing.session_timeout.map(DurationText::get);
        let session_timeout = self.session_timeout.or(heirs).unwrap_or(NAMELESS);
        // A node that answers for the first time is asked for its replication before anything is made there.
        let Some(old_primary) = turn.topology.old_primary(&driven.snapshot.node_fence) else { return Ok(false) };
        let recovers = driven.snapshot.in_force().is_none_or(|ledger| ledger.state == LedgerState::Rec);
        driven.by_roll_call = old_primary == OldPrimary::Unbounded && recovers && !fresh;
        let opened = !fresh || self.may_be_older;
        let actions =
            self.watch.actions(BootTime::now(), turn.timing, session_timeout, opened, old_primary, turn.evidence);
        let mut acted = false;
        for action in actions {
            // What its servers still count is in the ledgers of before.
            if matches!(action, Action::Init { .. }) && fresh && !self.standing.waits_for.is_empty() {
                continue;
            }
            // The mark comes first, or a crash in between would open a pool twice without the reclaim time.
            if matches!(action, Action::Open { .. }) && !marked {
                driven.wants_mark = true;
                continue;
            }
            self.act(action, target, turn, driven, incidents).await?;
            acted = true;
        }
        Ok(acted)
    }
}
