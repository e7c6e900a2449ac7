//! Tells the queue what became of each mail, again and again until Redis has heard it.
//!
//! A settlement is made once and repeated under the same operation id, so a lost reply changes nothing. A mail is never
//! sent again because its settlement failed.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{backoff::Backoff, outcome::Conclusion};
use crate::{
    lease::ProcessId,
    queue::{Advance, Claimed, OperationId, Queue, Settled, UnixMillis},
    store::StoreError,
    telemetry::metrics::{ByKind, WorkerMetrics},
};

/// A claimed mail with the queue it came from: the relay may name another one by the time it is settled.
#[derive(Clone)]
pub struct Work {
    /// The mail.
    pub claimed: Arc<Claimed>,
    /// Its queue.
    pub queue: Queue,
}

/// Settles in the background; clones share the work. Memory is bounded by the intake, which claims nothing while many
/// settlements are open.
#[derive(Clone)]
pub struct Settler {
    process: ProcessId,
    metrics: WorkerMetrics,
    tasks: TaskTracker,
}

impl Settler {
    /// Nothing to settle yet.
    pub fn new(process: ProcessId, metrics: WorkerMetrics) -> Self {
        Self { process, metrics, tasks: TaskTracker::new() }
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
    pub fn settle(&self, work: Work, conclusion: Conclusion, after: impl FnOnce() + Send + 'static) {
        let (process, metrics) = (self.process.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            let operation = OperationId::random();
            let Conclusion { settlement, progress, .. } = conclusion;
            let id = &work.claimed.header.id;
            let settled = persist(&metrics, id, async || {
                let now = UnixMillis::now();
                work.queue.settle(process.as_str(), &work.claimed, &operation, &settlement, &progress, now).await
            })
            .await;
            metrics.claims_open.dec();
            if matches!(settled, Settled::Lost) {
                tracing::warn!(mail.id = id, "the claim had been taken over; the outcome was not recorded");
            }
            after();
        });
    }

    /// Gives back a claim of which nothing was sent.
    pub fn give_back(&self, work: Work) {
        let (process, metrics) = (self.process.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            let claim = &work.claimed.claim_id;
            // `Lost` is an earlier try whose answer was lost, or somebody else's claim: both end the matter.
            let _: Advance = persist(&metrics, &work.claimed.header.id, async || {
                work.queue.requeue_claim(process.as_str(), claim, UnixMillis::now()).await
            })
            .await;
            metrics.claims_open.dec();
        });
    }
}

async fn persist<T>(metrics: &WorkerMetrics, id: &str, mut tell: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let mut backoff = Backoff::new();
    let mut complained = false;
    loop {
        let error = match tell().await {
            Ok(heard) => return heard,
            Err(error) => error,
        };
        metrics.store_failures.get_or_create(&ByKind { kind: "settle" }).inc();
        if !std::mem::replace(&mut complained, true) {
            tracing::warn!(mail.id = id, %error, "cannot record the outcome of a mail; it is repeated until Redis has it");
        }
        tokio::time::sleep(backoff.next()).await;
    }
}
