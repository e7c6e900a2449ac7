//! What becomes of a mail and of its session after the transaction.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{End, Sender, transact::Stopped};
use crate::{
    mail::UnixMillis,
    queue::{At, Claimed, Settlement},
    smtp::{self, MailOutcome, ServerSignal},
    system,
    telemetry::{log::mask_id, metrics::ByVerdict},
    worker::{
        outcome::{self, Conclusion, Moment, Standing},
        settle::Work,
        suspects::Offered,
    },
};

impl Sender {
    /// Settles a mail by what is known of its transaction; whether the session may go on.
    pub(super) fn conclude(
        &self,
        work: Work,
        claimed: &Claimed,
        began: Instant,
        sent: Option<MailOutcome>,
        stopped: Option<Stopped>,
    ) -> Result<(), End> {
        let moment = Moment { now: work.queue.estimate(At::Redis), random: system::fraction() };
        let policy = self.handles.settler.policy();
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
                    self.handles.deaths.note(recipients.first().map_or("", String::as_str), &conclusion);
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
        let (why, words) = outcome::refusal(outcome);
        self.server.learn(&outcome.signals, why, &words, &mail, &self.handles.files);
        standing
    }

    pub(super) fn settle(&self, work: Work, conclusion: Conclusion) {
        let handles = Arc::clone(&self.handles);
        let label = ByVerdict { server: self.server.name.clone(), verdict: conclusion.label };
        handles.metrics.mails.get_or_create(&label).inc();
        let header = &work.claimed.header;
        match &conclusion.settlement {
            Settlement::Delivered { .. } => {
                let now = work.queue.estimate(At::Redis);
                handles.metrics.latency.observe(now.since(header.first_seen).as_secs_f64());
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
        let settler = handles.settler.clone();
        settler.settle(work, conclusion, move || {
            if soon {
                handles.promote.notify_one();
            }
        });
    }
}
