//! Where mail is, looked at each second for all relays at once, so that a queue that nothing happens to is not counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    controller::{plan::RelayKey, world::World},
    queue::{Presence, QueueNames},
    store::{Store, StoreError},
};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);
/// A queue that nothing moved in for so many looks is asked for together with others.
const CALM: u32 = 3;

/// What is known of each relay's queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    queues: BTreeMap<RelayKey, Presence>,
}

impl Activity {
    /// What is there; `None` when nobody can say.
    pub fn of(&self, relay: &RelayKey) -> Option<Presence> {
        self.queues.get(relay).copied()
    }

    /// Whether mail may be on its way.
    pub fn may_move(&self, relay: &RelayKey) -> bool {
        self.of(relay).is_none_or(|presence| presence.moving)
    }
}

/// One queue from look to look.
struct Queue {
    names: QueueNames,
    presence: Presence,
    /// For how many looks nothing moved.
    calm: u32,
}

/// Looks again and again. Never returns.
pub async fn watch_activity(store: Store, world: watch::Receiver<Arc<World>>, show: watch::Sender<Arc<Activity>>) {
    let mut queues = BTreeMap::new();
    loop {
        follow(&mut queues, &world.borrow());
        let activity = match look(&store, &mut queues).await {
            Ok(()) => Activity { queues: queues.iter().map(|(key, queue)| (key.clone(), queue.presence)).collect() },
            Err(error) => {
                tracing::debug!(%error, "cannot look where mail is");
                queues.clear();
                Activity::default()
            }
        };
        show_new(&show, activity);
        tokio::time::sleep(EVERY).await;
    }
}

/// Shows `what`, unless it is what is shown: nobody is woken for that.
pub fn show_new<T: PartialEq>(show: &watch::Sender<Arc<T>>, what: T) {
    show.send_if_modified(|shown| {
        let is_new = **shown != what;
        if is_new {
            *shown = Arc::new(what);
        }
        is_new
    });
}

/// The queues of all relays that work.
fn follow(queues: &mut BTreeMap<RelayKey, Queue>, world: &World) {
    let working = |key: &RelayKey| world.plan.relays.get(key).filter(|relay| relay.stalled.is_none());
    queues.retain(|key, queue| {
        working(key).is_some_and(|relay| {
            let spec = &relay.relay.spec.queue;
            *spec.name == *queue.names.queue() && *spec.dead_letter_name == *queue.names.dead_letter()
        })
    });
    for (key, relay) in world.plan.relays.iter().filter(|(_, relay)| relay.stalled.is_none()) {
        if !queues.contains_key(key) {
            let names = QueueNames::from_spec(&relay.relay.spec.queue);
            queues.insert(key.clone(), Queue { names, presence: Presence::default(), calm: 0 });
        }
    }
}

async fn look(store: &Store, queues: &mut BTreeMap<RelayKey, Queue>) -> Result<(), StoreError> {
    let calm = queues.values().filter(|queue| queue.calm >= CALM).map(|queue| (&queue.names, queue.presence));
    let doubtful = Presence::doubtful(store, &calm.collect::<Vec<_>>()).await?;
    let calm = queues.values_mut().filter(|queue| queue.calm >= CALM).enumerate();
    for (_, queue) in calm.filter(|(number, _)| doubtful.binary_search(number).is_ok()) {
        queue.calm = 0;
    }
    let asked: Vec<&QueueNames> = queues.values().filter(|queue| queue.calm < CALM).map(|queue| &queue.names).collect();
    let found = Presence::of(store, &asked).await?;
    for (queue, presence) in queues.values_mut().filter(|queue| queue.calm < CALM).zip(found) {
        queue.calm = if presence.moving { 0 } else { queue.calm + 1 };
        queue.presence = presence;
    }
    Ok(())
}
