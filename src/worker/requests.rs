//! Where free sessions ask for mail.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{pace::Pace, settle::Work};

/// Where free sessions ask for mail. Clones are the same place.
#[derive(Clone)]
pub struct Intake {
    requests: mpsc::UnboundedSender<Request>,
}

/// What all sessions say, for the task that answers.
pub type Requests = mpsc::UnboundedReceiver<Request>;

/// What a session says.
pub enum Request {
    /// It asks for a mail.
    Next(Wish),
    /// Its server cannot take this one.
    PassOn(Box<Work>),
}

/// A session that asks for a mail.
pub struct Wish {
    pub(super) session: oneshot::Sender<Work>,
    /// The name of its server.
    pub(super) server: String,
    pub(super) pace: Arc<Pace>,
    /// How long it asks, unless a mail is being claimed for it then.
    pub(super) until: Instant,
}

impl Intake {
    /// The two ends.
    pub fn new() -> (Self, Requests) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests }, receiver)
    }

    /// The next mail; `None` when none came within `rest`, or no more will come. One that is being claimed by then is
    /// waited for, however long that takes. Cancelling withdraws the wish: a mail that is being claimed for it goes to
    /// another session, to one that is opened for it, or back to the queue.
    pub async fn next(&self, server: &str, pace: &Arc<Pace>, rest: Duration) -> Option<Work> {
        let (session, mail) = oneshot::channel();
        let until = Instant::now() + rest;
        let wish = Wish { session, server: server.to_owned(), pace: Arc::clone(pace), until };
        self.requests.send(Request::Next(wish)).ok()?;
        mail.await.ok()
    }

    /// Gives a mail, of which nothing was sent, to a session of a server that it fits; or back to the queue, should none be
    /// to be had.
    pub fn pass_on(&self, work: Work) {
        // Without a task that answers, it goes back to the queue as it is dropped.
        let _ = self.requests.send(Request::PassOn(Box::new(work)));
    }
}
