//! Waiting for mail without polling: one blocking connection for each list, used only while someone waits.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection, cmd, from_redis_value, pipe};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::Queue;
use crate::{
    mail::Priority,
    store::{Store, StoreError},
};

/// How long one blocking command waits at most.
const BLOCK: Duration = Duration::from_secs(5);

/// How much shorter than asked for a block may be: clocks of Redis and of this process need not agree to the millisecond.
const MARGIN: Duration = Duration::from_millis(500);

/// How long its answer may take: the block, and a Redis that is slow.
const BLOCK_LIMIT: Duration = Duration::from_secs(8);

/// How long a list is left alone after a failure: about a heartbeat.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A mail was moved into `arrived`: claim.
    Arrived,
    /// Nothing came within the limit: claim all the same, since another process may have left something there.
    Quiet,
    /// Redis can't be waited on now (down, or at maxmemory); at least a second has passed. Try a claim.
    Failed,
}

/// Waits for mail by BLMOVE into the shared `arrived` list, on a connection of its own for each list.
///
/// A move never delivers to anyone in particular, so nothing is lost when a waiter stops, is cancelled or dies: the mail
/// lies where the next claim of any worker looks first.
pub struct Arrivals {
    /// How often someone began to wait; each task blocks once for each.
    waits: watch::Sender<u64>,
    shared: Arc<Shared>,
    // Ends the tasks when this is dropped; their connections go with them.
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    arrived: Notify,
    failed: Notify,
}

impl Arrivals {
    /// Starts one task for each list, on the current runtime. They connect when first needed.
    pub fn spawn(queue: &Queue) -> Self {
        let (waits, _) = watch::channel(0);
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            tasks.spawn(follow(
                queue.store.clone(),
                queue.names.list(priority).to_owned(),
                queue.names.arrived().to_owned(),
                waits.subscribe(),
                shared.clone(),
            ));
        }
        Self { waits, shared, _tasks: tasks }
    }

    /// Resolves when something may be claimable, after `limit` (at most 5 s) at the latest. Claim after each.
    ///
    /// Cancel-safe: a blocking command that is under way goes on, and what it moves makes the next wait return at once.
    /// Claim before the first wait: what lies in `arrived` already is not announced.
    pub async fn wait(&mut self, limit: Duration) -> Wake {
        self.waits.send_modify(|waits| *waits += 1);
        let woken = async {
            tokio::select! {
                biased;
                () = self.shared.arrived.notified() => Wake::Arrived,
                () = self.shared.failed.notified() => Wake::Failed,
            }
        };
        timeout(limit.min(BLOCK), woken).await.unwrap_or(Wake::Quiet)
    }
}

/// Blocks on one list, once each time someone waits.
async fn follow(store: Store, list: String, arrived: String, mut waits: watch::Receiver<u64>, shared: Arc<Shared>) {
    let (mut connection, mut may_skip) = (None, true);
    while waits.changed().await.is_ok() {
        let mut moved = block(&store, &mut connection, &list, &arrived, may_skip).await;
        if may_skip && moved.as_ref().is_err_and(is_forbidden) {
            (may_skip, connection) = (false, None);
            tracing::warn!(
                "the Redis user of the worker may not skip answers, so large mails come twice: allow +client|reply"
            );
            moved = block(&store, &mut connection, &list, &arrived, may_skip).await;
        }
        match moved {
            Ok(true) => shared.arrived.notify_one(),
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

/// Whether a mail was moved.
///
/// A blocking move answers with the whole mail, which nobody here wants: over a slow link that takes longer than anyone waits,
/// and it would be in memory once more. So its answer is skipped, where that may be, and that of what follows it awaited.
async fn block(
    store: &Store,
    connection: &mut Option<MultiplexedConnection>,
    list: &str,
    arrived: &str,
    skip: bool,
) -> Result<bool, StoreError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(store.dedicated(BLOCK_LIMIT).await?),
    };
    let began = Instant::now();
    let moved = async {
        if !skip {
            let moved: Option<Vec<u8>> =
                blocking_move(list, arrived, BLOCK.as_secs_f64()).query_async(connection).await?;
            return Ok(moved.is_some());
        }
        let mut commands = pipe();
        commands.cmd("CLIENT").arg("REPLY").arg("SKIP");
        commands.add_command(blocking_move(list, arrived, BLOCK.as_secs_f64()));
        commands.cmd("LLEN").arg(arrived);
        // The first two have no answer.
        let answers = connection.send_packed_commands(&commands, 0, 1).await?;
        let answer = answers.into_iter().next().unwrap_or(Value::Nil).extract_error()?;
        let waiting: u64 = from_redis_value(answer)?;
        if waiting > 0 || began.elapsed() + MARGIN >= BLOCK {
            return Ok(waiting > 0);
        }
        // It came and went again, to another worker; or the move was refused, which skipping does not tell.
        blocking_move(list, arrived, 0.001).query_async::<Option<Vec<u8>>>(connection).await?;
        Ok::<_, RedisError>(true)
    };
    match timeout(BLOCK_LIMIT, moved).await {
        Ok(Ok(moved)) => Ok(moved),
        Ok(Err(error)) => Err(store.error(&error, BLOCK_LIMIT)),
        Err(_) => Err(StoreError::TimedOut { address: store.address().to_owned(), limit: BLOCK_LIMIT }),
    }
}

fn blocking_move(list: &str, arrived: &str, seconds: f64) -> Cmd {
    let mut command = cmd("BLMOVE");
    command.arg(list).arg(arrived).arg("RIGHT").arg("LEFT").arg(seconds);
    command
}
