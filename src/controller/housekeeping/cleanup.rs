//! How much was cleaned up: mail of processes that ended, whoever resolved it. Unusual numbers are told in an Event.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    api::DurationText,
    controller::{
        plan::RelayKey,
        status::{Action, Activity, News, Note, queue_of},
        world::World,
    },
    store::Store,
};

/// How often the counters are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// In what time the numbers must not be unusual.
const WINDOW: Duration = Duration::from_secs(600);
/// Counters of decisions: this, then stage and outcome.
const COUNTERS: &str = "recovered.";
/// What happens to mail that nothing was sent of is harmless; of the rest a tenth is unusual already.
const HARMLESS: &str = ".queue";

/// How many decisions there were of each kind, `stage.outcome`.
type Decisions = BTreeMap<String, i64>;

/// What is remembered of one relay.
#[derive(Default)]
struct Memory {
    /// The counters, oldest first; the first may be older than the window.
    samples: VecDeque<(Instant, Decisions)>,
    /// Whether the numbers were unusual and people know.
    told: bool,
    /// When mail may have been on its way last.
    moved: Option<Instant>,
}

impl Memory {
    /// Whether the counters may be others than those that are known, or what is unusual may be over.
    fn is_due(&mut self, now: Instant, may_move: bool) -> bool {
        if may_move {
            self.moved = Some(now);
        }
        self.samples.is_empty() || self.moved.is_some_and(|moved| now.duration_since(moved) <= 2 * WINDOW)
    }

    /// Takes in the counters of `now`; what is to be told, if the numbers have become unusual.
    fn look(&mut self, now: Instant, counters: Decisions, threshold: i64) -> Option<Decisions> {
        let is_less = |(_, first): &(Instant, Decisions)| first.iter().any(|(kind, n)| counters.get(kind) < Some(n));
        if self.samples.back().is_some_and(is_less) {
            // They are gone with the store, or with a copy of it.
            self.samples.clear();
        }
        self.samples.push_back((now, counters));
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        let ((_, first), (_, last)) = (self.samples.front()?, self.samples.back()?);
        let since = |(kind, count): (&String, &i64)| (kind.clone(), count - first.get(kind).unwrap_or(&0));
        let recent: Decisions = last.iter().map(since).filter(|(_, count)| *count > 0).collect();
        let harmful: i64 = recent.iter().filter(|(kind, _)| !kind.ends_with(HARMLESS)).map(|(_, count)| count).sum();
        let unusual = recent.values().sum::<i64>() > threshold || harmful > threshold / 10;
        let known = std::mem::replace(&mut self.told, unusual);
        (unusual && !known).then_some(recent)
    }
}

/// Looks again and again. Never returns.
pub async fn watch_cleanup(
    store: Store,
    world: watch::Receiver<Arc<World>>,
    activity: watch::Receiver<Arc<Activity>>,
    news: mpsc::UnboundedSender<News>,
) {
    let mut memories: BTreeMap<RelayKey, Memory> = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let plan = Arc::clone(&world.borrow().plan);
        memories.retain(|key, _| plan.relays.contains_key(key));
        let activity = Arc::clone(&activity.borrow());
        for (key, relay) in plan.relays.iter().filter(|(_, relay)| relay.stalled.is_none()) {
            let memory = memories.entry(key.clone()).or_default();
            if !memory.is_due(Instant::now(), activity.may_move(key)) {
                continue;
            }
            let counters = match queue_of(&store, relay).counters().await {
                Ok(counters) => counters,
                Err(error) => {
                    tracing::debug!(relay = %key, %error, "cannot look at the counters");
                    continue;
                }
            };
            let of_decision = |(name, count): (String, i64)| Some((name.strip_prefix(COUNTERS)?.to_owned(), count));
            let decisions = counters.into_iter().filter_map(of_decision).collect();
            let threshold = relay.relay.spec.queue.recovery_threshold;
            if let Some(recent) = memory.look(Instant::now(), decisions, threshold) {
                let note = told(&relay.relay.spec.queue.name, &recent, threshold);
                tracing::warn!(relay = %key, "{}", note.text);
                let _ = news.send(News { relay: key.clone(), note });
            }
        }
    }
}

/// Unusually much was cleaned up.
fn told(queue: &str, recent: &Decisions, threshold: i64) -> Note {
    let each: Vec<String> = recent.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let text = format!(
        "{} mails of {queue} that were in the hands of processes that ended were cleaned up within {}; recoveryThreshold is {threshold}, and a tenth of it for what is not just queued again ({}): look why workers end (kubectl get pods), and at `mailrelay held list`",
        recent.values().sum::<i64>(),
        DurationText::new(WINDOW),
        each.join(", ")
    );
    Note::warning(Action::Reclaiming, "CleanupUnusual", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(requeued: i64, held: i64) -> Decisions {
        [("sending.queue".into(), requeued), ("committing.held".into(), held)].into()
    }

    #[test]
    fn unusual_numbers_are_told_once_until_they_are_usual_again() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let mut look = |minute: u64, requeued| {
            memory.look(start + Duration::from_secs(60 * minute), counted(requeued, 0), 100).is_some()
        };
        assert!(!look(0, 5_000), "what was before is not recent");
        assert!(!look(1, 5_100));
        assert!(look(2, 5_101));
        assert!(!look(3, 5_300), "people know");
        assert!(!look(13, 5_300), "it is over");
        assert!(look(14, 5_401));
    }

    #[test]
    fn a_tenth_is_unusual_when_somebody_must_look() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        assert_eq!(memory.look(start, counted(0, 0), 100), None);
        assert_eq!(memory.look(start, counted(3, 10), 100), None);
        assert_eq!(memory.look(start, counted(3, 11), 100), Some(counted(3, 11)));
    }

    #[test]
    fn counters_that_were_lost_are_counted_from_the_beginning() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        assert_eq!(memory.look(start, counted(5_000, 7), 100), None);
        assert_eq!(memory.look(start, Decisions::new(), 100), None);
        assert_eq!(memory.look(start, counted(101, 0), 100).map(|recent| recent["sending.queue"]), Some(101));
    }
}
