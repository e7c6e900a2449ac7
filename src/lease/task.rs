//! The task behind a [`super::SlotPool`]: registers, renews, listens, ends quarantine, leaves.

use std::time::Duration;

use rand::RngExt;
use tracing::{debug, info, warn};

use super::{
    holder::Holder,
    shared::{LONGEST_SLEEP, Shared},
    state::{ClearReply, LeaveReply, SyncRequest},
    store::LedgerStore,
};
use crate::{
    store::{Heard, StoreError},
    system,
};

/// The least sleep of whoever waits for a moment on another clock.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// Keeps the lease until a closing process has left.
pub(super) async fn keep(shared: &Shared, ledger: &LedgerStore) {
    let mut failing = false;
    loop {
        if let Some(leaving) = shared.with(Holder::leaving) {
            // A LEAVE that is lost is repeated with the next seq until the lease ends.
            match ledger.leave(&leaving.token, &leaving.inc, leaving.seq).await {
                Ok(LeaveReply::Ok | LeaveReply::Gone) => shared.with(|holder, _| holder.left()),
                Ok(reply) => debug!(ledger.pool = ledger.pool(), ?reply, "the ledger does not take the leave now"),
                Err(error) => debug!(ledger.pool = ledger.pool(), %error, "could not leave the ledger"),
            }
        }
        if shared.look(|holder, _| holder.is_done()) {
            info!(ledger.pool = ledger.pool(), "left the pool");
            return;
        }
        if let Some(request) = shared.with(Holder::request) {
            let outcome = renew(shared, ledger, &request).await;
            report(ledger, outcome.err(), &mut failing);
        }
        rest(shared).await;
    }
}

/// One SYNC and its answer; the deadline is watched meanwhile.
async fn renew(shared: &Shared, ledger: &LedgerStore, request: &SyncRequest) -> Result<(), StoreError> {
    let limit = shared.look(|holder, _| holder.timing().sync_limit());
    let calling = tokio::time::timeout(limit, ledger.sync(request, limit));
    tokio::pin!(calling);
    let outcome = loop {
        let left = time_to_deadline(shared);
        tokio::select! {
            outcome = &mut calling => break outcome,
            () = tokio::time::sleep(left) => { shared.with(Holder::tick); }
        }
    };
    let outcome =
        outcome.unwrap_or_else(|_| Err(StoreError::TimedOut { address: ledger.store().address().to_owned(), limit }));
    let (reply, error) = match outcome {
        Ok(reply) => (Some(reply), None),
        Err(error) => (None, Some(error)),
    };
    debug!(ledger.pool = ledger.pool(), ledger.seq = request.seq, ledger.need = request.need, ?reply, "synced");
    shared.with(|holder, now| holder.answer(request, reply, now));
    error.map_or(Ok(()), Err)
}

/// Until the deadline, in steps that a suspended machine cannot stretch; without one there is nothing to watch.
fn time_to_deadline(shared: &Shared) -> Duration {
    let left = shared.look(|holder, now| {
        let lives = holder.status(now).registered;
        let deadline = holder.deadline().filter(|_| lives);
        deadline.map(|deadline| deadline.saturating_since(now).clamp(LEAST_SLEEP, LONGEST_SLEEP))
    });
    left.unwrap_or(Duration::MAX)
}

/// Says once that the ledger cannot be reached, and once that it can be again.
fn report(ledger: &LedgerStore, error: Option<StoreError>, failing: &mut bool) {
    let failed = error.is_some();
    match error {
        Some(error) if *failing => debug!(ledger.pool = ledger.pool(), %error, "still no answer from the ledger"),
        Some(error) => {
            warn!(ledger.pool = ledger.pool(), %error, "no answer from the ledger; slots are kept until the lease ends");
        }
        None if *failing => info!(ledger.pool = ledger.pool(), "the ledger answers again"),
        None => {}
    }
    if failed != *failing {
        ledger.store().listen_anew();
    }
    *failing = failed;
}

/// Ends quarantine that is over on our clock, so that it ends even while no controller lives, and what is proven to be free;
/// all of it in one call, which no heartbeat waits for. Returns never.
pub(super) async fn clear(shared: &Shared, ledger: &LedgerStore) {
    loop {
        let (token, over, next) =
            shared.look(|holder, now| (holder.token().to_owned(), holder.over(now), holder.next_over(now)));
        if over.is_empty() {
            // The clock of the sleep stops in suspend, and entries come and go with each answer.
            tokio::select! {
                () = tokio::time::sleep(next.unwrap_or(LONGEST_SLEEP).clamp(LEAST_SLEEP, LONGEST_SLEEP)) => {}
                () = shared.ended.notified() => {}
            }
            continue;
        }
        match ledger.clear(&token, &over).await {
            Ok(reply @ (ClearReply::Ok | ClearReply::Gone)) => {
                debug!(ledger.pool = ledger.pool(), quarantine.ids = ?over, ?reply, "quarantine is over");
                shared.with(|holder, _| over.iter().for_each(|id| holder.cleared(id)));
                continue;
            }
            Ok(reply) => debug!(ledger.pool = ledger.pool(), ?reply, "the ledger does not end quarantine now"),
            Err(error) => debug!(ledger.pool = ledger.pool(), %error, "could not end a quarantine"),
        }
        let pause = shared.look(|holder, _| holder.timing().heartbeat);
        tokio::time::sleep(pause).await;
    }
}

/// Waits for the next heartbeat, a reason to go at once, or the deadline.
async fn rest(shared: &Shared) {
    let pause = shared.look(|holder, _| holder.pause(system::rng().random_range(-1.0..=1.0)));
    let end = tokio::time::Instant::now() + pause;
    loop {
        if shared.look(|holder, _| holder.is_due()) {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(end) => return,
            () = shared.nudge.notified() => {}
            () = tokio::time::sleep(time_to_deadline(shared)) => { shared.with(Holder::tick); }
        }
    }
}

/// Follows the pool's events. They are hints: what is missed is made good by the next heartbeat.
pub(super) async fn listen(shared: &Shared, ledger: &LedgerStore) {
    let mut events = ledger.store().subscribe(ledger.channel());
    loop {
        match events.next().await {
            // Something may have happened before we listened.
            Heard::Listening => shared.with(|holder, _| holder.hear("listening -")),
            Heard::Message(event) => shared.with(|holder, _| holder.hear(&event)),
        }
    }
}
