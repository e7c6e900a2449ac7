//! How long the relay asks to keep what: dead letters that were kept so long are discarded, counted, and told of in an
//! Event; and of final records the scripts are told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    api::{DurationText, Retention},
    controller::{
        metrics::ControllerMetrics,
        plan::{RelayKey, RelayPlan},
        status::{Action, Activity, News, Note, queue_of},
        world::World,
    },
    mail::UnixMillis,
    queue::{At, Filter},
    store::{Store, StoreError},
};

/// How often dead letters are looked at: retention is counted in hours.
const EVERY: Duration = Duration::from_secs(60);
/// How often a queue that nothing moves in is told what is kept.
const KEEP_EVERY: Duration = Duration::from_secs(600);
/// How many are discarded in one look at most.
const BATCH: usize = 5_000;
/// How often one relay is told of at most; what goes in between is told of together.
const TELL_EVERY: Duration = Duration::from_secs(600);

/// Dead letters that were kept long enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// How many were discarded.
    pub letters: u64,
    /// For how long the oldest of them had been there.
    pub oldest: Duration,
}

/// What was discarded and not told of yet.
#[derive(Default)]
struct Untold {
    expired: Expired,
    told: Option<Instant>,
}

impl Untold {
    fn add(&mut self, more: Expired) {
        self.expired.letters += more.letters;
        self.expired.oldest = self.expired.oldest.max(more.oldest);
    }

    /// What is to be told `now`, if anything.
    fn take(&mut self, now: Instant) -> Option<Expired> {
        if self.expired.letters == 0 || self.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.expired))
    }
}

/// What the scripts of a queue are told to keep.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kept {
    records: Duration,
    events: u64,
}

impl Kept {
    fn of(relay: &RelayPlan) -> Self {
        let spec = &relay.relay.spec.queue;
        Self { records: spec.record_retention.get(), events: u64::try_from(spec.events_length).unwrap_or(0) }
    }
}

/// Discards each minute what is over. Never returns; cancelling leaves the rest for the next look.
pub async fn expire_dead_letters(
    store: Store,
    world: watch::Receiver<Arc<World>>,
    activity: watch::Receiver<Arc<Activity>>,
    news: mpsc::UnboundedSender<News>,
    metrics: ControllerMetrics,
) {
    let mut untold: BTreeMap<RelayKey, Untold> = BTreeMap::new();
    let mut kept: BTreeMap<RelayKey, (Kept, Instant)> = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let plan = Arc::clone(&world.borrow().plan);
        untold.retain(|key, _| plan.relays.contains_key(key));
        kept.retain(|key, _| plan.relays.contains_key(key));
        let activity = Arc::clone(&activity.borrow());
        for (key, relay) in plan.relays.iter().filter(|(_, relay)| relay.stalled.is_none()) {
            let (wanted, now) = (Kept::of(relay), Instant::now());
            let is_known = |(known, at): &(Kept, Instant)| *known == wanted && now.duration_since(*at) < KEEP_EVERY;
            if activity.may_move(key) || !kept.get(key).is_some_and(is_known) {
                match keep_records(&store, relay).await {
                    Ok(()) => drop(kept.insert(key.clone(), (wanted, now))),
                    Err(error) => tracing::debug!(relay = %key, %error, "cannot say what is kept"),
                }
            }
            let all_told = untold.get(key).is_none_or(|untold| untold.expired.letters == 0);
            if all_told && activity.of(key).is_some_and(|presence| !presence.dead) {
                continue;
            }
            let untold = untold.entry(key.clone()).or_default();
            match discard_expired(&store, relay, At::Redis).await {
                Ok(expired) if expired.letters == 0 => {}
                Ok(expired) => {
                    tracing::info!(relay = %key, mails.discarded = expired.letters, "dead letters were kept long enough");
                    metrics.letters_expired(expired.letters);
                    untold.add(expired);
                }
                Err(error) => tracing::debug!(relay = %key, %error, "cannot look at the dead letters"),
            }
            if let Some(expired) = untold.take(Instant::now()) {
                let queue = &relay.relay.spec.queue;
                let _ = news.send(News {
                    relay: key.clone(),
                    note: told(&queue.name, queue.dead_letter_retention, expired.letters, expired.oldest),
                });
            }
        }
    }
}

/// Tells all who use the relay's queue its `recordRetention` and `eventsLength`.
pub async fn keep_records(store: &Store, relay: &RelayPlan) -> Result<(), StoreError> {
    let (queue, kept) = (queue_of(store, relay), Kept::of(relay));
    queue.keep_records(kept.records).await?;
    queue.keep_events(kept.events).await
}

/// Discards up to `BATCH` dead letters of the relay that are older than its `deadLetterRetention`.
pub async fn discard_expired(store: &Store, relay: &RelayPlan, at: impl Into<At>) -> Result<Expired, StoreError> {
    let (queue, at) = (queue_of(store, relay), at.into());
    let Retention::For(retention) = relay.relay.spec.queue.dead_letter_retention else { return Ok(Expired::default()) };
    let now = queue.time(at).await?;
    let before = UnixMillis(now.0.saturating_sub(retention.as_millis()));
    // The oldest comes first: while it may stay, the rest of a long list need not be read.
    let oldest = queue.dead_list(&Filter::default(), 1).await?.pop();
    let Some(oldest) = oldest.filter(|letter| letter.at < before) else { return Ok(Expired::default()) };
    let filter = Filter { before: Some(before), ..Filter::default() };
    let letters = queue.dead_discard(&filter, BATCH, at).await?.done;
    Ok(Expired { letters, oldest: now.since(oldest.at) })
}

/// What the retention of dead letters discarded.
fn told(queue: &str, retention: Retention, letters: u64, oldest: Duration) -> Note {
    let oldest = DurationText::new(Duration::from_secs(oldest.as_secs()));
    let text = format!(
        "{letters} dead letters of {queue} were discarded: deadLetterRetention is {retention}, and the oldest had been there for {oldest}"
    );
    Note::warning(Action::Discarding, "DeadLettersDiscarded", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_is_told_at_once_and_then_together() {
        let (mut untold, start) = (Untold::default(), Instant::now());
        assert_eq!(untold.take(start), None, "nothing was discarded");
        let mut told = Vec::new();
        for minute in 0..20 {
            let age = Duration::from_secs(3_600 + minute);
            untold.add(Expired { letters: 5, oldest: age });
            told.extend(untold.take(start + Duration::from_secs(60 * minute)).map(|expired| expired.letters));
        }
        assert_eq!(told, [5, 50], "55 of 100; the rest is told of later");
        assert_eq!(untold.take(start + Duration::from_secs(1_200)).map(|expired| expired.letters), Some(45));
    }

    #[test]
    fn discarded_dead_letters_are_told_with_their_number_queue_and_age() {
        let retention = Retention::For(DurationText::from_secs(720 * 3_600));
        let note = told("mail_queue", retention, 17, Duration::from_millis(2_595_600_500));
        assert_eq!((note.warning, &*note.reason), (true, "DeadLettersDiscarded"));
        let text = "17 dead letters of mail_queue were discarded: deadLetterRetention is 720h, and the oldest had been there for 721h";
        assert_eq!(note.text, text);
    }
}
