//! Waiting for mail without polling: one blocking connection for each list, used only while someone waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection, cmd, from_redis_value, pipe};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Queue, SCRIPT_LIMIT};
use crate::{
    mail::Priority,
    store::{Heard, Store, StoreError, Subscription},
};

/// How long one blocking command waits at most.
const LONGEST: Duration = Duration::from_secs(300);

/// How much shorter than asked for a block may be: clocks of Redis and of this process need not agree to the millisecond.
const MARGIN: Duration = Duration::from_millis(500);

/// How much longer than the block its answer may take, from a Redis that is slow.
const SLOW: Duration = Duration::from_secs(3);

/// How long a list is left alone after a failure: about a heartbeat.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A mail was moved into `arrived`, or somebody calls for mail that lies there: claim.
    Arrived,
    /// Nothing came within the limit: claim all the same, since another process may have left something there.
    Quiet,
    /// Redis can't be waited on now (down, or at maxmemory); at least a second has passed. Try a claim.
    Failed,
}

/// Waits for mail by BLMOVE into the shared `arrived` list, on a connection of its own for each list.
///
/// A move never delivers to anyone in particular, so nothing is lost when a waiter stops, is cancelled or dies: the mail
/// lies where the next claim of any worker looks first. When nobody comes for it, the leader calls
/// ([`Queue::call`]).
pub struct Arrivals {
    /// How often someone began to wait, and how long; each task blocks once for each.
    waits: watch::Sender<(u64, Duration)>,
    shared: Arc<Shared>,
    // Ends the tasks when this is dropped; their connections go with them.
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    arrived: Notify,
    failed: Notify,
    /// How many wait.
    waiting: AtomicUsize,
}

/// Somebody waits until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrivals {
    /// Starts one task for each list, on the current runtime. They connect when first needed.
    pub fn spawn(queue: &Queue) -> Self {
        let (waits, _) = watch::channel((0, Duration::ZERO));
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            tasks.spawn(follow(queue.clone(), priority, waits.subscribe(), shared.clone()));
        }
        tasks.spawn(hear_calls(queue.store.subscribe(queue.names.arrived()), shared.clone()));
        Self { waits, shared, _tasks: tasks }
    }

    /// Resolves when something may be claimable, after `limit` (at most five minutes) at the latest. Claim after each.
    ///
    /// Cancel-safe: a blocking command that is under way goes on, and what it moves makes the next wait return at once.
    /// Claim before the first wait: what lies in `arrived` already is not announced.
    pub async fn wait(&mut self, limit: Duration) -> Wake {
        let limit = limit.min(LONGEST);
        self.waits.send_modify(|(waits, longest)| (*waits, *longest) = (*waits + 1, limit));
        let _waiting = Waiting::begin(&self.shared.waiting);
        let woken = async {
            tokio::select! {
                biased;
                () = self.shared.arrived.notified() => Wake::Arrived,
                () = self.shared.failed.notified() => Wake::Failed,
            }
        };
        timeout(limit, woken).await.unwrap_or(Wake::Quiet)
    }
}

/// Hears calls for mail. What was called while the connection was broken was missed, so a look follows that too.
async fn hear_calls(mut calls: Subscription, shared: Arc<Shared>) {
    let mut listening = false;
    loop {
        let is_first = calls.next().await == Heard::Listening && !std::mem::replace(&mut listening, true);
        if !is_first {
            shared.arrived.notify_one();
        }
    }
}

/// Blocks on one list, once each time someone waits.
async fn follow(queue: Queue, priority: Priority, mut waits: watch::Receiver<(u64, Duration)>, shared: Arc<Shared>) {
    let (store, list) = (&queue.store, queue.names.list(priority));
    let (mut connection, mut may_skip) = (None, true);
    while waits.changed().await.is_ok() {
        let (_, limit) = *waits.borrow_and_update();
        let blocking = Blocking { list, arrived: queue.names.arrived(), limit };
        let mut moved = blocking.once(store, &mut connection, may_skip).await;
        if may_skip && moved.as_ref().is_err_and(is_forbidden) {
            (may_skip, connection) = (false, None);
            tracing::warn!(
                "the Redis user of the worker may not skip answers, so large mails come twice: allow +client|reply, as `mailrelay redis-acl` does"
            );
            moved = blocking.once(store, &mut connection, may_skip).await;
        }
        match moved {
            Ok(true) => {
                shared.arrived.notify_one();
                // A block from before all had work here; the mail is for others, whom nothing else would wake.
                if shared.waiting.load(Ordering::Relaxed) == 0
                    && let Err(error) = queue.call().await
                {
                    tracing::debug!(list, %error, "can't call for mail");
                }
            }
            Ok(false) => {}
            Err(error) => {
                connection = None;
                tracing::debug!(list, %error, "can't wait for mail");
                tokio::time::sleep(PAUSE).await;
                shared.failed.notify_one();
            }
        }
    }
}

/// Whether a command is one that this user, or this kind of server, does not take.
fn is_forbidden(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { code, .. } if matches!(code.as_str(), "NOPERM" | "ERR"))
}

impl Queue {
    /// Calls everyone who waits: mail lies here that somebody may have been woken for who does not come.
    pub async fn call(&self) -> Result<(), StoreError> {
        let mut call = cmd("PUBLISH");
        call.arg(self.names.arrived()).arg("mail");
        self.store.query::<i64>(&call, SCRIPT_LIMIT).await.map(drop)
    }
}

/// One blocking move.
struct Blocking<'a> {
    list: &'a str,
    arrived: &'a str,
    limit: Duration,
}

impl Blocking<'_> {
    /// Whether a mail was moved.
    ///
    /// A blocking move answers with the whole mail, which nobody here wants: over a slow link that takes longer than anyone
    /// waits, and it would be in memory once more. So its answer is skipped, where that may be, and that of what follows it
    /// awaited.
    async fn once(
        &self,
        store: &Store,
        connection: &mut Option<MultiplexedConnection>,
        skip: bool,
    ) -> Result<bool, StoreError> {
        // How long one answer may take is the connection's, made for the longest.
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(store.dedicated(LONGEST + SLOW).await?),
        };
        let (began, limit) = (Instant::now(), self.limit + SLOW);
        let moved = async {
            if !skip {
                let moved: Option<Vec<u8>> = self.command(self.limit).query_async(connection).await?;
                return Ok(moved.is_some());
            }
            let mut commands = pipe();
            commands.cmd("CLIENT").arg("REPLY").arg("SKIP");
            commands.add_command(self.command(self.limit));
            commands.cmd("LLEN").arg(self.arrived);
            // The first two have no answer.
            let answers = connection.send_packed_commands(&commands, 0, 1).await?;
            let answer = answers.into_iter().next().unwrap_or(Value::Nil).extract_error()?;
            let waiting: u64 = from_redis_value(answer)?;
            if waiting > 0 || began.elapsed() + MARGIN >= self.limit {
                return Ok(waiting > 0);
            }
            // It came and went again, to another worker; or the move was refused, which skipping does not tell.
            self.command(Duration::from_millis(1)).query_async::<Option<Vec<u8>>>(connection).await?;
            Ok::<_, RedisError>(true)
        };
        match timeout(limit, moved).await {
            Ok(Ok(moved)) => Ok(moved),
            Ok(Err(error)) => Err(store.error(&error, limit)),
            Err(_) => Err(StoreError::TimedOut { address: store.address().to_owned(), limit }),
        }
    }

    fn command(&self, limit: Duration) -> Cmd {
        let mut command = cmd("BLMOVE");
        command.arg(self.list).arg(self.arrived).arg("RIGHT").arg("LEFT").arg(limit.as_secs_f64());
        command
    }
}
