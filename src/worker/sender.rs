//! One session's life: slot, session, claim, send, settle, and again; then the slot goes back.

mod conclude;
mod handles;
mod open;
mod outgoing;
mod transact;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

pub use self::handles::Handles;
use self::{open::open, outgoing::Outgoing};
use super::{
    breaker::Generation,
    outcome,
    pace::Permits,
    server::{Opening, Server},
    settle::Work,
};
use crate::{
    lease::Slot,
    mail::compose,
    queue::Claimed,
    smtp::{Session, Transaction},
    telemetry::{
        log::mask_id,
        metrics::{ByKind, ByServer},
    },
};

/// A session that takes longer to open is no longer waited for: another may be sooner, at another server perhaps.
const SLOW: Duration = Duration::from_secs(2);
/// After so long more, people should know: the server's time is minutes.
const SILENT: Duration = Duration::from_secs(18);
/// A session that the server ends sooner than this, and before its first mail, counts against the server.
const EARLY: Duration = Duration::from_secs(1);
/// How long a mail in hand waits for its server's rate limits.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often a session at rest looks whether its lease was renewed.
const LEASE_LOOK: Duration = Duration::from_millis(50);

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing to do, or no more to be done here.
    Orderly,
    /// The lease ends now.
    Expired,
    /// A mail stayed too long in its transaction: what the server would say next is of no use.
    Stuck,
    /// The server said that this session was one too many.
    TooMany,
}

/// Opens a session on a slot, sends mail through it while there is any, gives the slot back; until there is no time left
/// for any of that: then the mail's outcome is told as far as it is known, and the slot is withheld.
pub async fn run(handles: Arc<Handles>, server: Arc<Server>, slot: Slot, opening: Opening) {
    let out_of_time = handles.out_of_time.clone();
    let ended = tokio::select! {
        ended = live(handles, Arc::clone(&server), slot, opening) => ended,
        () = out_of_time.cancelled() => None,
    };
    if let Some(slot) = ended {
        server.settle(slot, &out_of_time).await;
    }
}

/// The slot of a session whose end was seen at both sides; any other one is accounted for already.
async fn live(handles: Arc<Handles>, server: Arc<Server>, slot: Slot, mut opening: Opening) -> Option<Slot> {
    let label = ByServer { server: server.name.clone() };
    let opened = {
        let mut opened = pin!(open(&handles, &server, slot));
        tokio::select! {
            opened = &mut opened => opened,
            () = tokio::time::sleep(SLOW) => {
                opening.takes_long();
                tokio::select! {
                    opened = &mut opened => opened,
                    () = tokio::time::sleep(SILENT) => {
                        server.is_silent(SLOW + SILENT);
                        opened.await
                    }
                }
            }
        }
    };
    let (session, slot) = match opened {
        Ok(opened) => opened,
        Err(ended) => {
            handles.metrics.sessions_failed.get_or_create(&label).inc();
            return ended;
        }
    };
    server.has_spoken();
    slot.connected();
    handles.metrics.sessions_opened.get_or_create(&label).inc();
    let open = handles.metrics.sessions_open.get_or_create_owned(&label);
    open.inc();
    opening.done();
    let mut task = Sender { handles, server, session, slot, label, generation: opening.generation };
    let end = task.send_all().await;
    let ended = task.close(end).await;
    open.dec();
    ended
}

struct Sender {
    handles: Arc<Handles>,
    server: Arc<Server>,
    // Before the slot, so that a panic closes the socket before the slot stops being guarded (lease R6).
    session: Session,
    slot: Slot,
    label: ByServer,
    /// Which pauses of the server the session was opened after.
    generation: Generation,
}

impl Sender {
    /// Sends mail until the session should end.
    async fn send_all(&mut self) -> End {
        loop {
            let most = u32::try_from(self.server.settings().max_messages_per_connection).unwrap_or(u32::MAX);
            if self.session.messages() >= most || !self.session.is_usable() {
                return End::Orderly;
            }
            let work = match self.next().await {
                Ok(work) => work,
                Err(end) => return end,
            };
            if let Err(end) = self.send(work).await {
                return end;
            }
        }
    }

    /// Waits for a mail that may be sent in this session.
    async fn next(&mut self) -> Result<Work, End> {
        loop {
            let Some(rest) = self.server.rest(self.generation, Instant::now()) else { return Err(End::Orderly) };
            if self.server.pace.rests_until(Instant::now()).is_some() && rest > self.handles.idle {
                return Err(End::Orderly);
            }
            let wait = if self.slot.may_start() { rest } else { rest.max(LEASE_LOOK) };
            if wait.is_zero() {
                break;
            }
            tokio::select! {
                biased;
                () = self.slot.expired() => return Err(End::Expired),
                () = self.server.stop.cancelled() => return Err(End::Orderly),
                () = self.handles.stop.cancelled() => return Err(End::Orderly),
                () = self.slot.revoked() => return Err(End::Orderly),
                () = tokio::time::sleep(wait) => {}
            }
        }
        tokio::select! {
            biased;
            () = self.slot.expired() => Err(End::Expired),
            () = self.slot.revoked() => Err(End::Orderly),
            () = self.server.stop.cancelled() => Err(End::Orderly),
            work = self.handles.intake.next(&self.server.name, &self.server.pace, self.handles.idle) => work.ok_or(End::Orderly),
            // The server ended the session while it was at rest: nobody's failure.
            () = self.session.ended() => {
                self.note_early_end();
                Err(End::Orderly)
            }
        }
    }

    /// A server that ends sessions before they carry a mail must not be asked again and again.
    fn note_early_end(&self) {
        if self.session.messages() == 0 && self.session.idle_for() < EARLY {
            self.server.ended_early(&self.handles.files);
        }
    }

    /// Sends one mail and settles it.
    async fn send(&mut self, mut work: Work) -> Result<(), End> {
        let handles = Arc::clone(&self.handles);
        let claimed = Arc::clone(&work.claimed);
        let composed = compose(&claimed.mail, &claimed.header.message_id, claimed.header.since);
        let message = match composed {
            Ok(message) => Outgoing(message),
            Err(error) => {
                self.refuse(work, error.to_string());
                return Ok(());
            }
        };
        let mail = &claimed.mail;
        let transaction = match Transaction::new(&mail.reverse_path, &mail.recipients, &message) {
            Ok(transaction) => {
                transaction.resent(outcome::was_resent(&claimed.header)).utf8_headers(mail.has_utf8_addresses())
            }
            Err(error) => {
                self.refuse(work, error.to_string());
                return Ok(());
            }
        };
        if !self.session.takes(&transaction) {
            // When it is the last one, what it lacks is the mail's end.
            let others = handles.fleet.servers();
            if others.iter().any(|other| other.name != self.server.name && work.fits(&other.name)) {
                work.rule_out(&self.server.name);
                handles.intake.pass_on(work);
                return Ok(());
            }
        }
        let _admission = match self.begin(&work).await {
            Ok(admission) => admission,
            // Dropped, the mail goes back to the queue.
            Err(end) => return end,
        };
        match self.leave(&mut work).await {
            Ok(leave) => leave.used(),
            Err(end) => return end,
        }
        self.slot.set_busy(true);
        let busy = handles.metrics.sessions_busy.get_or_create_owned(&self.label);
        busy.inc();
        let began = Instant::now();
        self.session.restrict(self.server.features());
        let (sent, stopped) = self.transact(&transaction, &work).await;
        self.server.learn_features(self.session.features());
        busy.dec();
        self.slot.set_busy(false);
        handles.metrics.transaction.get_or_create(&self.label).observe(began.elapsed().as_secs_f64());
        self.conclude(work, &claimed, began, sent, stopped)
    }

    /// Waits until the mail may be sent: with no other beside it, if it must be alone, on a lease that is long enough; how the session goes
    /// on when it may not.
    async fn begin(&self, work: &Work) -> Result<OwnedSemaphorePermit, Result<(), End>> {
        tokio::select! {
            biased;
            admission = self.handles.admission.admit(work.claimed.alone) => match admission {
                Some(admission) if self.slot.may_start() => Ok(admission),
                _ => Err(Ok(())),
            },
            () = self.slot.expired() => Err(Err(End::Expired)),
            () = tokio::time::sleep(self.handles.deadlines.admission()) => {
                self.note_stuck("company", &work.claimed);
                Err(Ok(()))
            }
        }
    }

    /// Waits until the server's rate limits allow the mail; how the session goes on when that takes too long.
    async fn leave(&self, work: &mut Work) -> Result<Permits, Result<(), End>> {
        let pace = &self.server.pace;
        let recipients = work.claimed.mail.recipients.len();
        if let Some(permit) = work.permit.take().filter(|permit| permit.covers(pace, recipients)) {
            return Ok(permit);
        }
        let patience = Instant::now() + LONGEST_WAIT;
        loop {
            if let Some(permit) = pace.permit_for(recipients).await {
                return Ok(permit);
            }
            let next = pace.rests_until(Instant::now()).unwrap_or_else(Instant::now);
            if next > patience {
                return Err(Ok(()));
            }
            tokio::select! {
                biased;
                () = self.slot.expired() => return Err(Err(End::Expired)),
                () = self.slot.revoked() => return Err(Err(End::Orderly)),
                () = self.server.stop.cancelled() => return Err(Err(End::Orderly)),
                () = self.handles.stop.cancelled() => return Err(Err(End::Orderly)),
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn note_stuck(&self, stage: &'static str, claimed: &Claimed) {
        self.handles.metrics.stuck.get_or_create(&ByKind { kind: stage }).inc();
        tracing::error!(
            mail.id = &*mask_id(&claimed.header.id),
            server.name = self.server.name,
            stage,
            "a mail stayed too long at one stage and is ended there"
        );
    }

    fn refuse(&self, work: Work, problem: String) {
        self.settle(work, outcome::unsendable(problem));
    }

    /// Ends the session and accounts for the slot, as in [`live`].
    async fn close(self, end: End) -> Option<Slot> {
        let Self { server, slot, session, .. } = self;
        let closed = match end {
            End::Expired | End::Stuck => session.abort_now().await,
            // The end of the lease does not wait for a server that is slow to say goodbye.
            End::Orderly | End::TooMany => session.close_with(slot.expired()).await,
        };
        server.account_for(slot, closed, end == End::TooMany)
    }
}
