//! Following channels of Redis: one connection for all that is followed, made anew whenever it breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use rand::RngExt;
use redis::{
    RedisResult,
    aio::{PubSub, PubSubSink},
};
use tokio::{sync::mpsc, time::sleep};

use super::error::StoreError;
use crate::system;

/// How long after a failure the connection is made anew; up to twice as long, at random, so that not all processes come at
/// once.
const PAUSE: Duration = Duration::from_millis(250);
/// After how long Redis is asked again for a channel that it refused.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What is heard of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// From now on what is published there is heard; something may have been missed before.
    Listening,
    /// This was published.
    Message(String),
}

/// A channel that is followed until this is dropped.
#[derive(Debug)]
pub struct Subscription {
    heard: mpsc::UnboundedReceiver<Heard>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Subscription {
    /// What comes next. Cancel-safe.
    pub async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // Who tells us ends before us only with the runtime.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.heard.close();
        let _ = self.orders.send(Order::SomeoneLeft);
    }
}

#[derive(Debug)]
enum Order {
    Follow(String, mpsc::UnboundedSender<Heard>),
    SomeoneLeft,
    ConnectAnew,
}

/// The way to the task that listens; it lives while anybody follows anything.
#[derive(Default)]
pub(super) struct Listening(Mutex<Option<mpsc::UnboundedSender<Order>>>);

impl Listening {
    fn orders(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Order>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    /// Follows a channel over what `redis` connects to. To be called inside a tokio runtime.
    pub fn follow(&self, channel: &str, redis: impl Connect) -> Subscription {
        let (tell, heard) = mpsc::unbounded_channel();
        let mut known = self.orders();
        let orders = known.get_or_insert_with(|| {
            let (orders, taken) = mpsc::unbounded_channel();
            tokio::spawn(Listener { redis, orders: taken, followers: BTreeMap::new() }.run());
            orders
        });
        // The task that takes them forgets its end of the channel only under this lock.
        let _ = orders.send(Order::Follow(channel.to_owned(), tell));
        Subscription { heard, orders: orders.clone() }
    }

    /// Makes the connection anew: it may be dead without a sign.
    pub fn anew(&self) {
        if let Some(orders) = self.orders().as_ref() {
            let _ = orders.send(Order::ConnectAnew);
        }
    }
}

/// What the listener needs of a Redis.
pub(super) trait Connect: Send + 'static {
    /// The way to its listener.
    fn listening(&self) -> &Listening;
    /// A connection for subscriptions.
    fn connect(&self) -> impl Future<Output = Result<PubSub, StoreError>> + Send;
    /// The answer to a change of what is followed, in time.
    fn answer(
        &self,
        asked: impl Future<Output = RedisResult<()>> + Send,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

struct Follower {
    tell: mpsc::UnboundedSender<Heard>,
    /// Whether it knows that this connection listens for it.
    knows: bool,
}

/// What becomes of the connection.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    ConnectAnew,
    End,
}

struct Listener<R> {
    redis: R,
    orders: mpsc::UnboundedReceiver<Order>,
    followers: BTreeMap<String, Vec<Follower>>,
}

impl<R: Connect> Listener<R> {
    async fn run(mut self) {
        loop {
            match self.listen().await {
                Ok(Then::End) => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot follow channels"),
            }
            let pause = sleep(PAUSE.mul_f64(system::rng().random_range(1.0..2.0)));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    order = self.orders.recv() => if self.obey(order) == Then::End { return },
                }
            }
        }
    }

    /// Ends when the connection breaks or is to be made anew, and when nobody follows anything.
    async fn listen(&mut self) -> Result<Then, StoreError> {
        let (mut sink, mut messages) = self.redis.connect().await?.split();
        self.followers.values_mut().flatten().for_each(|follower| follower.knows = false);
        let (mut subscribed, mut refused) = (BTreeSet::new(), BTreeSet::new());
        loop {
            self.catch_up(&mut sink, &mut subscribed, &mut refused).await?;
            let asks_again = !refused.is_empty();
            tokio::select! {
                order = self.orders.recv() => match self.obey(order) {
                    Then::GoOn => {}
                    then => return Ok(then),
                },
                message = messages.next() => match message {
                    Some(message) => self.tell(&message),
                    None => return Ok(Then::ConnectAnew),
                },
                () = sleep(ASK_AGAIN), if asks_again => refused.clear(),
            }
        }
    }

    /// Subscribes to what is followed, and no more to what nobody follows. A channel that Redis refuses is no reason to lose
    /// the others.
    async fn catch_up(
        &mut self,
        sink: &mut PubSubSink,
        subscribed: &mut BTreeSet<String>,
        refused: &mut BTreeSet<String>,
    ) -> Result<(), StoreError> {
        let unused = |channel: &&String| !self.followers.contains_key(*channel);
        for channel in subscribed.iter().filter(unused).cloned().collect::<Vec<_>>() {
            self.redis.answer(sink.unsubscribe(&channel)).await?;
            subscribed.remove(&channel);
        }
        for (channel, followers) in &mut self.followers {
            if !subscribed.contains(channel) && !refused.contains(channel) {
                match self.redis.answer(sink.subscribe(channel)).await {
                    Ok(()) => drop(subscribed.insert(channel.clone())),
                    Err(error) if error.is_silence() => return Err(error),
                    Err(error) => {
                        tracing::debug!(channel, %error, "the channel cannot be followed");
                        refused.insert(channel.clone());
                    }
                }
            }
            if subscribed.contains(channel) {
                for follower in followers.iter_mut().filter(|follower| !follower.knows) {
                    follower.knows = follower.tell.send(Heard::Listening).is_ok();
                }
            }
        }
        Ok(())
    }

    fn tell(&self, message: &redis::Msg) {
        let text: String = message.get_payload().unwrap_or_default();
        for follower in self.followers.get(message.get_channel_name()).into_iter().flatten() {
            let _ = follower.tell.send(Heard::Message(text.clone()));
        }
    }

    fn obey(&mut self, order: Option<Order>) -> Then {
        match order {
            Some(Order::Follow(channel, tell)) => {
                self.followers.entry(channel).or_default().push(Follower { tell, knows: false });
                Then::GoOn
            }
            Some(Order::ConnectAnew) => Then::ConnectAnew,
            Some(Order::SomeoneLeft) | None => {
                self.followers.retain(|_, followers| {
                    followers.retain(|follower| !follower.tell.is_closed());
                    !followers.is_empty()
                });
                let mut known = self.redis.listening().orders();
                // Whoever comes next under this lock either is heard here, or finds nobody and starts another task.
                if !self.followers.is_empty() || !self.orders.is_empty() {
                    return Then::GoOn;
                }
                *known = None;
                Then::End
            }
        }
    }
}
