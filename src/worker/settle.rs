//! Tells the queue what became of each mail, again and again until Redis has heard it.
//!
//! A settlement is made once and repeated under the same operation id, so a lost reply changes nothing. A mail is never
//! sent again because its settlement failed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    backoff::Backoff,
    deadline::Deadlines,
    follow::Followed,
    outcome::{self, Conclusion, Policy},
    pace::Permits,
};
use crate::{
    lease::ProcessId,
    queue::{At, Claimed, OperationId, Queue, Settled},
    store::StoreError,
    system,
    telemetry::{
        log::mask_id,
        metrics::{ByKind, WorkerMetrics},
    },
};

/// A claimed mail with the queue it came from: the relay may name another one by the time it is settled.
///
/// No claim is ever forgotten: dropped without a settlement, wherever that happens, a mail of which nothing was sent goes
/// back to the queue. When a panic drops it, that costs the mail an attempt.
pub struct Work {
    /// The mail.
    pub claimed: Arc<Claimed>,
    /// Its queue.
    pub queue: Queue,
    settler: Settler,
    begun: AtomicBool,
    committed: OnceLock<Instant>,
    ended: bool,
    /// Leave to send it, by the server's rate limits.
    pub permit: Option<Permits>,
    /// Servers that cannot take it as it is: too large for them, or it needs an extension that they lack.
    unfit: Vec<String>,
}

impl Work {
    /// A mail that was just claimed from the queue.
    pub fn new(claimed: Claimed, queue: Queue, settler: Settler) -> Self {
        settler.began(&claimed);
        Self {
            claimed: Arc::new(claimed),
            queue,
            settler,
            begun: AtomicBool::new(false),
            committed: OnceLock::new(),
            ended: false,
            permit: None,
            unfit: Vec::new(),
        }
    }

    /// Notes that this server cannot take it as it is.
    pub fn rule_out(&mut self, server: &str) {
        self.unfit.push(server.to_owned());
    }

    /// Whether this server may take it, as far as is known.
    pub fn fits(&self, server: &str) -> bool {
        !self.unfit.iter().any(|unfit| unfit == server)
    }

    /// Whether some server could not take it.
    pub fn is_choosy(&self) -> bool {
        !self.unfit.is_empty()
    }

    /// From now on Redis may know it at a later stage.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// From now on the server may have the whole message.
    pub fn commit(&self) {
        // Only once.
        let _ = self.committed.set(Instant::now());
    }

    /// Whether the server may have the whole message.
    pub fn is_committed(&self) -> bool {
        self.committed_at().is_some()
    }

    /// Since when it may.
    pub fn committed_at(&self) -> Option<Instant> {
        self.committed.get().copied()
    }

    /// Somebody else has the mail now: nothing is to be told.
    pub fn lost(mut self) {
        self.ended = true;
        self.settler.ended(&self.claimed);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the claim is resolved by its stage.
        if self.ended || Handle::try_current().is_err() {
            return;
        }
        let (settler, claimed, queue) = (self.settler.clone(), Arc::clone(&self.claimed), self.queue.clone());
        let header = &claimed.header;
        let moment = outcome::Moment { now: queue.estimate(At::Redis), random: system::fraction() };
        let conclusion = if self.is_committed() {
            outcome::cut_off(header, "we stopped before the server answered", &settler.policy(), moment)
        } else if std::thread::panicking() {
            outcome::failed(header, &settler.policy(), moment)
        } else if self.begun.load(Ordering::Relaxed) {
            outcome::stopped("we stopped in the middle")
        } else {
            return settler.give_back(claimed, queue);
        };
        settler.end(claimed, queue, conclusion, || {});
    }
}

/// Settles in the background; clones share the work. Memory is bounded by the intake, which claims nothing while many
/// settlements are open.
#[derive(Clone)]
pub struct Settler {
    process: ProcessId,
    relay: Followed,
    metrics: WorkerMetrics,
    deadlines: Deadlines,
    tasks: TaskTracker,
    /// The ids of all claims that a [`Work`] or a settlement stands for.
    in_hand: Arc<Mutex<BTreeSet<String>>>,
}

impl Settler {
    /// Nothing to settle yet.
    pub fn new(process: ProcessId, relay: Followed, metrics: WorkerMetrics, deadlines: Deadlines) -> Self {
        Self { process, relay, metrics, deadlines, tasks: TaskTracker::new(), in_hand: Arc::default() }
    }

    /// Whether this process has a claim in hand, from the answer that brought it until Redis has heard its end.
    pub fn has_in_hand(&self, claim: &str) -> bool {
        self.in_hand().contains(claim)
    }

    /// Whether no mail is in anybody's hand here and nothing is to be told.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.in_hand().is_empty()
    }

    fn in_hand(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, claimed: &Claimed) {
        self.metrics.claims_open.inc();
        self.in_hand().insert(claimed.claim_id.as_str().to_owned());
    }

    fn ended(&self, claimed: &Claimed) {
        self.metrics.claims_open.dec();
        self.in_hand().remove(claimed.claim_id.as_str());
    }

    /// What the spec in force says about failures.
    pub fn policy(&self) -> Policy {
        match self.relay.borrow().as_ref() {
            Some(record) => Policy { retry: record.spec.retry.clone(), unknown: record.spec.unknown_outcome },
            None => Policy { retry: crate::api::Retry::default(), unknown: crate::api::UnknownOutcome::default() },
        }
    }

    /// How many settlements Redis has not heard yet.
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Resolves when every settlement was heard and no more will come.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends a claim; `after` runs when Redis has heard it.
    pub fn settle(&self, mut work: Work, conclusion: Conclusion, after: impl FnOnce() + Send + 'static) {
        work.ended = true;
        self.end(Arc::clone(&work.claimed), work.queue.clone(), conclusion, after);
    }

    fn end(&self, claimed: Arc<Claimed>, queue: Queue, conclusion: Conclusion, after: impl FnOnce() + Send + 'static) {
        let settler = self.clone();
        self.tasks.spawn(async move {
            let (operation, other) = (OperationId::random(), OperationId::random());
            let Conclusion { settlement, per_recipient, .. } = conclusion;
            let mut persistence = Persistence::new(&settler.metrics, &claimed.header.id);
            let settled = loop {
                let process = settler.process.as_str();
                let error = match queue.settle(process, &claimed, &operation, &settlement, &per_recipient, At::Redis).await {
                    Ok(settled) => break settled,
                    Err(error) => error,
                };
                // It surely took no effect, so another outcome may take its place: one that a person looks at.
                if persistence.refused_for(&error) >= Some(settler.deadlines.settling()) {
                    let held = outcome::not_recorded(&settlement, &error);
                    if let Ok(settled) = queue.settle(process, &claimed, &other, &held, &per_recipient, At::Redis).await {
                        settler.metrics.stuck.get_or_create(&ByKind { kind: "settlement" }).inc();
                        let id = &*mask_id(&claimed.header.id);
                        tracing::error!(mail.id = id, %error, "Redis refuses to record what became of a mail; it is held");
                        break settled;
                    }
                }
                persistence.pause(&error).await;
            };
            settler.ended(&claimed);
            if settled == Settled::Lost {
                tracing::warn!(
                    mail.id = &*mask_id(&claimed.header.id),
                    "the claim had been taken over; the outcome was not recorded"
                );
            }
            after();
        });
    }

    /// Gives back what was claimed from a queue that nobody claims from any more, when the answer to a claim was lost.
    pub fn return_lost(&self, queue: Queue) {
        let settler = self.clone();
        self.tasks.spawn(async move {
            let mut persistence = Persistence::new(&settler.metrics, "");
            while let Err(error) = queue.return_lost_claims(settler.process.as_str(), At::Redis).await {
                persistence.pause(&error).await;
            }
        });
    }

    /// Gives back a claim of which nothing was sent.
    fn give_back(&self, claimed: Arc<Claimed>, queue: Queue) {
        let settler = self.clone();
        self.tasks.spawn(async move {
            let mut persistence = Persistence::new(&settler.metrics, &claimed.header.id);
            // `Lost` is an earlier try whose answer was lost, or somebody else's claim: both end the matter.
            while let Err(error) = queue.requeue_claim(settler.process.as_str(), &claimed.claim_id, At::Redis).await {
                persistence.pause(&error).await;
            }
            settler.ended(&claimed);
        });
    }
}

/// Between two tries to tell Redis: one line in the log, then ever longer pauses.
struct Persistence<'a> {
    metrics: &'a WorkerMetrics,
    mail: &'a str,
    backoff: Backoff,
    complained: bool,
    /// Since when Redis has refused each try.
    refused: Option<Instant>,
}

impl<'a> Persistence<'a> {
    fn new(metrics: &'a WorkerMetrics, mail: &'a str) -> Self {
        Self { metrics, mail, backoff: Backoff::new(), complained: false, refused: None }
    }

    /// For how long Redis has refused each try, of which this is the last; nothing when it did not answer.
    fn refused_for(&mut self, error: &StoreError) -> Option<Duration> {
        self.refused = error.is_definite().then(|| self.refused.unwrap_or_else(Instant::now));
        self.refused.map(|since| since.elapsed())
    }

    async fn pause(&mut self, error: &StoreError) {
        self.metrics.store_failures.get_or_create(&ByKind { kind: "settle" }).inc();
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(mail.id = &*mask_id(self.mail), %error, "cannot record what became of a mail; repeated until Redis has it");
        }
        tokio::time::sleep(self.backoff.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use testkit::{Persistence, RedisServer};
    use tokio::sync::watch;

    use super::*;
    use crate::{
        queue::{Depths, QueueNames},
        rate::Buckets,
        store::{Store, StoreOptions},
        worker::{
            pace::Pace,
            requests::{Intake, Request},
        },
    };

    struct Scene {
        redis: RedisServer,
        store: Store,
        queue: Queue,
        settler: Settler,
    }

    impl Scene {
        fn open() -> Self {
            let redis = RedisServer::start(Persistence::Off);
            let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
            let metrics = WorkerMetrics::register(&mut Registry::default());
            let deadlines = Deadlines::new(Duration::ZERO);
            let settler = Settler::new(ProcessId::random(), watch::channel(None).1, metrics, deadlines);
            let queue = Queue::new(store.clone(), QueueNames::new("mail_queue", "dead"));
            Self { redis, store, queue, settler }
        }

        async fn work(&self) -> Work {
            let mail = br#"{"from":"a@example.com","to":"b@example.org","text":"x"}"#;
            let limits = crate::queue::EnqueueLimits { max_length: 10, max_bytes: 0 };
            self.queue.enqueue(mail, limits, At::Redis).await.expect("enqueued");
            let process = self.settler.process.as_str();
            let claimed = self.queue.claim(process, "pod", 1, At::Redis).await.expect("claimed").mails.remove(0);
            Work::new(claimed, self.queue.clone(), self.settler.clone())
        }

        /// Where the mail is once the settler has told Redis: pending, delayed, in flight, held.
        async fn settled(&self) -> [u64; 4] {
            tokio::time::timeout(Duration::from_secs(10), self.settler.drained()).await.expect("settled");
            let Depths { pending, delayed, in_flight, held, .. } = self.queue.depths(At::Redis).await.expect("depths");
            [pending, delayed, in_flight, held]
        }
    }

    #[tokio::test]
    async fn a_mail_for_a_session_that_just_went_goes_back_to_the_queue() {
        let scene = Scene::open();
        let (intake, mut requests) = Intake::new();
        let pace = Arc::new(Pace::new(Buckets::new(scene.store.clone(), "primary"), &[]));
        let mut next = Box::pin(intake.next("primary", &pace, Duration::from_secs(60)));
        assert!(futures::poll!(&mut next).is_pending());
        let Some(Request::Next(wish)) = requests.recv().await else { panic!("it asks") };
        assert!(wish.session.send(scene.work().await).is_ok(), "it is still there");
        // Its lease was revoked in the same moment.
        drop(next);
        assert_eq!(scene.settled().await, [1, 0, 0, 0]);
    }

    #[tokio::test]
    async fn an_outcome_that_redis_refuses_to_record_leaves_the_mail_held_with_what_is_known() {
        let scene = Scene::open();
        let work = scene.work().await;
        // No list of dead letters: nothing can be put there.
        scene.redis.command(&["SET", "dead", "x"]).expect("SET");
        scene.settler.settle(work, outcome::unsendable("no recipient".into()), || {});
        tokio::time::timeout(Duration::from_secs(10), scene.settler.drained()).await.expect("settled");
        let held = scene.queue.held_list(&crate::queue::Filter::default(), 2).await.expect("listed");
        assert_eq!((held.len(), &*held[0].reason), (1, "NotRecorded"));
        assert!(held[0].reply.contains("InvalidMail: no recipient") && held[0].reply.contains("WRONGTYPE"), "{held:?}");
    }

    #[tokio::test]
    async fn a_sender_that_panics_costs_its_mail_an_attempt() {
        let scene = Scene::open();
        let work = scene.work().await;
        let sender = tokio::spawn(async move {
            assert!(work.is_committed(), "nothing was sent");
        });
        assert!(sender.await.expect_err("a panic").is_panic());
        assert_eq!(scene.settled().await, [0, 1, 0, 0]);
    }

    #[tokio::test]
    async fn a_sender_that_panics_when_the_server_may_have_the_mail_leaves_it_held() {
        let scene = Scene::open();
        let work = scene.work().await;
        let sender = tokio::spawn(async move {
            work.commit();
            assert!(!work.is_committed(), "all was sent");
        });
        assert!(sender.await.expect_err("a panic").is_panic());
        assert_eq!(scene.settled().await, [0, 0, 0, 1]);
    }
}
