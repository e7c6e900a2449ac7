//! What a worker does now and then: bring due mail back, report, measure, look at files.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{sync::Notify, time::Instant};

use super::{
    credentials::CredentialsFolder,
    current_queue::CurrentQueue,
    fleet::Fleet,
    follow::{Followed, Refused},
    settle::Settler,
    strangers::Strangers,
};
use crate::{
    api::{RelayRecord, WorkerReport, first_schema, reports_key},
    lease::{Identity, LedgerStore},
    queue::{At, Dues, Queue, QueueNames, RecoverOptions},
    store::{Store, StoreError},
    system,
    telemetry::metrics::{ByKind, WorkerMetrics},
};

/// How often, shortened or lengthened at random so that workers spread.
const TICK: Duration = Duration::from_secs(1);
/// How many due mails go back in one script at most: what 16 sessions send in a tick to a server that is near.
const PROMOTE: usize = 512;
/// How often the report is written although nothing changed.
const REPORT_AGAIN: Duration = Duration::from_secs(10);
/// How long nothing must have been to do before the worker rests.
const REST_AFTER: Duration = Duration::from_secs(10);
/// How often is looked, while the worker rests, after what somebody would have told of.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// How often the queue is measured.
const MEASURE: Duration = Duration::from_secs(5);
/// How long Redis may take to take a report.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What upkeep works with.
pub struct Handles {
    /// Redis.
    pub store: Store,
    /// Name of the relay.
    pub relay_name: String,
    /// The relay in force.
    pub relay: Followed,
    /// Why the record that is there is not in force.
    pub refused: Refused,
    /// Who we are.
    pub identity: Identity,
    /// The queue that mail is taken from.
    pub queue: Arc<CurrentQueue>,
    /// The servers and their sessions.
    pub fleet: Fleet,
    /// Who has which mail in hand.
    pub settler: Settler,
    /// Login files.
    pub files: Arc<CredentialsFolder>,
    /// Told when a mail may be due at once.
    pub promote: Arc<Notify>,
    /// Figures.
    pub metrics: WorkerMetrics,
}

/// Runs until dropped.
pub async fn run(handles: Handles) {
    let mut upkeep = Upkeep {
        handles,
        reported: None,
        measured: None,
        strangers: Strangers::default(),
        counted: None,
        dues: None,
        idle: None,
        rest: None,
    };
    loop {
        upkeep.turn().await;
        let tick = tokio::time::sleep(TICK.mul_f64(0.85 + 0.3 * system::rng().random::<f64>()));
        tokio::pin!(tick);
        loop {
            tokio::select! {
                () = &mut tick => break,
                () = upkeep.handles.promote.notified() => break,
                wait = due(upkeep.dues.as_mut()) => upkeep.hear_due(wait),
            }
        }
    }
}

async fn due(dues: Option<&mut (QueueNames, Dues)>) -> Option<Duration> {
    match dues {
        Some((_, dues)) => dues.next().await,
        None => std::future::pending().await,
    }
}

struct Upkeep {
    handles: Handles,
    reported: Option<(Instant, WorkerReport)>,
    measured: Option<Instant>,
    strangers: Strangers,
    /// When strangers were looked for.
    counted: Option<Instant>,
    /// What is announced of delayed mail, of the queue that mail is taken from.
    dues: Option<(QueueNames, Dues)>,
    /// Since when there has been nothing to do.
    idle: Option<Instant>,
    /// While the worker rests.
    rest: Option<Rest>,
}

/// When a worker that rests next looks for mail that is due.
struct Rest {
    /// When the first of the delayed mails is due, as far as is known.
    due: Option<Instant>,
    /// Or then, since an announcement may have been missed.
    look: Instant,
}

impl Rest {
    /// What comes in between is announced: the announcements are followed already.
    async fn begin(queue: &Queue) -> Result<Self, StoreError> {
        let (due, now) = (queue.next_due().await?, Instant::now());
        Ok(Self { due: due.map(|wait| now + wait), look: now + LOOK_AGAIN })
    }
}

impl Upkeep {
    async fn turn(&mut self) {
        let record = self.handles.relay.borrow().clone();
        let (Some(record), Some(queue)) = (record, self.handles.queue.get()) else {
            if self.handles.refused.borrow().is_some()
                && let Err(error) = self.report().await
            {
                tracing::debug!(%error, "the report did not reach Redis");
            }
            return;
        };
        for server in self.handles.fleet.servers() {
            server.look_at_files(&self.handles.files);
        }
        self.handles.fleet.measure(&self.handles.metrics);
        self.follow_dues(&queue);
        let mut refusal = None;
        let turned = self.steps(&queue, &record, &mut refusal).await;
        if let Some(error) = turned.err().or(refusal) {
            self.handles.metrics.store_failures.get_or_create(&ByKind { kind: "upkeep" }).inc();
            tracing::debug!(%error, "upkeep did not do all with Redis");
        }
    }

    /// What Redis refuses to one step is that step's alone. When it says nothing, the others fail alike: the first one is enough.
    async fn steps(
        &mut self,
        queue: &Queue,
        record: &RelayRecord,
        refusal: &mut Option<StoreError>,
    ) -> Result<(), StoreError> {
        let mut note = |done: Result<(), StoreError>| match done {
            Err(error) if !error.is_silence() => {
                refusal.get_or_insert(error);
                Ok(())
            }
            done => done,
        };
        // A suspended relay sends nothing, so due mail may as well wait where it is.
        if !record.spec.suspend && record.stalled.is_none() {
            note(self.promote(queue).await)?;
        }
        note(self.report().await)?;
        note(self.tell_good().await)?;
        note(self.return_lost_claims(queue).await)?;
        note(self.resolve_strangers(queue, record).await)?;
        note(self.measure(queue).await)?;
        note(self.rest_or_work(queue).await)
    }

    /// Sessions that claim find these by themselves; a worker without a share has none.
    async fn return_lost_claims(&self, queue: &Queue) -> Result<(), StoreError> {
        let returned = queue.return_lost_claims(self.handles.identity.process.as_str(), At::Redis).await?;
        if returned > 0 {
            tracing::info!(claims.returned = returned, "gave back claims whose answer had been lost");
        }
        Ok(())
    }

    /// Brings due mail back; how much, all workers together, is the script's to say. Who rests does so when it was told that
    /// some is due.
    async fn promote(&mut self, queue: &Queue) -> Result<(), StoreError> {
        let now = Instant::now();
        if self.rest.as_ref().is_some_and(|rest| rest.due.is_none_or(|due| now < due) && now < rest.look) {
            return Ok(());
        }
        let promoted = queue.promote_due(At::Redis, PROMOTE).await?;
        self.handles.metrics.promoted.inc_by(promoted as u64);
        if self.rest.is_some() {
            self.rest = Some(Rest::begin(queue).await?);
        }
        Ok(())
    }

    /// Rests when there has been nothing to do for a while, and ends that when there is.
    async fn rest_or_work(&mut self, queue: &Queue) -> Result<(), StoreError> {
        let Handles { fleet, settler, .. } = &self.handles;
        if fleet.take_woken() || !(fleet.is_idle() && settler.is_idle() && queue.is_quiet()) {
            (self.idle, self.rest) = (None, None);
            return Ok(());
        }
        if self.idle.get_or_insert_with(Instant::now).elapsed() < REST_AFTER || !fleet.rest() {
            self.rest = None;
        } else if self.rest.is_none() && queue.rest(self.handles.identity.process.as_str()).await? {
            self.rest = Some(Rest::begin(queue).await?);
        }
        Ok(())
    }

    /// Follows the announcements of the queue that mail is taken from.
    fn follow_dues(&mut self, queue: &Queue) {
        if self.dues.as_ref().is_none_or(|(of, _)| of != queue.names()) {
            self.dues = Some((queue.names().clone(), queue.dues()));
            self.rest = None;
        }
    }

    /// The first of the delayed mails is due after this, or an announcement of that may have been missed.
    fn hear_due(&mut self, wait: Option<Duration>) {
        let Some(rest) = &mut self.rest else { return };
        let at = Instant::now() + wait.unwrap_or_default();
        rest.due = Some(rest.due.map_or(at, |due| due.min(at)));
    }

    /// How often something is done that is done `often` while there is work.
    fn every(&self, often: Duration) -> Duration {
        if self.rest.is_some() { LOOK_AGAIN } else { often }
    }

    /// Counts good mails where a saturated server's budget grows by them (lease R10).
    async fn tell_good(&self) -> Result<(), StoreError> {
        for server in self.handles.fleet.servers() {
            let mails = server.take_good();
            if mails == 0 {
                continue;
            }
            let ledger = LedgerStore::new(self.handles.store.clone(), &server.settings().pool());
            if let Err(error) = ledger.count_good(mails).await {
                server.put_back_good(mails);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Resolves claims under our name that an older copy of Redis brought back.
    async fn resolve_strangers(&mut self, queue: &Queue, record: &RelayRecord) -> Result<(), StoreError> {
        let every = self.every(MEASURE);
        let Self { handles, strangers, counted, .. } = self;
        if counted.is_some_and(|at| at.elapsed() < every) {
            return Ok(());
        }
        let process = handles.identity.process.as_str();
        let claims = queue.claims_of(process).await?;
        // One that is being read over a slow link is in nobody's hand yet.
        let is_known = |claim: &str| handles.settler.has_in_hand(claim) || queue.expects(claim);
        let found = strangers.look(claims, is_known, Instant::now());
        if !found.is_empty() {
            let unknown = record.spec.unknown_outcome;
            let options = RecoverOptions { unknown, fence_changed: true, crashed: false, out_of_memory: false };
            let recovery = queue.recover_claims(process, &found, &options, At::Redis).await?;
            super::recover::count(&handles.metrics, &recovery);
            tracing::warn!(
                claims.held = recovery.held,
                claims.resent = recovery.resent,
                "Redis has claims of this process that it ended long ago, as an older copy would; their outcome is unknown"
            );
        }
        *counted = Some(Instant::now());
        Ok(())
    }

    async fn report(&mut self) -> Result<(), StoreError> {
        let handles = &self.handles;
        let report = WorkerReport {
            schema: first_schema(),
            pod: handles.identity.pod.clone(),
            process: handles.identity.process.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            record: handles.refused.borrow().clone(),
            servers: handles.fleet.report(),
        };
        let every = self.every(REPORT_AGAIN);
        let is_fresh = |(at, last): &(Instant, WorkerReport)| *last == report && at.elapsed() < every;
        if self.reported.as_ref().is_some_and(is_fresh) {
            return Ok(());
        }
        // A report is plain data and always serialises.
        let text = serde_json::to_vec(&report).unwrap_or_default();
        let key = reports_key(&handles.identity.namespace, &handles.relay_name);
        let mut command = redis::cmd("HSET");
        command.arg(key).arg(&handles.identity.pod_uid).arg(text);
        let () = handles.store.query(&command, ANSWER_LIMIT).await?;
        self.reported = Some((Instant::now(), report));
        Ok(())
    }

    async fn measure(&mut self, queue: &Queue) -> Result<(), StoreError> {
        if self.measured.is_some_and(|at| at.elapsed() < self.every(MEASURE)) {
            return Ok(());
        }
        let depths = queue.depths(At::Redis).await?;
        let metrics = &self.handles.metrics;
        let states = [
            ("pending", depths.pending),
            ("delayed", depths.delayed),
            ("in_flight", depths.in_flight),
            ("held", depths.held),
            ("dead", depths.dead),
        ];
        for (kind, count) in states {
            metrics.queue_mails.get_or_create(&ByKind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        metrics.queue_oldest.set(depths.oldest.map_or(0.0, |oldest| depths.at.since(oldest).as_secs_f64()));
        self.measured = Some(Instant::now());
        Ok(())
    }
}
