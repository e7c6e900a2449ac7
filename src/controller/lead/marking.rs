//! Writes down what must outlive Redis and every resource (lease R9): which pools were ever opened, and who
//! owns what. One write at a time, beside the turns: the API server may be slow, or refuse, and only the pools that have to
//! wait for their mark wait for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    error::LeaderError,
    opened_pools::{OpenedPools, Recorded},
};
use crate::{
    controller::{plan::Owned, trouble::Trouble},
    system,
};

/// The wait after the first failure; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is written down, and what is to be.
pub struct Marking {
    registry: OpenedPools,
    epoch: u64,
    /// What is durable.
    recorded: Recorded,
    /// Pools that this leader removed since nobody held anything of them. Their marks may be there still and mean nothing.
    removed: BTreeSet<String>,
    /// What is opened and not removed.
    marked: Arc<BTreeSet<String>>,
    writing: Option<JoinHandle<Result<Recorded, LeaderError>>>,
    failed: Option<Failed>,
}

/// That the last tries failed.
struct Failed {
    tries: u32,
    error: LeaderError,
    next_try: Instant,
}

impl Marking {
    /// Goes on from what was `recorded` when the epoch began.
    pub fn new(registry: OpenedPools, epoch: u64, recorded: Recorded) -> Self {
        let marked = Arc::new(recorded.opened.clone());
        let (removed, writing, failed) = (BTreeSet::new(), None, None);
        Self { registry, epoch, recorded, removed, marked, writing, failed }
    }

    /// The pools that were ever opened and are not removed: the same set as long as nothing of it changed.
    pub fn marked(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.marked)
    }

    fn note_marked(&mut self) {
        let marked: BTreeSet<String> = self.recorded.opened.difference(&self.removed).cloned().collect();
        if marked != *self.marked {
            self.marked = Arc::new(marked);
        }
    }

    /// Who owns what, as it is written down.
    pub fn owned(&self) -> &Arc<Owned> {
        &self.recorded.owned
    }

    /// A pool's ledger was removed: its mark may go.
    pub fn unmark(&mut self, pool: &str) {
        if self.recorded.opened.contains(pool) {
            self.removed.insert(pool.to_owned());
            self.note_marked();
        }
    }

    /// Begins to write what differs from what is written down, unless a write is under way or the last one failed just now.
    pub fn want(&mut self, opened: BTreeSet<String>, owned: &Arc<Owned>) {
        // From here on a mark of it means something again.
        if !self.removed.is_disjoint(&opened) {
            self.removed.retain(|pool| !opened.contains(pool));
            self.note_marked();
        }
        let nothing_new = opened.is_subset(&self.recorded.opened);
        let waits =
            self.writing.is_some() || self.failed.as_ref().is_some_and(|failed| Instant::now() < failed.next_try);
        if waits || (nothing_new && self.removed.is_empty() && *owned == self.recorded.owned) {
            return;
        }
        let (registry, epoch, remove) = (self.registry.clone(), self.epoch, self.removed.clone());
        let owned = Arc::clone(owned);
        self.writing = Some(tokio::spawn(async move { registry.change(epoch, &opened, &remove, &owned).await }));
    }

    /// Resolves when the write that is under way has ended, never when there is none. Cancel-safe.
    pub async fn written(&mut self) -> Result<(), LeaderError> {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let ended = writing.await;
        self.writing = None;
        match ended {
            Ok(Ok(recorded)) => {
                self.removed.retain(|pool| recorded.opened.contains(pool));
                self.recorded = recorded;
                self.note_marked();
                if self.failed.take().is_some() {
                    tracing::info!(config_map = self.registry.name(), "marks can be written again");
                }
            }
            Ok(Err(error)) if error.is_lost() => return Err(error),
            Ok(Err(error)) => self.note_failure(error),
            Err(error) => tracing::error!(%error, "the task that writes marks broke"),
        }
        Ok(())
    }

    fn note_failure(&mut self, error: LeaderError) {
        let tries = self.failed.as_ref().map_or(0, |failed| failed.tries).saturating_add(1);
        let wait = (FIRST_WAIT * 2_u32.saturating_pow((tries - 1).min(16))).min(LONGEST_WAIT);
        let wait = wait.mul_f64(system::rng().random_range(0.8..1.2));
        tracing::warn!(
            config_map = self.registry.name(),
            error = &error as &dyn std::error::Error,
            tries,
            again_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "cannot write down which pools are opened and who owns what; pools that never were open wait for it"
        );
        self.failed = Some(Failed { tries, error, next_try: Instant::now() + wait });
    }

    /// Why a pool that waits for its mark still waits; `None` while nothing failed.
    pub fn trouble(&self) -> Option<Trouble> {
        let Failed { tries, error, .. } = self.failed.as_ref()?;
        let message = format!(
            "before it opens, that it does must be written into the ConfigMap {}: {} (tries: {tries}); is it \
             immutable, or the controller without the right to it? It may be deleted, and is then made anew",
            self.registry.name(),
            error.with_source(),
        );
        Some(Trouble { reason: "MarkNotWritten", message, needs_a_person: error.is_refusal() })
    }
}
