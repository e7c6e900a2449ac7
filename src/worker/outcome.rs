//! From what the server made of a mail to what the queue makes of it. Pure: clock and randomness are arguments.

use crate::{
    api::{Retry, UnknownOutcome},
    queue::{Counted, Failure, Header, Progress, Refusal, Settlement, UnixMillis, next_step},
    smtp::{MailOutcome, RecipientOutcome, Resend, Verdict, Why},
};

/// The parts of the relay's spec that decide.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When a mail that was put off is tried again.
    pub retry: Retry,
    /// What becomes of a mail whose final answer was lost.
    pub unknown: UnknownOutcome,
}

/// What to tell the queue of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// For the mail.
    pub settlement: Settlement,
    /// For single recipients.
    pub progress: Progress,
    /// For metrics and logs.
    pub label: &'static str,
}

/// The moment a decision is made, and its dice.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    /// Wall clock.
    pub now: UnixMillis,
    /// From 0 to 1.
    pub random: f64,
}

/// Decides what becomes of a mail. `recipients` are those of the transaction, in its order.
pub fn conclude(
    header: &Header,
    recipients: &[String],
    outcome: &MailOutcome,
    policy: &Policy,
    chance: Chance,
) -> Conclusion {
    let progress = progress(recipients, outcome);
    let unknown = find(outcome, |verdict| *verdict == Verdict::Unknown);
    let attempt = find(outcome, |verdict| matches!(verdict, Verdict::Retry { .. }));
    let deferral = find(outcome, |verdict| matches!(verdict, Verdict::Defer { .. }));
    let delivered = find(outcome, |verdict| *verdict == Verdict::Delivered);
    if let Some(decided) = unknown {
        return lost_answer(header, outcome, decided, progress, policy, chance);
    }
    if let Some(decided) = attempt {
        let failure = failure(outcome, decided, Counted::Attempt);
        let settlement = next_step(header, failure, &policy.retry, chance.now, chance.random);
        let label = if matches!(settlement, Settlement::Dead { .. }) { "dead" } else { "retried" };
        return Conclusion { settlement, progress, label };
    }
    if let Some(decided) = deferral {
        let settlement = deferred(header, outcome, decided, &policy.retry, chance);
        return Conclusion { settlement, progress, label: "deferred" };
    }
    if let Some(decided) = delivered {
        let settlement = Settlement::Delivered { reply: words(outcome, Some(decided)) };
        // All of one mind: the queue need not hear the names.
        let progress = if progress.refused.is_empty() { Progress::default() } else { progress };
        return Conclusion { settlement, progress, label: "delivered" };
    }
    let decided = outcome.recipients.first();
    let reason = decided.map_or(Why::OutcomeUnknown, |recipient| recipient.ruling.why).as_str().to_owned();
    let settlement = Settlement::Dead { reason, reply: words(outcome, decided) };
    Conclusion { settlement, progress, label: "dead" }
}

/// Our side stopped before the message was complete: nothing was accepted, and nobody judged the mail.
pub fn stopped(why: &str, now: UnixMillis) -> Conclusion {
    Conclusion {
        settlement: Settlement::Delayed {
            due: now,
            counted: Counted::Deferral,
            reason: Why::Aborted.as_str().into(),
            reply: why.into(),
        },
        progress: Progress::default(),
        label: "aborted",
    }
}

/// Our side had to close the session after the message was complete and before the answer came.
pub fn cut_off(header: &Header, why: &str, policy: &Policy, chance: Chance) -> Conclusion {
    unknown(header, Why::OutcomeUnknown, why.into(), Progress::default(), policy, chance)
}

/// The mail makes no message that could be sent to anybody.
pub fn unsendable(problem: String) -> Conclusion {
    Conclusion {
        settlement: Settlement::Dead { reason: "InvalidMail".into(), reply: problem },
        progress: Progress::default(),
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
    progress: Progress,
    policy: &Policy,
    chance: Chance,
) -> Conclusion {
    unknown(header, decided.ruling.why, words(outcome, Some(decided)), progress, policy, chance)
}

fn unknown(
    header: &Header,
    why: Why,
    reply: String,
    progress: Progress,
    policy: &Policy,
    chance: Chance,
) -> Conclusion {
    let reason = why.as_str().to_owned();
    let settlement = match policy.unknown {
        UnknownOutcome::Hold => Settlement::Held { reason, reply },
        // Counted, so that a server that never answers ends in the dead letters and not in a loop.
        UnknownOutcome::Resend => {
            let failure = Failure { counted: Counted::Attempt, reason, reply, delay: None };
            next_step(header, failure, &policy.retry, chance.now, chance.random)
        }
    };
    Conclusion { settlement, progress, label: "unknown" }
}

fn deferred(
    header: &Header,
    outcome: &MailOutcome,
    decided: &RecipientOutcome,
    retry: &Retry,
    chance: Chance,
) -> Settlement {
    let at_once = |verdict: &Verdict| !matches!(verdict, Verdict::Defer { resend: Resend::Later, .. });
    let failure = failure(outcome, decided, Counted::Deferral);
    if outcome.recipients.iter().all(|recipient| at_once(&recipient.ruling.verdict)) {
        let Failure { counted, reason, reply, .. } = failure;
        return Settlement::Delayed { due: chance.now, counted, reason, reply };
    }
    next_step(header, failure, retry, chance.now, chance.random)
}

/// The longest wait that any recipient's reply asked for holds for all: they go on together.
fn failure(outcome: &MailOutcome, decided: &RecipientOutcome, counted: Counted) -> Failure {
    let delay = outcome.recipients.iter().filter_map(|recipient| match recipient.ruling.verdict {
        Verdict::Defer { delay, .. } | Verdict::Retry { delay } => delay,
        _ => None,
    });
    Failure {
        counted,
        reason: decided.ruling.why.as_str().into(),
        reply: words(outcome, Some(decided)),
        delay: delay.max(),
    }
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

fn find(outcome: &MailOutcome, wanted: impl Fn(&Verdict) -> bool) -> Option<&RecipientOutcome> {
    outcome.recipients.iter().find(|recipient| wanted(&recipient.ruling.verdict))
}

fn progress(recipients: &[String], outcome: &MailOutcome) -> Progress {
    let mut progress = Progress::default();
    for (recipient, outcome) in recipients.iter().zip(&outcome.recipients) {
        match outcome.ruling.verdict {
            Verdict::Delivered => progress.accepted.push(recipient.clone()),
            Verdict::Dead => progress.refused.push(Refusal {
                recipient: recipient.clone(),
                reply: outcome.reply.as_ref().map_or_else(|| outcome.ruling.why.as_str().into(), ToString::to_string),
            }),
            Verdict::Defer { .. } | Verdict::Retry { .. } | Verdict::Unknown => {}
        }
    }
    progress
}
