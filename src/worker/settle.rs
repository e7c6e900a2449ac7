//! Tells the queue what became of each mail, again and again until Redis has heard it.
//!
//! A settlement is made once and repeated under the same operation id, so a lost reply changes nothing. A mail is never
//! sent again because its settlement failed.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{backoff::Backoff, outcome::Conclusion};
use crate::{
    lease::ProcessId,
    queue::{Claimed, OperationId, Queue, Settled, UnixMillis},
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
        let settler = self.clone();
        self.tasks.spawn(async move {
            let operation = OperationId::random();
            let Conclusion { settlement, progress, .. } = conclusion;
            let Work { claimed, queue } = work;
            let mut persistence = Persistence::new(&settler.metrics, &claimed.header.id);
            let settled = loop {
                let now = UnixMillis::now();
                let process = settler.process.as_str();
                match queue.settle(process, &claimed, &operation, &settlement, &progress, now).await {
                    Ok(settled) => break settled,
                    Err(error) => persistence.pause(&error).await,
                }
            };
            settler.metrics.claims_open.dec();
            if settled == Settled::Lost {
                tracing::warn!(
                    mail.id = claimed.header.id,
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
            while let Err(error) = queue.return_lost_claims(settler.process.as_str(), UnixMillis::now()).await {
                persistence.pause(&error).await;
            }
        });
    }

    /// Gives back a claim of which nothing was sent.
    pub fn give_back(&self, work: Work) {
        let settler = self.clone();
        self.tasks.spawn(async move {
            let Work { claimed, queue } = work;
            let mut persistence = Persistence::new(&settler.metrics, &claimed.header.id);
            // `Lost` is an earlier try whose answer was lost, or somebody else's claim: both end the matter.
            while let Err(error) =
                queue.requeue_claim(settler.process.as_str(), &claimed.claim_id, UnixMillis::now()).await
            {
                persistence.pause(&error).await;
            }
            settler.metrics.claims_open.dec();
        });
    }
}

/// Between two tries to tell Redis: one line in the log, then ever longer pauses.
struct Persistence<'a> {
    metrics: &'a WorkerMetrics,
    mail: &'a str,
    backoff: Backoff,
    complained: bool,
}

impl<'a> Persistence<'a> {
    fn new(metrics: &'a WorkerMetrics, mail: &'a str) -> Self {
        Self { metrics, mail, backoff: Backoff::new(), complained: false }
    }

    async fn pause(&mut self, error: &StoreError) {
        self.metrics.store_failures.get_or_create(&ByKind { kind: "settle" }).inc();
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(mail.id = self.mail, %error, "cannot record what became of a mail; repeated until Redis has it");
        }
        tokio::time::sleep(self.backoff.next()).await;
    }
}
