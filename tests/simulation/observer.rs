//! The producer, and the one who looks at the end: the product's own enqueueing and audit, over a network that is never
//! cut. Commands of the producer may go astray; then it asks again, as it should.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mailrelay::{
    lease::{LedgerStore, Snapshot},
    queue::{At, Audit, DeadLetter, EnqueueError, EnqueueLimits, Entry, Filter, Queue, QueueNames, SCRIPT_LIMIT},
    store::{Store, StoreError},
};
use redis::{FromRedisValue, cmd};
use serde_json::Value;

use crate::{
    cluster::store,
    net::Net,
    post::{Post, Way},
    process::{Process, Time, now},
    trace::Trace,
};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);
/// How often a producer asks that gets no answer.
const TRIES: usize = 4;

/// What the observer knows.
#[derive(Debug, Default)]
pub struct Inner {
    /// Numbers of the mails that the queue took for certain.
    pub accepted: BTreeSet<usize>,
    /// Of these, mails that their producers asked for again, since no answer came.
    pub asked_again: BTreeSet<usize>,
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
    /// The state by id.
    pub states: BTreeMap<String, String>,
    /// For whom a mail is parked, and how: by recipient, in the order in which it was found.
    pub parked: BTreeMap<String, Vec<Parked>>,
}

/// A mail that a person has to look at, or that waits for its time, as it concerns one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parked {
    /// A dead letter with this reason.
    Dead(String),
    Held,
    Delayed,
}

/// The observer; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Observer(Arc<Mutex<Inner>>);

impl Observer {
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic inside")
    }

    /// Sends mails when it is their time, then looks.
    pub async fn run(self, net: Net, process: Arc<Process>, posts: Arc<Vec<Post>>, trace: Trace) {
        let redis = store(&net, &process);
        let queue = Queue::new(redis.clone(), QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        let (producer, mails) = (self.clone(), posts.clone());
        let produce = async {
            for post in &*mails {
                tokio::time::sleep(post.at.saturating_sub(now())).await;
                producer.send(&redis, &queue, post, &trace).await;
            }
        };
        let look = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let pool = Some(self.inner()).filter(|inner| inner.looking).map(|inner| inner.pool.clone());
                if let Some(pool) = pool {
                    // Who gets no answer looks again.
                    let _ = self.look(&redis, &queue, &LedgerStore::new(redis.clone(), &pool), &posts).await;
                }
            }
        };
        tokio::join!(produce, look);
    }

    async fn send(&self, redis: &Store, queue: &Queue, post: &Post, trace: &Trace) {
        let (took, times) =
            if post.way == Way::Script { enqueue(queue, post).await } else { (push(redis, post).await, 1) };
        let mut inner = self.inner();
        (inner.tried, inner.last_try) = (inner.tried + 1, now());
        trace.note(|| format!("producer: {} {:?} {:?}: {took}", post.id(), post.way, post.forged));
        if took {
            inner.accepted.insert(post.number);
            if times > 1 {
                inner.asked_again.insert(post.number);
            }
        }
    }

    async fn look(&self, redis: &Store, queue: &Queue, ledger: &LedgerStore, posts: &[Post]) -> Result<(), StoreError> {
        let at = now();
        let (audit, snapshot) = (queue.audit().await?, ledger.snapshot().await);
        let (Ok(snapshot), Ok(saturation)) = (snapshot, ledger.saturation().await) else { return Ok(()) };
        let effective = saturation.map(|(record, _)| record.effective);
        let (mut states, mut parked) = (BTreeMap::new(), BTreeMap::new());
        // Only a queue at rest is worth the questions.
        if audit.queued + audit.in_flight == 0 {
            for post in posts.iter().filter(|post| post.has_id) {
                if let Some(status) = queue.state(&post.id()).await? {
                    states.insert(post.id(), status.state);
                }
            }
            parked = all_parked(redis, queue, posts).await?;
        }
        // What moved meanwhile was seen in two places, or in none.
        if queue.audit().await? == audit {
            self.inner().look = Some(Look { at, audit, snapshot, effective, states, parked });
        }
        Ok(())
    }
}

/// Whether the queue took it for certain, and how often it was asked. Who may ask again without sending it twice does so.
async fn enqueue(queue: &Queue, post: &Post) -> (bool, usize) {
    let limits = EnqueueLimits { max_length: 100_000, max_bytes: 0 };
    let (named, mail) = (post.has_id || post.has_key, post.json().to_string());
    let tries = if named { TRIES } else { 1 };
    for time in 1..=tries {
        match queue.enqueue(mail.as_bytes(), limits, At::Redis).await {
            Ok(_) => return (true, time),
            Err(EnqueueError::Store { .. }) => tokio::time::sleep(Duration::from_millis(300)).await,
            Err(_) => return (false, time),
        }
    }
    (false, tries)
}

async fn push(redis: &Store, post: &Post) -> bool {
    if post.way == Way::Stored {
        let mut set = cmd("SET");
        set.arg(format!("mail:{}", post.id())).arg(post.json().to_string());
        if redis.query::<()>(&set, SCRIPT_LIMIT).await.is_err() {
            return false;
        }
    }
    let list = if let Way::Push(list) = post.way { list } else { "mail_queue" };
    redis.query::<i64>(cmd("LPUSH").arg(list).arg(post.entry()), SCRIPT_LIMIT).await.is_ok()
}

/// Whom the parked mails are for.
async fn all_parked(redis: &Store, queue: &Queue, posts: &[Post]) -> Result<BTreeMap<String, Vec<Parked>>, StoreError> {
    let mut parked: BTreeMap<String, Vec<Parked>> = BTreeMap::new();
    let mut park = |recipients: Vec<String>, how: &Parked| {
        for recipient in recipients {
            parked.entry(recipient).or_default().push(how.clone());
        }
    };
    let letters: Vec<Vec<u8>> = all(redis, &["LRANGE", "mail_dead_letter_queue", "0", "-1"]).await?;
    for letter in letters.iter().map(|letter| DeadLetter::decode(letter)) {
        let payload = letter.payload_bytes().unwrap_or_default();
        park(letter.remaining.unwrap_or_else(|| recipients(&payload, posts)), &Parked::Dead(letter.reason));
    }
    for held in queue.held_list(&Filter::default(), usize::MAX).await? {
        if let Some(held) = queue.held_show(&held.claim_id).await? {
            let payload = held.payload.as_bytes();
            park(held.remaining.unwrap_or_else(|| recipients(payload, posts)), &Parked::Held);
            // Those who were refused become a dead letter when the others have an outcome.
            park(held.refused.into_iter().map(|refusal| refusal.recipient).collect(), &Parked::Held);
        }
    }
    let delayed: Vec<Vec<u8>> = all(redis, &["HVALS", "{mail_queue}:delayed:mails"]).await?;
    for entry in &delayed {
        let entry = Entry::decode(entry);
        let (remaining, refused) = match &entry {
            Entry::Sealed(header, _) => (header.remaining.clone(), header.refused.clone()),
            _ => (None, Vec::new()),
        };
        park(remaining.unwrap_or_else(|| recipients(entry.payload(), posts)), &Parked::Delayed);
        park(refused.into_iter().map(|refusal| refusal.recipient).collect(), &Parked::Delayed);
    }
    Ok(parked)
}

async fn all<T: FromRedisValue>(redis: &Store, words: &[&str]) -> Result<T, StoreError> {
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    redis.query(&command, SCRIPT_LIMIT).await
}

/// Whom a producer's bytes are for: JSON, or an id under which it lies.
fn recipients(payload: &[u8], posts: &[Post]) -> Vec<String> {
    if let Ok(mail) = serde_json::from_slice::<Value>(payload) {
        return mail["to"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    let stored = posts.iter().find(|post| post.id().as_bytes() == payload);
    stored.map(Post::addresses).unwrap_or_default()
}
