//! The producer: a steady stream of numbered mails, by plain LPUSH as any program does it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mailrelay::store::Store;
use tokio::task::JoinHandle;

use crate::mails::mail;

/// How often it looks whether more is needed.
const EVERY: Duration = Duration::from_millis(50);
/// Mails in one push; with [`EVERY`] twice what 16 sessions can send at 200 ms a mail.
const BATCH: usize = 8;
/// How many mails are kept waiting.
const WAITING: u64 = 80;
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
    task: JoinHandle<()>,
}

impl Load {
    /// Keeps mails waiting in the queue; their ids are `<name>-<number>`.
    pub(crate) fn start(store: Store, queue: String, name: String) -> Self {
        let sent = Arc::<Mutex<Sent>>::default();
        let task = tokio::spawn(produce(store, queue, name, Arc::clone(&sent)));
        Self { sent, task }
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

async fn produce(store: Store, queue: String, name: String, sent: Arc<Mutex<Sent>>) {
    let mut length = redis::cmd("LLEN");
    length.arg(&queue);
    for start in (0..).step_by(BATCH) {
        loop {
            tokio::time::sleep(EVERY).await;
            if store.query::<u64>(&length, ANSWER).await.is_ok_and(|waiting| waiting < WAITING) {
                break;
            }
        }
        let mut push = redis::cmd("LPUSH");
        push.arg(&queue);
        let mut ids = Vec::new();
        for index in start..start + BATCH {
            push.arg(mail(&name, index).to_string());
            ids.push(format!("{name}-{index}"));
        }
        // Until there is an answer; also when this task is stopped before.
        lock(&sent).uncertain.extend(ids.iter().cloned());
        if store.query::<u64>(&push, ANSWER).await.is_ok() {
            let mut sent = lock(&sent);
            let first = sent.uncertain.len() - ids.len();
            sent.uncertain.truncate(first);
            sent.accepted.extend(ids);
        }
    }
}

fn lock(sent: &Mutex<Sent>) -> MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}
