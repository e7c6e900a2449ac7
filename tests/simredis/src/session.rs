//! One connection: who it is, what it waits for, what it follows.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    Shared,
    commands::{self, Command, Run, SessionCommand},
    failure::{Failure, SYNTAX, failure, fixed, wrong_arity},
    lock,
    node::{ClientId, Node, Waiter},
    resp::Reply,
};

/// What is to be done after a command.
pub(crate) enum Outcome {
    Reply(Reply),
    Replies(Vec<Reply>),
    /// No answer, and none to the next command.
    SkipNext,
    /// The answer comes when there is something, or at the end (`None` is never).
    Wait(oneshot::Receiver<Reply>, Option<Instant>),
    /// The answer is the last.
    Close(Reply),
    /// The process that had this connection is gone.
    Gone,
}

/// What the server knows of one client. Dropping it forgets the client, whatever it waits for.
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// The run of the server that it belongs to.
    run: u64,
    client: ClientId,
    authenticated: bool,
    channels: BTreeSet<Bytes>,
    pushes: mpsc::UnboundedSender<Reply>,
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.shared.node).forget(self.client);
    }
}

impl Session {
    /// A new client, and the messages of the channels it will follow.
    pub(crate) fn new(shared: Arc<Shared>, run: u64) -> (Self, mpsc::UnboundedReceiver<Reply>) {
        let (pushes, messages) = mpsc::unbounded_channel();
        let (client, authenticated) = {
            let mut node = lock(&shared.node);
            node.next_client += 1;
            let client = node.next_client;
            node.clients.insert(client);
            // Who came while no password was asked for stays.
            (client, node.config.get("requirepass").is_empty())
        };
        (Self { shared, run, client, authenticated, channels: BTreeSet::new(), pushes }, messages)
    }

    /// No longer waits: the element that came meanwhile, if any, is in the receiver.
    pub(crate) fn stop_waiting(&self) {
        lock(&self.shared.node).waiters.retain(|waiter| waiter.client != self.client);
    }

    /// Runs one command, whole and alone.
    pub(crate) fn execute(&mut self, words: &[Bytes]) -> Outcome {
        let shared = self.shared.clone();
        // One command at a time: this lock is held throughout, that of the data is lent to the scripts.
        let mut scripts = lock(&shared.scripts);
        let power = *shared.power.borrow();
        if power.run != self.run {
            return Outcome::Gone;
        }
        let admitted = {
            let mut node = lock(&shared.node);
            node.begin();
            self.admit(&node, words)
        };
        let outcome = match admitted {
            Err(failure) => Err(failure),
            Ok(command) => match command.run {
                Run::Data(run) | Run::Admin(run) => run(&mut lock(&shared.node), words).map(Outcome::Reply),
                Run::Script(script) => scripts.command(script, words).map(Outcome::Reply),
                Run::Session(run) => self.act(run, words),
            },
        };
        lock(&shared.node).serve_waiters();
        outcome.unwrap_or_else(|failure| Outcome::Reply(failure.into()))
    }

    /// The checks that come before any command, in the order of Redis.
    fn admit(&self, node: &Node, words: &[Bytes]) -> Result<&'static Command, Failure> {
        let Some(command) = commands::find(&words[0]) else { return Err(unknown(words)) };
        if !command.takes(words.len()) {
            return Err(wrong_arity(command.name));
        }
        let free = matches!(command.run, Run::Session(SessionCommand::Auth | SessionCommand::Quit));
        if !self.authenticated && !free {
            return Err(fixed("NOAUTH Authentication required."));
        }
        node.permits(command, words)?;
        node.admits(command.writes, command.needs_memory)?;
        let follows = matches!(
            command.run,
            Run::Session(
                SessionCommand::Ping | SessionCommand::Quit | SessionCommand::Subscribe | SessionCommand::Unsubscribe
            )
        );
        if !self.channels.is_empty() && !follows {
            return Err(failure(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
                 context",
                command.name
            )));
        }
        Ok(command)
    }

    fn act(&mut self, command: SessionCommand, words: &[Bytes]) -> Result<Outcome, Failure> {
        let shared = self.shared.clone();
        let mut node = lock(&shared.node);
        match command {
            SessionCommand::Auth => self.log_in(&node, words).map(Outcome::Reply),
            SessionCommand::BlockingMove => self.blocking_move(&mut node, words),
            SessionCommand::Client => {
                let skips = words.len() == 3
                    && words[1].eq_ignore_ascii_case(b"reply")
                    && words[2].eq_ignore_ascii_case(b"skip");
                if skips { Ok(Outcome::SkipNext) } else { commands::client(words).map(Outcome::Reply) }
            }
            SessionCommand::Ping => self.ping(words).map(Outcome::Reply),
            SessionCommand::Quit => Ok(Outcome::Close(Reply::OK)),
            SessionCommand::Subscribe => {
                Ok(Outcome::Replies(words[1..].iter().map(|channel| self.subscribe(&mut node, channel)).collect()))
            }
            SessionCommand::Unsubscribe => Ok(Outcome::Replies(self.unsubscribe(&mut node, &words[1..]))),
        }
    }

    fn log_in(&mut self, node: &Node, words: &[Bytes]) -> Result<Reply, Failure> {
        let expected = node.config.get("requirepass");
        let (user, password) = match words {
            [_, password] => (&b"default"[..], password),
            [_, user, password] => (&user[..], password),
            _ => return Err(SYNTAX),
        };
        if expected.is_empty() && words.len() == 2 {
            return Err(fixed(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ));
        }
        // Without a password the default user takes any.
        if user != b"default" || (!expected.is_empty() && password != expected.as_bytes()) {
            return Err(fixed("WRONGPASS invalid username-password pair or user is disabled."));
        }
        self.authenticated = true;
        Ok(Reply::OK)
    }

    fn ping(&self, words: &[Bytes]) -> Result<Reply, Failure> {
        let word = match words {
            [_] => None,
            [_, word] => Some(word.clone()),
            _ => return Err(wrong_arity("ping")),
        };
        Ok(match word {
            word if !self.channels.is_empty() => Reply::bulks([Bytes::from_static(b"pong"), word.unwrap_or_default()]),
            Some(word) => Reply::Bulk(word),
            None => Reply::Status("PONG".into()),
        })
    }

    fn blocking_move(&self, node: &mut Node, words: &[Bytes]) -> Result<Outcome, Failure> {
        let (source, target) = (&words[1], &words[2]);
        let (from, to) = (commands::end(&words[3])?, commands::end(&words[4])?);
        let limit = commands::timeout(&words[5])?;
        if let Some(element) = node.shift(source, target, from, to)? {
            return Ok(Outcome::Reply(Reply::Bulk(element)));
        }
        let (reply, receiver) = oneshot::channel();
        node.waiters.push(Waiter {
            client: self.client,
            source: source.clone(),
            target: target.clone(),
            from,
            to,
            reply,
        });
        // What is too long for the clock is for ever.
        Ok(Outcome::Wait(receiver, limit.and_then(|limit| node.now.checked_add(limit))))
    }

    fn subscribe(&mut self, node: &mut Node, channel: &Bytes) -> Reply {
        self.channels.insert(channel.clone());
        node.channels.entry(channel.clone()).or_default().insert(self.client, self.pushes.clone());
        self.confirmed("subscribe", Some(channel))
    }

    /// From the channels named, or from all.
    fn unsubscribe(&mut self, node: &mut Node, channels: &[Bytes]) -> Vec<Reply> {
        let channels: Vec<Bytes> =
            if channels.is_empty() { self.channels.iter().cloned().collect() } else { channels.to_vec() };
        if channels.is_empty() {
            return vec![self.confirmed("unsubscribe", None)];
        }
        let leave = |channel: &Bytes| {
            self.channels.remove(channel);
            if let Some(listeners) = node.channels.get_mut(channel) {
                listeners.remove(&self.client);
                if listeners.is_empty() {
                    node.channels.remove(channel);
                }
            }
            self.confirmed("unsubscribe", Some(channel))
        };
        channels.iter().map(leave).collect()
    }

    fn confirmed(&self, kind: &'static str, channel: Option<&Bytes>) -> Reply {
        let channel = channel.map_or(Reply::Nil, |channel| Reply::Bulk(channel.clone()));
        Reply::Array(vec![Reply::bulk(kind), channel, Reply::count(self.channels.len())])
    }
}

/// The refusal names the command and as many of its words as fit.
fn unknown(words: &[Bytes]) -> Failure {
    const MOST: usize = 128;
    // A zero byte ends a text in C.
    let cut = |word: &[u8], most: usize| {
        let end = word.iter().position(|&byte| byte == 0).unwrap_or(word.len());
        String::from_utf8_lossy(&word[..end.min(most)]).into_owned()
    };
    let mut arguments = String::new();
    for word in &words[1..] {
        if arguments.len() >= MOST {
            break;
        }
        let _ = write!(arguments, "'{}' ", cut(word, MOST - arguments.len()));
    }
    failure(format!("ERR unknown command '{}', with args beginning with: {arguments}", cut(&words[0], MOST)))
}
