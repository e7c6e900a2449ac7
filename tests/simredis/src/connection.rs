//! Reads requests from a stream, runs them, writes the replies.

use std::{future::pending, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Power, Shared,
    fate::{Fate, Fates, run_later},
    resp::{ProtocolError, Reply, take_request},
    session::{Outcome, Session},
};

/// Serves one client until it goes, or the server crashes; `fates` says what becomes of its commands.
pub(crate) async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin, fates: Fates<'_>) {
    let power = shared.power.subscribe();
    let run = power.borrow().run;
    if power.borrow().is_down {
        return;
    }
    let mut crashed = power.clone();
    let (session, pushes) = Session::new(shared.clone(), run);
    let connection = Connection {
        stream,
        power,
        session,
        pushes,
        fates,
        later: Box::new(move |words, after| run_later(shared.clone(), run, words, after)),
        input: BytesMut::new(),
        output: Vec::new(),
        skips: false,
        is_mute: false,
    };
    tokio::select! {
        biased;
        // Its sender lives as long as the server, which the session holds.
        _ = crashed.wait_for(|power| power.run != run || power.is_down) => {}
        // How a client goes makes no difference.
        _ = connection.run() => {}
    }
}

struct Connection<'a, S> {
    stream: S,
    power: watch::Receiver<Power>,
    session: Session,
    pushes: mpsc::UnboundedReceiver<Reply>,
    fates: Fates<'a>,
    /// Runs a command so much later.
    later: Box<dyn Fn(Vec<Bytes>, Duration) + Send>,
    input: BytesMut,
    output: Vec<u8>,
    /// Whether the next command gets no answer.
    skips: bool,
    /// Whether it answers nothing any more.
    is_mute: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn run(mut self) -> io::Result<()> {
        loop {
            self.thawed().await;
            match take_request(&mut self.input) {
                Ok(Some(words)) if words.is_empty() => {}
                Ok(Some(words)) => {
                    if !self.meets_its_fate(&words).await {
                        continue;
                    }
                    let skips = std::mem::take(&mut self.skips);
                    match self.session.execute(&words) {
                        Outcome::Reply(reply) => self.say(&[reply], skips),
                        Outcome::Replies(replies) => self.say(&replies, skips),
                        Outcome::SkipNext => self.skips = true,
                        Outcome::Wait(reply, end) => {
                            self.flush().await?;
                            let Some(reply) = self.wait(reply, end).await? else { return Ok(()) };
                            self.say(&[reply], skips);
                        }
                        Outcome::Close(reply) => {
                            reply.encode(&mut self.output);
                            return self.flush().await;
                        }
                        Outcome::Gone => return Ok(()),
                    }
                }
                Ok(None) => {
                    self.flush().await?;
                    tokio::select! {
                        biased;
                        _ = self.power.changed() => {}
                        Some(push) = self.pushes.recv() => push.encode(&mut self.output),
                        read = self.stream.read_buf(&mut self.input) => if read? == 0 { return Ok(()) },
                    }
                }
                Err(ProtocolError(what)) => {
                    Reply::Error(format!("ERR Protocol error: {what}").into()).encode(&mut self.output);
                    return self.flush().await;
                }
            }
        }
    }

    /// Lets happen to a command what befalls it; whether it is to be run now.
    async fn meets_its_fate(&mut self, words: &[Bytes]) -> bool {
        match (self.fates)(words) {
            Fate::Prompt => {}
            Fate::Late(after) => {
                sleep(after).await;
                self.thawed().await;
            }
            Fate::Overtaken(after) => {
                (self.later)(words.to_vec(), after);
                self.is_mute = true;
                return false;
            }
            Fate::Again(after) => (self.later)(words.to_vec(), after),
            Fate::Unanswered => self.is_mute = true,
        }
        true
    }

    fn say(&mut self, replies: &[Reply], skips: bool) {
        if !skips {
            for reply in replies {
                reply.encode(&mut self.output);
            }
        }
    }

    /// While the server is frozen nothing happens.
    async fn thawed(&mut self) {
        // Its sender lives as long as the server, which the session holds.
        let _ = self.power.wait_for(|power| !power.is_frozen).await;
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.is_mute {
            self.output.clear();
        }
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    /// The answer to a blocking command; `None` when the client went.
    async fn wait(&mut self, mut reply: oneshot::Receiver<Reply>, end: Option<Instant>) -> io::Result<Option<Reply>> {
        loop {
            let ended = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = &mut reply => {
                    self.thawed().await;
                    return Ok(Some(answer.unwrap_or(Reply::NilArray)));
                }
                () = ended => {
                    self.thawed().await;
                    self.session.stop_waiting();
                    // Something may have come while the server was frozen, or just now.
                    return Ok(Some(reply.try_recv().unwrap_or(Reply::NilArray)));
                }
                read = self.stream.read_buf(&mut self.input) => if read? == 0 { return Ok(None) },
            }
        }
    }
}
