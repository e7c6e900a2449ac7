//! What becomes of single commands on their way: those that lie in a socket, overtake each other, or are sent again by a box
//! that thinks they were lost.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{Shared, session::Session};

/// What becomes of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is run and answered.
    Prompt,
    /// It lies in its connection for so long, and all behind it with it. It is run then, though its client may have given it
    /// up and have sent others by a new connection.
    Late(Duration),
    /// Those behind it on its connection overtake it by so long. Nothing is answered on this connection any more, since
    /// answers come in the order of the commands.
    Overtaken(Duration),
    /// It is run and answered, and so much later run again.
    Again(Duration),
    /// It is run, and nothing is answered on this connection any more.
    Unanswered,
}

/// Says what becomes of the commands of one connection: each of them, its words given.
pub(crate) type Fates<'a> = Box<dyn FnMut(&[Bytes]) -> Fate + Send + 'a>;

/// Runs a command later, for nobody: who sent it is gone, or has an answer. It dies with the server's run.
pub(crate) fn run_later(shared: Arc<Shared>, run: u64, words: Vec<Bytes>, after: Duration) {
    tokio::spawn(async move {
        sleep(after).await;
        let mut power = shared.power.subscribe();
        // Its sender lives as long as the server, which is held here.
        let _ = power.wait_for(|power| !power.is_frozen).await;
        let (mut session, _) = Session::new(shared, run);
        // What it would wait for goes to others.
        drop(session.execute(&words));
    });
}
