//! Mail in the hands of dead processes: found, resolved by stage, told of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    controller::{
        metrics::ControllerMetrics,
        observe::Safety,
        plan::{RelayKey, RelayPlan},
        status::{Action, Activity, News, Note, queue_of},
        world::World,
    },
    lease::{BootTime, Timing},
    queue::{At, ProcessClaims, RecoverOptions, Recovery},
    store::{Store, StoreError},
};

/// How often claims are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Looks each second at all claims of all working relays. Never returns; cancelling leaves open whether the last
/// recovery took effect, and the next look repeats it.
pub async fn recover_claims(
    store: Store,
    timing: Timing,
    world: watch::Receiver<Arc<World>>,
    safety: watch::Receiver<Safety>,
    activity: watch::Receiver<Arc<Activity>>,
    news: mpsc::UnboundedSender<News>,
    metrics: ControllerMetrics,
) {
    let mut first_seen: BTreeMap<(RelayKey, String), BootTime> = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let now_world = Arc::clone(&world.borrow());
        // A process that has a claim is named in its queue.
        let activity = Arc::clone(&activity.borrow());
        first_seen.retain(|(key, _), _| now_world.plan.relays.contains_key(key) && activity.may_move(key));
        let working = now_world.plan.relays.iter().filter(|(_, relay)| relay.stalled.is_none());
        for (key, relay) in working.filter(|(key, _)| activity.may_move(key)) {
            let pass = Pass { store: &store, timing: &timing, world: &now_world, safety: &safety, key, relay };
            match pass.run(&mut first_seen).await {
                Ok(done) => {
                    for (pod, recovery) in done {
                        metrics.recovered(&recovery);
                        if let Some(note) = told(&pod, &recovery) {
                            let _ = news.send(News { relay: key.clone(), note });
                        }
                    }
                }
                Err(error) => tracing::debug!(relay = %key, %error, "cannot look at the claims"),
            }
        }
    }
}

struct Pass<'a> {
    store: &'a Store,
    timing: &'a Timing,
    world: &'a World,
    safety: &'a watch::Receiver<Safety>,
    key: &'a RelayKey,
    relay: &'a RelayPlan,
}

impl Pass<'_> {
    /// Each process whose mail was resolved: its pod, and what was done.
    async fn run(
        &self,
        first_seen: &mut BTreeMap<(RelayKey, String), BootTime>,
    ) -> Result<Vec<(String, Recovery)>, StoreError> {
        let queue = queue_of(self.store, self.relay);
        let processes = queue.processes().await?;
        let now = BootTime::now();
        first_seen.retain(|(key, process), _| key != self.key || processes.iter().any(|p| p.process == *process));
        let mut done = Vec::new();
        for found in processes {
            let seen = *first_seen.entry((self.key.clone(), found.process.clone())).or_insert(now);
            let silence = self.world.liveness.silence(&found.process, &self.relay.pools, seen, now);
            if silence < self.timing.reclaim {
                continue;
            }
            let options = self.options(&found, seen);
            let recovery = match queue.recover(&found.process, &options, At::Redis).await {
                Ok(recovery) => recovery,
                // What is wrong with the claims of one process keeps nobody else's mail.
                Err(error) if !error.is_silence() => {
                    tracing::debug!(relay = %self.key, process = found.process, %error, "cannot recover its claims");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if recovery == Recovery::default() {
                // It drained before it ended: only its name was left.
                continue;
            }
            tracing::warn!(
                relay = %self.key,
                pod = found.pod,
                process = found.process,
                silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
                mails.requeued = recovery.requeued,
                mails.held = recovery.held,
                mails.resent = recovery.resent,
                mails.poison = recovery.poison,
                "resolved the mail of a dead worker"
            );
            done.push((found.pod, recovery));
        }
        Ok(done)
    }

    fn options(&self, found: &ProcessClaims, seen: BootTime) -> RecoverOptions {
        let fence_changed = self.world.fence_changed.is_some_and(|changed| changed >= seen);
        // A worker that ended although its pod goes on was ended by something; a pod on its way out is a scale-down.
        let pod = self.relay.workers.iter().find(|(_, name)| **name == found.pod).map(|(uid, _)| uid);
        let crashed = pod.is_some_and(|uid| self.world.pods.get(uid) == Some(&false));
        RecoverOptions {
            unknown: self.relay.relay.spec.unknown_outcome,
            fence_changed: fence_changed && !self.safety.borrow().keeps_every_write(),
            crashed,
            // Its supervisor would know; when that is gone too, nobody does.
            out_of_memory: false,
        }
    }
}

/// What became of a dead worker's mail.
fn told(pod: &str, r: &Recovery) -> Option<Note> {
    if r.requeued + r.held + r.resent + r.poison == 0 {
        return None;
    }
    let text = format!(
        "mail in the hands of {pod}: {} back in the queue, {} held, {} sent again, {} dead-lettered as poison",
        r.requeued, r.held, r.resent, r.poison
    );
    let note = Note::normal(Action::Reclaiming, "MailRecovered", text);
    Some(Note { warning: r.held + r.poison > 0, ..note })
}
