//! From what the server made of a mail to what the queue makes of it. Pure: clock and randomness are arguments, and waits
//! are counted by Redis' clock.

use std::time::Duration;

use crate::{
    api::{Retry, UnknownOutcome},
    mail::UnixMillis,
    queue::{
        Counted, Failure, Header, PerRecipient, Refusal, Schedule, Settlement, TOO_OLD, is_too_old, next_step, wait,
    },
    smtp::{Class, MailOutcome, RecipientOutcome, Resend, Verdict, Why},
};

/// How often a mail that no other stands beside is refused before the refusal is believed to be about it.
const LONE_CONFIRMATIONS: usize = 3;

/// The parts of the relay's spec that decide.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When a mail that was put off is tried again.
    pub retry: Retry,
    /// What becomes of a mail whose final answer was lost, unless it says so itself.
    pub unknown: UnknownOutcome,
}

/// What is known of a server when it has answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// When the last mail of ours was offered that it took.
    pub taken: Option<UnixMillis>,
    /// Whether this is the only mail that it refuses as if it judged us.
    pub lone: bool,
}

/// A point in time and a throw of the dice, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By Redis' clock.
    pub now: UnixMillis,
    /// Decides how long a mail waits.
    pub random: f64,
}

/// What to tell the queue of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// For the mail.
    pub settlement: Settlement,
    /// For single recipients.
    pub per_recipient: PerRecipient,
    /// For metrics and logs.
    pub label: &'static str,
}

/// Decides what becomes of a mail. `recipients` are those of the transaction, in its order.
pub fn conclude(
    header: &Header,
    recipients: &[String],
    outcome: &MailOutcome,
    policy: &Policy,
    standing: &Standing,
    moment: Moment,
) -> Conclusion {
    let outcome = &resolve(header, recipients, outcome, &policy.retry, standing, moment.now);
    let per_recipient = per_recipient(recipients, outcome);
    let unknown = find(outcome, |verdict| *verdict == Verdict::Unknown);
    let attempt = find(outcome, |verdict| matches!(verdict, Verdict::Retry { .. }));
    let deferral = find(outcome, |verdict| matches!(verdict, Verdict::Defer { .. } | Verdict::Suspect));
    let delivered = find(outcome, |verdict| *verdict == Verdict::Delivered);
    if let Some(decided) = unknown {
        return lost_answer(header, outcome, decided, per_recipient, policy, moment);
    }
    if let Some(decided) = attempt.or(deferral) {
        let counted = if attempt.is_some() { Counted::Attempt } else { Counted::Deferral };
        let waits = recipients.iter().zip(&outcome.recipients);
        let wait = waits.filter_map(|(recipient, decided)| {
            let (schedule, asked) = schedule(decided)?;
            let before = match schedule {
                Schedule::Suspected => u32::try_from(suspicions(header).count()).unwrap_or(u32::MAX),
                Schedule::Free => header.deferrals,
                judged => header.patience_with(recipient).tries(judged),
            };
            Some(wait(schedule, before, asked, &policy.retry, moment.random))
        });
        // The longest wait of any recipient holds for all: they go on together. None waits when all go on at once.
        let wait = wait.max();
        if wait.is_some() && is_too_old(header, &policy.retry, moment.now) {
            let settlement = Settlement::Dead { reason: TOO_OLD.into(), reply: words(outcome, Some(decided)) };
            return Conclusion { settlement, per_recipient, label: "dead" };
        }
        let settlement = Settlement::Delayed {
            wait: wait.unwrap_or(Duration::ZERO),
            counted,
            reason: decided.disposition.why.as_str().into(),
            reply: words(outcome, Some(decided)),
        };
        let label = if counted == Counted::Attempt { "retried" } else { "deferred" };
        return Conclusion { settlement, per_recipient, label };
    }
    if let Some(decided) = delivered {
        let settlement = Settlement::Delivered { reply: words(outcome, Some(decided)) };
        // All of one mind: the queue need not hear the names.
        let per_recipient = if per_recipient.refused.is_empty() { PerRecipient::default() } else { per_recipient };
        return Conclusion { settlement, per_recipient, label: "delivered" };
    }
    let decided = outcome.recipients.first();
    let reason = decided.map_or(Why::OutcomeUnknown, |recipient| recipient.disposition.why).as_str().to_owned();
    let settlement = Settlement::Dead { reason, reply: words(outcome, decided) };
    Conclusion { settlement, per_recipient, label: "dead" }
}

/// The outcome with what only the past can decide: attempts that are used up, and refusals of which it is known by now
/// that they judged this mail and not us.
fn resolve(
    header: &Header,
    recipients: &[String],
    outcome: &MailOutcome,
    retry: &Retry,
    standing: &Standing,
    now: UnixMillis,
) -> MailOutcome {
    let mut outcome = outcome.clone();
    let confirmed = is_confirmed(header, standing);
    for (recipient, decided) in recipients.iter().zip(&mut outcome.recipients) {
        let exhausted = schedule(decided)
            .is_some_and(|(schedule, _)| header.patience_with(recipient).is_exhausted(schedule, retry, now));
        if exhausted {
            (decided.disposition.verdict, decided.disposition.why) = (Verdict::Dead, Why::RetriesExhausted);
        } else if decided.disposition.verdict == Verdict::Suspect && confirmed {
            decided.disposition.verdict = Verdict::Dead;
        }
    }
    outcome
}

/// Whether one more refusal that may have judged us is about the mail: the server took another one since the first such
/// refusal, or nobody else is refused though it was tried often enough.
pub fn is_confirmed(header: &Header, standing: &Standing) -> bool {
    let Some(first) = suspicions(header).next() else { return false };
    let taken_since = standing.taken.is_some_and(|taken| taken > first);
    taken_since || (standing.lone && suspicions(header).count() >= LONE_CONFIRMATIONS)
}

/// When the mail was refused as if we were judged, as far as its history goes.
fn suspicions(header: &Header) -> impl Iterator<Item = UnixMillis> {
    header.tries.iter().filter(|tried| tried.suspect).map(|tried| tried.at)
}

/// By what rule a recipient goes on that has to wait, and what the server asked for.
fn schedule(decided: &RecipientOutcome) -> Option<(Schedule, Option<Duration>)> {
    match decided.disposition.verdict {
        Verdict::Retry { class, delay } => {
            let schedule = match class {
                Class::Judged => Schedule::Judged,
                Class::Patient => Schedule::Patient,
                Class::Greylisted => Schedule::Greylisted,
            };
            Some((schedule, delay))
        }
        Verdict::Defer { resend: Resend::Later, delay } => Some((Schedule::Free, delay)),
        Verdict::Suspect => Some((Schedule::Suspected, None)),
        Verdict::Defer { .. } | Verdict::Delivered | Verdict::Dead | Verdict::Unknown => None,
    }
}

/// Our side stopped before the message was complete: nothing was accepted, and nobody judged the mail.
pub fn stopped(why: &str) -> Conclusion {
    Conclusion {
        settlement: Settlement::Delayed {
            wait: Duration::ZERO,
            counted: Counted::Deferral,
            reason: Why::Aborted.as_str().into(),
            reply: why.into(),
        },
        per_recipient: PerRecipient::default(),
        label: "aborted",
    }
}

/// Our side had to close the session after the message was complete and before the answer came.
pub fn cut_off(header: &Header, why: &str, policy: &Policy, moment: Moment) -> Conclusion {
    unknown(header, Why::OutcomeUnknown, why.into(), PerRecipient::default(), policy, moment)
}

/// The transaction took too long; nothing was accepted. Nobody judged the mail, and the server may be better later.
pub fn stuck(header: &Header, policy: &Policy, moment: Moment) -> Conclusion {
    let (reason, reply) = ("DeadlineExceeded".into(), "the server took the mail too slowly".into());
    let failure = Failure { schedule: Schedule::Free, reason, reply, delay: None };
    unjudged(header, failure, "aborted", policy, moment)
}

/// The servers that could take it are not to be had now.
pub fn unplaced(header: &Header, policy: &Policy, moment: Moment) -> Conclusion {
    let reply = "some servers of the relay cannot take this mail, and none of the others had room for it".into();
    let failure = Failure { schedule: Schedule::Free, reason: "NoServerFits".into(), reply, delay: None };
    unjudged(header, failure, "deferred", policy, moment)
}

/// Redis refuses to record an outcome: the mail is held, with what should have been recorded.
pub fn not_recorded(settlement: &Settlement, error: &dyn std::fmt::Display) -> Settlement {
    let what = match settlement {
        Settlement::Delivered { reply } => format!("the server has it: {reply}"),
        Settlement::Delayed { reason, reply, .. } => format!("it was to be tried again: {reason}: {reply}"),
        Settlement::Dead { reason, reply } => format!("it is dead: {reason}: {reply}"),
        Settlement::Held { reason, reply } => format!("{reason}: {reply}"),
    };
    Settlement::Held { reason: "NotRecorded".into(), reply: format!("{what}; but {error}") }
}

/// The task that sent the mail failed, which should never happen; nothing was accepted.
pub fn failed(header: &Header, policy: &Policy, moment: Moment) -> Conclusion {
    // Counted: should the mail be what breaks its senders, it ends in the dead letters and not in a loop.
    let (reason, reply) = (Why::Aborted.as_str().into(), "the task that sent it failed".into());
    let failure = Failure { schedule: Schedule::Judged, reason, reply, delay: None };
    unjudged(header, failure, "aborted", policy, moment)
}

/// No server said anything of it: it takes the next step of its schedule.
fn unjudged(header: &Header, failure: Failure, label: &'static str, policy: &Policy, moment: Moment) -> Conclusion {
    let settlement = next_step(header, failure, &policy.retry, moment.now, moment.random);
    Conclusion { settlement, per_recipient: PerRecipient::default(), label }
}

/// The mail makes no message that could be sent to anybody.
pub fn unsendable(problem: String) -> Conclusion {
    Conclusion {
        settlement: Settlement::Dead { reason: "InvalidMail".into(), reply: problem },
        per_recipient: PerRecipient::default(),
        label: "dead",
    }
}

/// Whether this mail was already sent again once at no charge, after an answer that made no sense.
pub fn was_resent(header: &Header) -> bool {
    header.tries.last().is_some_and(|tried| tried.reason == Why::ProtocolError.as_str())
}

fn lost_answer(
    header: &Header,
    outcome: &MailOutcome,
    decided: &RecipientOutcome,
    per_recipient: PerRecipient,
    policy: &Policy,
    moment: Moment,
) -> Conclusion {
    unknown(header, decided.disposition.why, words(outcome, Some(decided)), per_recipient, policy, moment)
}

fn unknown(
    header: &Header,
    why: Why,
    reply: String,
    per_recipient: PerRecipient,
    policy: &Policy,
    moment: Moment,
) -> Conclusion {
    let reason = why.as_str().to_owned();
    let settlement = match header.unknown_outcome.unwrap_or(policy.unknown) {
        UnknownOutcome::Hold => Settlement::Held { reason, reply },
        // Counted, so that a server that never answers ends in the dead letters and not in a loop.
        UnknownOutcome::Resend => {
            let failure = Failure { schedule: Schedule::Judged, reason, reply, delay: None };
            next_step(header, failure, &policy.retry, moment.now, moment.random)
        }
    };
    Conclusion { settlement, per_recipient, label: "unknown" }
}

/// The reply that decided, or what went wrong below SMTP.
fn words(outcome: &MailOutcome, decided: Option<&RecipientOutcome>) -> String {
    let reply = decided.and_then(|recipient| recipient.reply.as_ref()).or(outcome.last_reply.as_ref());
    match (&outcome.detail, reply) {
        (Some(detail), Some(reply)) => format!("{detail}; last reply: {reply}"),
        (Some(text), None) => text.clone(),
        (None, Some(reply)) => reply.to_string(),
        (None, None) => String::new(),
    }
}

/// Why the server took the mail for nobody or not for all, and what it said, for people.
pub fn refusal(outcome: &MailOutcome) -> (Why, String) {
    let refused = find(outcome, |verdict| *verdict != Verdict::Delivered);
    // It took the mail, and then failed.
    refused.map_or((Why::ConnectionLost, String::new()), |refused| {
        (refused.disposition.why, words(outcome, Some(refused)))
    })
}

fn find(outcome: &MailOutcome, wanted: impl Fn(&Verdict) -> bool) -> Option<&RecipientOutcome> {
    outcome.recipients.iter().find(|recipient| wanted(&recipient.disposition.verdict))
}

fn per_recipient(recipients: &[String], outcome: &MailOutcome) -> PerRecipient {
    let mut per_recipient = PerRecipient::default();
    for (recipient, outcome) in recipients.iter().zip(&outcome.recipients) {
        match outcome.disposition.verdict {
            Verdict::Retry { .. } => {
                per_recipient.judged.extend(schedule(outcome).map(|(schedule, _)| (recipient.clone(), schedule)));
            }
            Verdict::Suspect => per_recipient.suspect = true,
            Verdict::Delivered => per_recipient.accepted.push(recipient.clone()),
            Verdict::Dead => per_recipient.refused.push(Refusal {
                recipient: recipient.clone(),
                reply: outcome
                    .reply
                    .as_ref()
                    .map_or_else(|| outcome.disposition.why.as_str().into(), ToString::to_string),
            }),
            Verdict::Defer { .. } | Verdict::Unknown => {}
        }
    }
    per_recipient
}

#[cfg(test)]
mod tests;
