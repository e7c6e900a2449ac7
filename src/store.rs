//! The connection to Redis: where it is, how long an answer may take, and what a failure means.
//!
//! Commands share one multiplexed connection that is made anew after a failure; those that carry bodies have another
//! ([`Store::for_bodies`]), so that a lease never waits behind a large mail on a slow link. Nothing is ever sent twice by this
//! module: whether a command whose answer was lost may be repeated is the caller's to know ([`crate::lease`], R1;
//! [`crate::queue`]).

mod acl;
mod error;
mod options;
mod subscriptions;
mod way;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use redis::{
    Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Script,
    aio::{MultiplexedConnection, PubSub},
};

use subscriptions::{Connect, Listening};
use way::{Settings, Way};

pub use acl::{Grant, Names, Rules};
pub use error::StoreError;
pub use options::StoreOptions;
pub use subscriptions::{Heard, Subscription};
pub use way::Dialer;

/// How long a connection to Redis may take at first: one that a lost packet holds up is given up before its lease is.
const CONNECT_LIMIT: Duration = Duration::from_millis(300);

/// How long it may take at most, where Redis is far away.
const CONNECT_LIMIT_FAR: Duration = Duration::from_millis(2_400);

/// Redis does not say which command of a script it was.
const FORBIDDEN: &str = "the Redis user has no permission for a command (in scripts INFO and TIME, too), key or channel that we \
    need: give it the rules that `mailrelay redis-acl` prints for it";

/// How long the same refusal of Redis is not told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// A handle on one Redis; clones share the connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    lane: Lane,
}

/// Which of the two connections a handle uses.
#[derive(Clone, Copy)]
enum Lane {
    /// What is short and in a hurry: leases, stages, reports.
    Short = 0,
    /// What may take its time: bodies of mails.
    Bodies = 1,
}

struct Inner {
    way: Way,
    address: String,
    current: [Mutex<Current>; 2],
    /// What is long goes one after the other, so that each has its time for itself.
    turn: tokio::sync::Mutex<()>,
    /// How long a connection may take now.
    patience: Mutex<Duration>,
    /// When it was last said that Redis refuses something, by its words.
    told: Mutex<BTreeMap<String, tokio::time::Instant>>,
    listening: Listening,
}

#[derive(Default)]
struct Current {
    generation: u64,
    connection: Option<MultiplexedConnection>,
}

impl Store {
    /// Reads the options and the files they name; does not connect.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let login = Settings::read(options)?.into_login()?;
        let address = login.address();
        Ok(Self::by(Way::Tcp { options: Box::new(options.clone()), login: Box::new(Mutex::new(login)) }, address))
    }

    /// A Redis whose connections `dialer` makes; does not connect. `address` is for messages.
    pub fn dialed(dialer: Arc<dyn Dialer>, address: impl Into<String>) -> Self {
        Self::by(Way::Dialed(dialer), address.into())
    }

    fn by(way: Way, address: String) -> Self {
        Self {
            inner: Arc::new(Inner {
                way,
                address,
                current: Default::default(),
                turn: tokio::sync::Mutex::default(),
                patience: Mutex::new(CONNECT_LIMIT),
                told: Mutex::default(),
                listening: Listening::default(),
            }),
            lane: Lane::Short,
        }
    }

    /// The same Redis by a connection of its own, for what is long: nothing that is in a hurry waits behind it.
    pub fn for_bodies(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), lane: Lane::Bodies }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.inner.current[self.lane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host and port, for messages.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Sends one command. Cancelling leaves open whether it took effect.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd, limit: Duration) -> Result<T, StoreError> {
        self.bounded(limit, async |connection| command.query_async(connection).await).await
    }

    /// Sends one command that a login need not be permitted: that it is not is an error which nobody is told of here.
    pub async fn query_if_permitted<T: FromRedisValue>(&self, command: &Cmd, limit: Duration) -> Result<T, StoreError> {
        let asked = self.asked(limit, async |connection| command.query_async(connection).await).await;
        asked.inspect_err(|error| {
            if !error.is_forbidden() {
                self.tell(error);
            }
        })
    }

    /// Sends commands together and waits for all their answers. Others may be served in between; an error of one is the
    /// error of all. Cancelling leaves open which took effect.
    pub async fn query_all<T: FromRedisValue>(&self, commands: &Pipeline, limit: Duration) -> Result<T, StoreError> {
        self.bounded(limit, async |connection| commands.query_async(connection).await).await
    }

    /// Runs a script by EVALSHA, loading it when Redis does not know it, again and again for as long as others make Redis
    /// forget it in between. Cancelling leaves open whether it took effect.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
        limit: Duration,
    ) -> Result<T, StoreError> {
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(*key);
        }
        for argument in arguments {
            invocation.arg(*argument);
        }
        let unknown = redis::ErrorKind::Server(redis::ServerErrorKind::NoScript);
        self.bounded(limit, async |connection| {
            loop {
                match invocation.invoke_async(connection).await {
                    Err(error) if error.kind() == unknown => {}
                    outcome => return outcome,
                }
            }
        })
        .await
    }

    /// A connection of its own, for blocking commands; `limit` bounds each answer.
    pub async fn dedicated(&self, limit: Duration) -> Result<MultiplexedConnection, StoreError> {
        let way = &self.inner.way;
        self.connecting(|patience| way.connect(limit, patience).boxed()).await
    }

    /// Follows a channel. [`Heard::Listening`] comes first, and after each time that the connection was made anew. To be
    /// called inside a tokio runtime.
    pub fn subscribe(&self, channel: &str) -> Subscription {
        self.inner.listening.follow(channel, self.clone())
    }

    /// Makes the connection anew on which channels are followed: it may be dead without a sign.
    pub fn listen_anew(&self) {
        self.inner.listening.anew();
    }

    /// Connects, once more with the login that the files have now, should they have changed.
    async fn connecting<'a, T>(
        &self,
        connect: impl Fn(Duration) -> BoxFuture<'a, RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let patience = self.patience();
        let connected = self.connected(patience, connect(patience)).await;
        if connected.is_err() && self.inner.way.renew() {
            return self.connected(patience, connect(patience)).await;
        }
        connected
    }

    async fn connected<T>(
        &self,
        patience: Duration,
        connecting: BoxFuture<'_, RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let began = tokio::time::Instant::now();
        // The library's own limit does not cover the greeting of a server that accepts and says nothing.
        let connected = match tokio::time::timeout(patience * 2, connecting).await {
            Ok(connected) => connected.map_err(|error| self.error(&error, patience)),
            Err(_) => Err(StoreError::TimedOut { address: self.inner.address.clone(), limit: patience * 2 }),
        };
        if let Err(error) = &connected {
            self.tell(error);
        }
        let took = connected.is_ok().then(|| began.elapsed());
        let timed_out = matches!(connected, Err(StoreError::TimedOut { .. }));
        if took.is_some() || timed_out {
            *self.inner.patience.lock().unwrap_or_else(PoisonError::into_inner) = next_patience(patience, took);
        }
        connected
    }

    /// How long a connection, or a first answer on it, may take now.
    pub fn patience(&self) -> Duration {
        *self.inner.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns an error of a connection made by [`Store::dedicated`] into ours.
    pub fn error(&self, error: &RedisError, limit: Duration) -> StoreError {
        let address = self.inner.address.clone();
        if error.is_timeout() {
            return StoreError::TimedOut { address, limit };
        }
        match error.kind() {
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension | redis::ErrorKind::AuthenticationFailed => {
                let code = error.code().unwrap_or("ERR").to_owned();
                StoreError::Refused { address, code, detail: error.to_string() }
            }
            redis::ErrorKind::UnexpectedReturnType => StoreError::Garbled { address, detail: error.to_string() },
            _ => StoreError::Unreachable { address, detail: error.to_string() },
        }
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        send: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreError> {
        self.asked(limit, send).await.inspect_err(|error| self.tell(error))
    }

    async fn asked<T>(
        &self,
        limit: Duration,
        send: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreError> {
        let _turn = match self.lane {
            Lane::Short => None,
            Lane::Bodies => Some(self.inner.turn.lock().await),
        };
        let (generation, mut connection) = self.connection().await?;
        let outcome = match tokio::time::timeout(limit, send(&mut connection)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.error(&error, limit),
            Err(_) => StoreError::TimedOut { address: self.inner.address.clone(), limit },
        };
        if outcome.is_silence() || Self::is_stale(&outcome) {
            self.forget(generation, matches!(outcome, StoreError::Unreachable { .. }));
        }
        Err(outcome)
    }

    /// Says that Redis refuses what is asked, once in a while: a person must mend that, and nothing else would say so.
    fn tell(&self, error: &StoreError) {
        let StoreError::Refused { detail, .. } = error else { return };
        let now = tokio::time::Instant::now();
        let mut told = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(detail).is_none_or(|last| now.duration_since(*last) >= TELL_AGAIN) {
            told.retain(|_, last| now.duration_since(*last) < TELL_AGAIN);
            told.insert(detail.clone(), now);
            let remedy = if error.is_forbidden() { FORBIDDEN } else { "" };
            // What is to be done comes first: Redis may quote whole scripts.
            tracing::warn!(remedy, %error, "redis refuses a command");
        }
    }

    /// A refusal that a new connection may cure: the node became a replica, or our login was withdrawn.
    fn is_stale(error: &StoreError) -> bool {
        matches!(error, StoreError::Refused { code, .. } if matches!(code.as_str(), "READONLY" | "NOAUTH" | "MASTERDOWN" | "LOADING"))
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), StoreError> {
        {
            let current = self.current();
            if let Some(connection) = &current.connection {
                return Ok((current.generation, connection.clone()));
            }
        }
        // Several tasks may connect at once after a failure; the last one is kept, the others serve their caller.
        // Response limits are set per command, so the connection itself gets a generous one.
        let connection = self.dedicated(Duration::from_secs(60)).await?;
        let mut current = self.current();
        current.generation += 1;
        current.connection = Some(connection.clone());
        Ok((current.generation, connection))
    }

    /// The next command makes a new connection. Where this one `broke`, the other lane's was to the same Redis, which may be
    /// gone: who is waiting there for an answer still gets it, but nobody begins with it any more.
    fn forget(&self, generation: u64, broke: bool) {
        {
            let mut current = self.current();
            if current.generation != generation {
                return;
            }
            current.connection = None;
        }
        if broke {
            let other = if matches!(self.lane, Lane::Short) { Lane::Bodies } else { Lane::Short };
            Self { inner: Arc::clone(&self.inner), lane: other }.current().connection = None;
        }
    }
}

impl Connect for Store {
    fn listening(&self) -> &Listening {
        &self.inner.listening
    }

    async fn connect(&self) -> Result<PubSub, StoreError> {
        let way = &self.inner.way;
        self.connecting(|_| way.subscribe().boxed()).await
    }

    async fn answer(&self, asked: impl Future<Output = RedisResult<()>> + Send) -> Result<(), StoreError> {
        let limit = self.patience();
        let answered = match tokio::time::timeout(limit, asked).await {
            Ok(answered) => answered.map_err(|error| self.error(&error, limit)),
            Err(_) => Err(StoreError::TimedOut { address: self.inner.address.clone(), limit }),
        };
        answered.inspect_err(|error| self.tell(error))
    }
}

/// How long the next connection may take, after one that `took` so long, or that took too long: a Redis far away is waited
/// for, and one that is near is not waited for long.
fn next_patience(patience: Duration, took: Option<Duration>) -> Duration {
    let wanted = took.map_or(patience * 2, |took| took * 4);
    wanted.clamp(CONNECT_LIMIT, CONNECT_LIMIT_FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_the_way_to_redis_and_not_beyond_a_lease() {
        let ms = Duration::from_millis;
        assert_eq!(next_patience(CONNECT_LIMIT, None), ms(600));
        assert_eq!(next_patience(ms(2_000), None), CONNECT_LIMIT_FAR);
        assert_eq!(next_patience(ms(1_200), Some(ms(400))), ms(1_600));
        assert_eq!(next_patience(ms(2_400), Some(ms(1))), CONNECT_LIMIT);
    }
}
