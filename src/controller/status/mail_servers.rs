//! The only writer of `MailServer` objects: their status, their Events.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{
    mail_server::{status, steady},
    writer::StatusWriter,
};
use crate::{
    api::{MailServer, MailServerStatus},
    controller::{metrics::ControllerMetrics, observe::Observed, plan::ServerPlan, world::World},
    system,
};

/// How often statuses are compared.
const TICK: Duration = Duration::from_millis(500);
/// How often one is written when nothing but figures moved, or when it could not be written.
const FIGURES_EVERY: Duration = Duration::from_secs(5);

/// What the task works with. Servers are few: each is looked at in every tick, and none is written more than twice a second.
pub struct MailServers {
    /// Writes to the API server.
    pub writer: StatusWriter,
    /// What the API server says.
    pub observed: Observed,
    /// What the leader knows.
    pub world: watch::Receiver<Arc<World>>,
    /// Figures.
    pub metrics: ControllerMetrics,
}

/// What is written of one server, and when that was tried last.
struct Written {
    status: MailServerStatus,
    at: Instant,
    failed: bool,
}

impl MailServers {
    /// Runs until dropped; what was begun is taken up by the next look.
    pub async fn run(mut self) {
        let mut written: BTreeMap<String, Written> = BTreeMap::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let world = Arc::clone(&self.world.borrow_and_update());
            written.retain(|uid, _| world.plan.servers.values().any(|server| server.uid == *uid));
            for (name, server) in &world.plan.servers {
                self.show(&world, name, server, &mut written).await;
            }
        }
    }

    async fn show(&self, world: &World, name: &str, server: &ServerPlan, written: &mut BTreeMap<String, Written>) {
        let observed = || {
            let object = self.observed.server(name)?;
            object.0.as_ref().ok().and_then(|server| server.status.clone())
        };
        let before = written.get(&server.uid);
        let mut old = before.map_or_else(|| observed().unwrap_or_default(), |before| before.status.clone());
        // A leader that was stopped, and does not know yet that it leads no more, may have written over ours.
        if before.is_some_and(|before| before.at.elapsed() >= FIGURES_EVERY)
            && let Some(observed) = observed().filter(|observed| steady(observed) != steady(&old))
        {
            old = observed;
        }
        let new = status(world, name, server, &old, system::timestamp());
        let may_wait = before.is_some_and(|before| before.failed) || steady(&new) == steady(&old);
        if new == old || (may_wait && before.is_some_and(|before| before.at.elapsed() < FIGURES_EVERY)) {
            return;
        }
        let at = Instant::now();
        let (status, failed) = match self.writer.write::<MailServer>(None, name, &server.uid, json!(new)).await {
            Ok(()) => {
                self.metrics.status_written();
                (new, false)
            }
            Err(error) => {
                if !error.is_gone() {
                    tracing::warn!(server = name, %error, "cannot write the status");
                }
                (old, true)
            }
        };
        written.insert(server.uid.clone(), Written { status, at, failed });
    }
}
