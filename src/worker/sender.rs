//! One session's life: slot, session, claim, send, settle, and again; then the slot goes back.

use std::{borrow::Cow, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    breaker::Generation,
    context::{self, Context},
    outcome::{self, Conclusion, Moment, Standing},
    pace::Permits,
    server::{Opening, Server, Unopened},
    settle::Work,
    suspects::Offered,
};
use crate::{
    lease::Slot,
    mail::{Message, UnixMillis, compose},
    queue::{Advance, At, Claimed, Settlement, Stage},
    smtp::{self, Commit, Endpoint, MailData, MailOutcome, ServerSignal, Session, StepLimits, Transaction, Why},
    telemetry::{
        log::mask_id,
        metrics::{ByKind, ByServer, ByVerdict},
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
pub async fn run(context: Arc<Context>, server: Arc<Server>, slot: Slot, opening: Opening) {
    let out_of_time = context.out_of_time.clone();
    let ended = tokio::select! {
        ended = live(context, Arc::clone(&server), slot, opening) => ended,
        () = out_of_time.cancelled() => None,
    };
    if let Some(slot) = ended {
        server.settle(slot, &out_of_time).await;
    }
}

/// The slot of a session whose end was seen at both sides; any other one is accounted for already.
async fn live(context: Arc<Context>, server: Arc<Server>, slot: Slot, mut opening: Opening) -> Option<Slot> {
    let label = ByServer { server: server.name.clone() };
    let opened = {
        let mut opened = pin!(open(&context, &server, slot));
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
            context.metrics.sessions_failed.get_or_create(&label).inc();
            return ended;
        }
    };
    server.has_spoken();
    slot.connected();
    context.metrics.sessions_opened.get_or_create(&label).inc();
    let open = context.metrics.sessions_open.get_or_create_owned(&label);
    open.inc();
    opening.done();
    let mut task = Sender { context, server, session, slot, label, generation: opening.generation };
    let end = task.send_all().await;
    let ended = task.close(end).await;
    open.dec();
    ended
}

/// A session, or none and the slot as in [`live`].
async fn open(context: &Context, server: &Arc<Server>, slot: Slot) -> Result<(Session, Slot), Option<Slot>> {
    let settings = server.settings();
    let access = match context.files.access(&settings) {
        Ok(access) => access,
        Err(error) => {
            server.not_opened(&Unopened::Files(&error), &context.files);
            slot.release();
            return Err(None);
        }
    };
    let close_grace = settings.close_grace.get();
    let endpoint = Endpoint {
        host: settings.host.to_string(),
        port: settings.port,
        tls: settings.tls,
        auth: settings.auth,
        roots: access.roots,
        helo: context.helo.clone(),
        limits: StepLimits::with_close_grace(close_grace),
        network: context.host.network(),
    };
    // A server that is slow to greet holds up neither the end of the process nor those whom the slot is taken for.
    let unwanted = async {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = server.stop.cancelled() => {}
            () = slot.revoked() => {}
            () = slot.expired() => {}
        }
    };
    let connected = |local, remote| slot.note_connected(local, remote);
    let credentials = access.credentials.as_ref();
    let opened = Session::open_with(&endpoint, credentials, connected, unwanted, slot.expired()).await;
    match opened {
        Ok(session) => Ok((session, slot)),
        Err(error) => {
            if error.disposition.why != Why::Aborted {
                server.not_opened(&Unopened::Server(&error), &context.files);
            }
            Err(server.account_for(slot, error.closed, error.disposition.signal == ServerSignal::TooManyConnections))
        }
    }
}

struct Sender {
    context: Arc<Context>,
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
            if self.server.pace.rests_until(Instant::now()).is_some() && rest > self.context.idle {
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
                () = self.context.stop.cancelled() => return Err(End::Orderly),
                () = self.slot.revoked() => return Err(End::Orderly),
                () = tokio::time::sleep(wait) => {}
            }
        }
        tokio::select! {
            biased;
            () = self.slot.expired() => Err(End::Expired),
            () = self.slot.revoked() => Err(End::Orderly),
            () = self.server.stop.cancelled() => Err(End::Orderly),
            work = self.context.intake.next(&self.server.name, &self.server.pace, self.context.idle) => work.ok_or(End::Orderly),
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
            self.server.ended_early(&self.context.files);
        }
    }

    /// Sends one mail and settles it.
    async fn send(&mut self, mut work: Work) -> Result<(), End> {
        let context = Arc::clone(&self.context);
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
            let others = context.fleet.servers();
            if others.iter().any(|other| other.name != self.server.name && work.fits(&other.name)) {
                work.rule_out(&self.server.name);
                context.intake.pass_on(work);
                return Ok(());
            }
        }
        let _company = match self.begin(&work).await {
            Ok(company) => company,
            // Dropped, the mail goes back to the queue.
            Err(end) => return end,
        };
        match self.leave(&mut work).await {
            Ok(leave) => leave.used(),
            Err(end) => return end,
        }
        self.slot.set_busy(true);
        let busy = context.metrics.sessions_busy.get_or_create_owned(&self.label);
        busy.inc();
        let began = Instant::now();
        self.session.restrict(self.server.features());
        let (sent, stopped) = self.transact(&transaction, &work).await;
        self.server.learn_features(self.session.features());
        busy.dec();
        self.slot.set_busy(false);
        context.metrics.transaction.get_or_create(&self.label).observe(began.elapsed().as_secs_f64());
        self.conclude(work, &claimed, began, sent, stopped)
    }

    /// Waits until the mail may be sent: with the company it needs, on a lease that is long enough; how the session goes
    /// on when it may not.
    async fn begin(&self, work: &Work) -> Result<OwnedSemaphorePermit, Result<(), End>> {
        tokio::select! {
            biased;
            company = self.context.admit(work.claimed.alone) => match company {
                Some(company) if self.slot.may_start() => Ok(company),
                _ => Err(Ok(())),
            },
            () = self.slot.expired() => Err(Err(End::Expired)),
            () = tokio::time::sleep(self.context.deadlines.company()) => {
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
            let again = pace.rests_until(Instant::now()).unwrap_or_else(Instant::now);
            if again > patience {
                return Err(Ok(()));
            }
            tokio::select! {
                biased;
                () = self.slot.expired() => return Err(Err(End::Expired)),
                () = self.slot.revoked() => return Err(Err(End::Orderly)),
                () = self.server.stop.cancelled() => return Err(Err(End::Orderly)),
                () = self.context.stop.cancelled() => return Err(Err(End::Orderly)),
                () = tokio::time::sleep_until(again) => {}
            }
        }
    }

    fn note_stuck(&self, stage: &'static str, claimed: &Claimed) {
        self.context.metrics.stuck.get_or_create(&ByKind { kind: stage }).inc();
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

    /// One mail transaction, none if the lease ended in the middle; and why our side stopped it, if it did.
    async fn transact(&mut self, transaction: &Transaction<'_>, work: &Work) -> (Option<MailOutcome>, Option<Stopped>) {
        let Self { context, slot, session, .. } = self;
        work.begin();
        let mut stopped = None;
        let sent = {
            let before_commit = async || {
                stopped = may_commit(context, slot, work).await.err();
                if stopped.is_some() {
                    return Commit::Abort;
                }
                work.commit();
                Commit::Go
            };
            // The server need not wait for Redis to write that a transaction has begun: only `committing` must come
            // before what it announces, and hides a note of `sending` that comes after it.
            let mut sending = pin!(advance(context, work, Stage::Sending).fuse());
            let mut transacting = pin!(session.transact(transaction, before_commit));
            let mut overdue = pin!(context.deadlines.overdue(work, transaction.length()));
            loop {
                tokio::select! {
                    biased;
                    _ = &mut sending => {}
                    outcome = &mut transacting => break Ok(outcome),
                    () = slot.expired() => break Err(None),
                    stage = &mut overdue => break Err(Some(stage)),
                }
            }
        };
        match sent {
            Ok(outcome) => (Some(outcome), stopped),
            Err(None) => (None, stopped),
            Err(Some(stage)) => {
                self.note_stuck(stage, &work.claimed);
                (None, Some(Stopped::Stuck))
            }
        }
    }

    /// Settles a mail by what is known of its transaction; whether the session may go on.
    fn conclude(
        &self,
        work: Work,
        claimed: &Claimed,
        began: Instant,
        sent: Option<MailOutcome>,
        stopped: Option<Stopped>,
    ) -> Result<(), End> {
        let moment = Moment { now: work.queue.estimate(At::Redis), random: context::throw() };
        let policy = self.context.settler.policy();
        match (sent, stopped) {
            (_, Some(Stopped::Lost)) => {
                tracing::warn!(
                    mail.id = &*mask_id(&claimed.header.id),
                    "the claim was taken over; the mail was not sent"
                );
                work.lost();
                // Nothing of the mail is on its way: a session that the abort left usable goes on.
                Ok(())
            }
            (_, Some(Stopped::NoTime)) => {
                self.settle(work, outcome::stopped("the lease was about to end"));
                Err(End::Orderly)
            }
            (_, Some(Stopped::Store)) => {
                self.settle(work, outcome::stopped("Redis did not confirm the stage"));
                // As above: whether the session may stay open is for its lease to say, not for one lost answer.
                Ok(())
            }
            (_, Some(Stopped::Stuck)) if work.is_committed() => {
                let why = "the server gave no answer to the complete message in time";
                self.settle(work, outcome::cut_off(&claimed.header, why, &policy, moment));
                Err(End::Stuck)
            }
            (_, Some(Stopped::Stuck)) => {
                self.settle(work, outcome::stuck(&claimed.header, &policy, moment));
                Err(End::Stuck)
            }
            (None, None) if work.is_committed() => {
                let why = "the lease ended before the server answered";
                self.settle(work, outcome::cut_off(&claimed.header, why, &policy, moment));
                Err(End::Expired)
            }
            (None, None) => {
                self.settle(work, outcome::stopped("the lease ended"));
                Err(End::Expired)
            }
            (Some(outcome), None) => {
                if outcome.is_session_gone() {
                    self.note_early_end();
                }
                let standing = self.learn(claimed, began, &outcome, moment.now);
                let (header, recipients) = (&claimed.header, &claimed.mail.recipients);
                let conclusion = outcome::conclude(header, recipients, &outcome, &policy, &standing, moment);
                if header.remaining.is_none() {
                    self.context.watch_deaths(recipients.first().map_or("", String::as_str), &conclusion);
                }
                self.settle(work, conclusion);
                let too_many = outcome.signals.contains(&ServerSignal::TooManyConnections);
                if too_many { Err(End::TooMany) } else { Ok(()) }
            }
        }
    }

    /// Remembers what the transaction says about the server; what was known of it before.
    fn learn(&self, claimed: &Claimed, began: Instant, outcome: &MailOutcome, now: UnixMillis) -> Standing {
        let (taken_ago, lone) = self.server.standing(&claimed.header.id);
        let before =
            |ago: Duration| UnixMillis(now.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
        let standing = Standing { taken: taken_ago.map(before), lone };
        let mail = Offered {
            id: &claimed.header.id,
            sender: &claimed.mail.reverse_path,
            recipient: claimed.mail.recipients.first().map_or("", String::as_str),
            began: began.into_std(),
            session: self.generation,
            at_recipient: outcome.step == smtp::Step::Rcpt,
            is_to_blame: outcome::is_confirmed(&claimed.header, &standing),
        };
        self.server.learn(&outcome.signals, &outcome::refusal_words(outcome), &mail, &self.context.files);
        standing
    }

    fn settle(&self, work: Work, conclusion: Conclusion) {
        let context = Arc::clone(&self.context);
        let label = ByVerdict { server: self.server.name.clone(), verdict: conclusion.label };
        context.metrics.mails.get_or_create(&label).inc();
        let header = &work.claimed.header;
        match &conclusion.settlement {
            Settlement::Delivered { .. } => {
                let now = work.queue.estimate(At::Redis);
                context.metrics.latency.observe(now.since(header.first_seen).as_secs_f64());
                tracing::debug!(mail.id = &*mask_id(&header.id), server.name = self.server.name, "delivered");
            }
            Settlement::Delayed { reason, wait, .. } => {
                let wait_ms = wait.as_millis();
                tracing::info!(
                    mail.id = &*mask_id(&header.id),
                    server.name = self.server.name,
                    reason,
                    wait_ms,
                    "put off"
                );
            }
            Settlement::Dead { reason, .. } => {
                tracing::warn!(mail.id = &*mask_id(&header.id), server.name = self.server.name, reason, "dead letter");
            }
            Settlement::Held { reason, .. } => {
                tracing::warn!(
                    mail.id = &*mask_id(&header.id),
                    server.name = self.server.name,
                    reason,
                    "held: its outcome is not known"
                );
            }
        }
        let soon = matches!(conclusion.settlement, Settlement::Delayed { wait, .. } if wait.is_zero());
        let settler = context.settler.clone();
        settler.settle(work, conclusion, move || {
            if soon {
                context.promote.notify_one();
            }
        });
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

/// A message of the queue as a session sends it.
struct Outgoing<'a>(Message<'a>);

impl MailData for Outgoing<'_> {
    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        Box::new(self.0.blocks())
    }

    fn seven_bit(&self) -> Option<Box<dyn MailData + Send + '_>> {
        Some(Box::new(Outgoing(self.0.seven_bit())))
    }
}

/// Why our side did not complete a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// Somebody else has the mail now.
    Lost,
    /// The lease ends too soon for an answer to be read.
    NoTime,
    /// Redis did not confirm `committing`.
    Store,
    /// It stayed too long at its stage.
    Stuck,
}

/// The last word before the bytes that complete a message go out: the stage is on disk and the lease holds.
async fn may_commit(context: &Context, slot: &Slot, work: &Work) -> Result<(), Stopped> {
    if !slot.may_commit() {
        return Err(Stopped::NoTime);
    }
    match advance(context, work, Stage::Committing).await {
        Ok(Advance::Done) if slot.may_commit() => Ok(()),
        Ok(Advance::Done) => Err(Stopped::NoTime),
        Ok(Advance::Lost) => Err(Stopped::Lost),
        Err(()) => Err(Stopped::Store),
    }
}

async fn advance(context: &Context, work: &Work, stage: Stage) -> Result<Advance, ()> {
    let claim = &work.claimed.claim_id;
    work.queue.advance(context.process.as_str(), claim, stage, At::Redis).await.map_err(|error| {
        context.metrics.store_failures.get_or_create(&ByKind { kind: "advance" }).inc();
        tracing::debug!(mail.id = &*mask_id(&work.claimed.header.id), %error, stage = stage.as_str(), "the stage was not recorded");
    })
}
