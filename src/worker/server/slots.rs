//! What becomes of a session's slot: given back when the server's end was seen, withheld otherwise.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Server;
use crate::{
    lease::{Slot, TOO_MANY, Timing, Withheld},
    smtp::{Closed, Lingering},
};

/// How long a slot is withheld whose server's end was seen and which could not rest any longer: as long as it can be needed.
const UNSETTLED: Duration = Duration::from_secs(2);

impl Server {
    /// Withholds a session's slot for as long as the server may count the session, or counts one too many; gives back
    /// one that never was used. What is left is a slot whose server's end was seen: it goes to [`Server::settle`].
    pub fn account_for(self: &Arc<Self>, slot: Slot, closed: Closed, too_many: bool) -> Option<Slot> {
        let settings = self.settings();
        let hold = Timing::default().hold(settings.session_timeout.get());
        if too_many {
            let now = Instant::now().into_std();
            let withhold = {
                let mut state = self.state();
                state.settle_time.refused(now);
                state.withholding.refused(now)
            };
            let forgotten = match closed {
                Closed::NeverOpen | Closed::Eof => {
                    slot.note_ended();
                    Duration::ZERO
                }
                Closed::Farewell => settings.close_grace.get(),
                Closed::Lingering(_) | Closed::NoEof => hold,
            };
            slot.quarantine(TOO_MANY, withhold.max(forgotten));
            return None;
        }
        match closed {
            Closed::NeverOpen => slot.release(),
            Closed::Eof => return Some(slot),
            Closed::Farewell => {
                slot.quarantine("reset after farewell", settings.close_grace.get());
            }
            Closed::Lingering(socket) => {
                tracing::info!(server.name = self.name, "a session's end was not seen in time: its slot is withheld");
                let withheld = slot.withhold("no end of session seen");
                tokio::spawn(Arc::clone(self).listen(socket, withheld, hold));
            }
            Closed::NoEof => {
                tracing::warn!(
                    server.name = self.name,
                    hold_s = hold.as_secs(),
                    "a connection broke without the server's end: its slot is withheld"
                );
                slot.withhold("connection broken");
            }
        }
        None
    }

    /// Gives back a slot whose server's end was seen, after a moment in which the server may still count it; neither the
    /// end of the lease nor `out_of_time` wait for that.
    pub async fn settle(&self, slot: Slot, out_of_time: &CancellationToken) {
        // A connection that the server ended first leaves no trace in the kernel.
        slot.note_ended();
        let rest = self.state().settle_time.rest(Instant::now().into_std());
        tokio::select! {
            biased;
            () = tokio::time::sleep(rest) => {
                slot.release();
                self.state().settle_time.returned(Instant::now().into_std());
            }
            () = slot.expired() => drop(slot.quarantine("unsettled", UNSETTLED)),
            () = out_of_time.cancelled() => drop(slot.quarantine("unsettled", UNSETTLED)),
        }
    }

    /// Listens to a socket whose server's end did not come in time, for as long as its slot is withheld; there is one at
    /// most for each slot withheld. Without this a long outage of Redis would cost every slot its whole time.
    async fn listen(self: Arc<Self>, socket: Lingering, withheld: Withheld, hold: Duration) {
        if socket.ended(hold).await {
            let rest = self.state().settle_time.rest(Instant::now().into_std());
            tokio::time::sleep(rest).await;
            tracing::info!(server.name = self.name, "the server's end of a session was seen after all");
            withheld.prove();
            self.state().settle_time.returned(Instant::now().into_std());
        }
    }
}
