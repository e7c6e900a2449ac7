//! The producer, and the one who looks at the end: the product's own enqueueing and audit, over a network that is never
//! cut.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mailrelay::{
    lease::{LedgerStore, Snapshot},
    queue::{At, Audit, EnqueueLimits, Queue, QueueNames},
};
use serde_json::json;

use crate::{
    cluster::store,
    net::Net,
    process::{Process, Time, now},
    trace::Trace,
};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// What the observer knows.
#[derive(Debug, Default)]
pub struct Inner {
    /// Ids of the mails that the queue took for certain.
    pub accepted: Vec<String>,
    /// Those whose answer was lost.
    pub uncertain: Vec<String>,
    /// How many have been sent off, taken or not.
    pub tried: usize,
    /// When the last of them was.
    pub last_try: Time,
    /// What the last look found, and when it began.
    pub look: Option<Look>,
    /// Look from now on.
    pub looking: bool,
    /// The pool that is looked at.
    pub pool: String,
}

/// One look.
#[derive(Clone, Debug)]
pub struct Look {
    pub at: Time,
    pub audit: Audit,
    pub snapshot: Snapshot,
    /// Slots that are shared out, when that is less than the budget.
    pub effective: Option<u32>,
    /// State and Message-ID by id.
    pub mails: BTreeMap<String, (String, String)>,
}

/// The observer; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Observer(Arc<Mutex<Inner>>);

impl Observer {
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic inside")
    }

    /// Sends mails when it is their time, then looks.
    pub async fn run(self, net: Net, process: Arc<Process>, mails: Vec<(Time, usize)>, trace: Trace) {
        let redis = store(&net, &process);
        let queue = Queue::new(redis.clone(), QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        let producer = self.clone();
        let produce = async {
            for (number, (at, size)) in mails.iter().enumerate() {
                tokio::time::sleep(at.saturating_sub(now())).await;
                producer.send(&queue, number, *size, &trace).await;
            }
        };
        let look = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let pool = Some(self.inner()).filter(|inner| inner.looking).map(|inner| inner.pool.clone());
                if let Some(pool) = pool {
                    self.look(&queue, &LedgerStore::new(redis.clone(), &pool)).await;
                }
            }
        };
        tokio::join!(produce, look);
    }

    async fn send(&self, queue: &Queue, number: usize, size: usize, trace: &Trace) {
        let id = format!("mail-{number}");
        let mail = json!({
            "id": id, "from": "app@example.com", "to": format!("r{number}@example.org"),
            "subject": "Hello", "text": "Hello, world\n".repeat(size.div_ceil(13)),
        });
        let limits = EnqueueLimits { max_length: 100_000, max_bytes: 0 };
        let sent = queue.enqueue(mail.to_string().as_bytes(), limits, At::Redis).await;
        let mut inner = self.inner();
        (inner.tried, inner.last_try) = (inner.tried + 1, now());
        if sent.is_ok() {
            trace.note(|| format!("producer: {id} is queued"));
            inner.accepted.push(id);
        } else {
            inner.uncertain.push(id);
        }
    }

    async fn look(&self, queue: &Queue, ledger: &LedgerStore) {
        let at = now();
        let ids: Vec<String> = {
            let inner = self.inner();
            inner.accepted.iter().chain(&inner.uncertain).cloned().collect()
        };
        let (Ok(audit), Ok(snapshot), Ok(saturation)) =
            (queue.audit().await, ledger.snapshot().await, ledger.saturation().await)
        else {
            return;
        };
        let effective = saturation.map(|(record, _)| record.effective);
        let mut mails = BTreeMap::new();
        // Only a queue at rest is worth the questions.
        if audit.queued + audit.in_flight == 0 {
            for id in ids {
                let Ok(status) = queue.state(&id).await else { return };
                if let Some(status) = status {
                    // As it is made of the sender's domain.
                    let message_id = format!("<{id}@example.com>");
                    mails.insert(id, (status.state, message_id));
                }
            }
        }
        // What moved meanwhile was seen in two places, or in none.
        if queue.audit().await.ok().as_ref() != Some(&audit) {
            return;
        }
        self.inner().look = Some(Look { at, audit, snapshot, effective, mails });
    }
}
