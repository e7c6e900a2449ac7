//! The producer: a steady stream of numbered mails, by plain LPUSH as any program does it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mailrelay::store::Store;
use tokio::task::JoinHandle;

use crate::mails::{large_mail, mail};

/// How often it looks whether more is needed.
const EVERY: Duration = Duration::from_millis(50);
/// Mails in one push; with [`EVERY`] twice what 16 sessions can send at 200 ms a mail.
const BATCH: usize = 8;
/// How many mails are kept waiting, and how many of those that take long.
const WAITING: u64 = 80;
const FEW: u64 = 24;
/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// What was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// Ids of mails that Redis acknowledged.
    pub accepted: Vec<String>,
    /// Ids of mails whose push was not answered: they may be there or not.
    pub uncertain: Vec<String>,
}

/// A producer at work until it is stopped or dropped.
pub struct Load {
    sent: Arc<Mutex<Sent>>,
    rests: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Keeps mails waiting in the queue; their ids are `<name>-<number>`, and their texts have so many bytes. Few are kept
    /// waiting where each takes long.
    pub(crate) fn start(store: Store, queue: String, name: String, size: Option<usize>, takes_long: bool) -> Self {
        let (sent, rests) = (Arc::<Mutex<Sent>>::default(), Arc::<AtomicBool>::default());
        let waiting = if takes_long { FEW } else { WAITING };
        let producer =
            Producer { store, queue, name, size, waiting, sent: Arc::clone(&sent), rests: Arc::clone(&rests) };
        let task = tokio::spawn(producer.produce());
        Self { sent, rests, task }
    }

    /// Sends nothing until it is told to go on.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// What was sent so far.
    pub(crate) fn sent(&self) -> Sent {
        lock(&self.sent).clone()
    }

    /// How many mails were accepted so far.
    pub fn accepted(&self) -> usize {
        lock(&self.sent).accepted.len()
    }

    /// Sends no more. A push that is on its way counts as uncertain.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Producer {
    store: Store,
    queue: String,
    name: String,
    size: Option<usize>,
    waiting: u64,
    sent: Arc<Mutex<Sent>>,
    rests: Arc<AtomicBool>,
}

impl Producer {
    async fn produce(self) {
        let mut length = redis::cmd("LLEN");
        length.arg(&self.queue);
        for start in (0..).step_by(BATCH) {
            loop {
                tokio::time::sleep(EVERY).await;
                let rests = self.rests.load(Ordering::Relaxed);
                if !rests && self.store.query::<u64>(&length, ANSWER).await.is_ok_and(|waiting| waiting < self.waiting)
                {
                    break;
                }
            }
            let mut push = redis::cmd("LPUSH");
            push.arg(&self.queue);
            let mut ids = Vec::new();
            for index in start..start + BATCH {
                let mail =
                    self.size.map_or_else(|| mail(&self.name, index), |size| large_mail(&self.name, index, size));
                push.arg(mail.to_string());
                ids.push(format!("{}-{index}", self.name));
            }
            // Until there is an answer; also when this task is stopped before.
            lock(&self.sent).uncertain.extend(ids.iter().cloned());
            if self.store.query::<u64>(&push, ANSWER).await.is_ok() {
                let mut sent = lock(&self.sent);
                let first = sent.uncertain.len() - ids.len();
                sent.uncertain.truncate(first);
                sent.accepted.extend(ids);
            }
        }
    }
}

fn lock(sent: &Mutex<Sent>) -> MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}
