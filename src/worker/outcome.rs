//! From what the server made of a mail to what the queue makes of it. Pure: randomness is an argument (`random`, from 0 to
//! 1), and waits are counted by Redis' clock.

use std::time::Duration;

use crate::{
    api::{Retry, UnknownOutcome},
    queue::{Counted, Failure, Header, Progress, Refusal, Settlement, next_step},
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

/// Decides what becomes of a mail. `recipients` are those of the transaction, in its order.
pub fn conclude(
    header: &Header,
    recipients: &[String],
    outcome: &MailOutcome,
    policy: &Policy,
    random: f64,
) -> Conclusion {
    let progress = progress(recipients, outcome);
    let unknown = find(outcome, |verdict| *verdict == Verdict::Unknown);
    let attempt = find(outcome, |verdict| matches!(verdict, Verdict::Retry { .. }));
    let deferral = find(outcome, |verdict| matches!(verdict, Verdict::Defer { .. }));
    let delivered = find(outcome, |verdict| *verdict == Verdict::Delivered);
    if let Some(decided) = unknown {
        return lost_answer(header, outcome, decided, progress, policy, random);
    }
    if let Some(decided) = attempt {
        let failure = failure(outcome, decided, Counted::Attempt);
        let settlement = next_step(header, failure, &policy.retry, random);
        let label = if matches!(settlement, Settlement::Dead { .. }) { "dead" } else { "retried" };
        return Conclusion { settlement, progress, label };
    }
    if let Some(decided) = deferral {
        let settlement = deferred(header, outcome, decided, &policy.retry, random);
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
pub fn stopped(why: &str) -> Conclusion {
    Conclusion {
        settlement: Settlement::Delayed {
            wait: Duration::ZERO,
            counted: Counted::Deferral,
            reason: Why::Aborted.as_str().into(),
            reply: why.into(),
        },
        progress: Progress::default(),
        label: "aborted",
    }
}

/// Our side had to close the session after the message was complete and before the answer came.
pub fn cut_off(header: &Header, why: &str, policy: &Policy, random: f64) -> Conclusion {
    unknown(header, Why::OutcomeUnknown, why.into(), Progress::default(), policy, random)
}

/// The transaction took too long; nothing was accepted. Nobody judged the mail, and the server may be better later.
pub fn stuck(header: &Header, policy: &Policy, random: f64) -> Conclusion {
    let (reason, reply) = ("DeadlineExceeded".into(), "the server took the mail too slowly".into());
    let failure = Failure { counted: Counted::Deferral, reason, reply, delay: None };
    Conclusion {
        settlement: next_step(header, failure, &policy.retry, random),
        progress: Progress::default(),
        label: "aborted",
    }
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
pub fn failed(header: &Header, policy: &Policy, random: f64) -> Conclusion {
    // Counted: should the mail be what breaks its senders, it ends in the dead letters and not in a loop.
    let (reason, reply) = (Why::Aborted.as_str().into(), "the task that sent it failed".into());
    let failure = Failure { counted: Counted::Attempt, reason, reply, delay: None };
    let settlement = next_step(header, failure, &policy.retry, random);
    Conclusion { settlement, progress: Progress::default(), label: "aborted" }
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
    random: f64,
) -> Conclusion {
    unknown(header, decided.ruling.why, words(outcome, Some(decided)), progress, policy, random)
}

fn unknown(header: &Header, why: Why, reply: String, progress: Progress, policy: &Policy, random: f64) -> Conclusion {
    let reason = why.as_str().to_owned();
    let settlement = match policy.unknown {
        UnknownOutcome::Hold => Settlement::Held { reason, reply },
        // Counted, so that a server that never answers ends in the dead letters and not in a loop.
        UnknownOutcome::Resend => {
            let failure = Failure { counted: Counted::Attempt, reason, reply, delay: None };
            next_step(header, failure, &policy.retry, random)
        }
    };
    Conclusion { settlement, progress, label: "unknown" }
}

fn deferred(
    header: &Header,
    outcome: &MailOutcome,
    decided: &RecipientOutcome,
    retry: &Retry,
    random: f64,
) -> Settlement {
    let at_once = |verdict: &Verdict| !matches!(verdict, Verdict::Defer { resend: Resend::Later, .. });
    let failure = failure(outcome, decided, Counted::Deferral);
    if outcome.recipients.iter().all(|recipient| at_once(&recipient.ruling.verdict)) {
        let Failure { counted, reason, reply, .. } = failure;
        return Settlement::Delayed { wait: Duration::ZERO, counted, reason, reply };
    }
    next_step(header, failure, retry, random)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        queue::UnixMillis,
        smtp::{Reply, Ruling, Sign, Stage},
    };

    fn header() -> Header {
        Header {
            id: "m-1".into(),
            serial: "0".repeat(32),
            message_id: "<m-1@mailrelay>".into(),
            attempts: 0,
            deferrals: 0,
            crashes: 0,
            first_seen: UnixMillis(0),
            since: UnixMillis(0),
            key: None,
            remaining: None,
            refused: Vec::new(),
            tries: Vec::new(),
        }
    }

    fn policy(unknown: UnknownOutcome) -> Policy {
        Policy { retry: Retry::default(), unknown }
    }

    fn outcome(rulings: &[(Verdict, Why)]) -> MailOutcome {
        let recipient = |(verdict, why): &(Verdict, Why)| RecipientOutcome {
            ruling: Ruling { verdict: *verdict, why: *why, sign: Sign::None },
            reply: Some(Reply { code: 250, enhanced: None, text: why.as_str().into() }),
        };
        MailOutcome {
            started: true,
            recipients: rulings.iter().map(recipient).collect(),
            stage: Stage::AfterDot,
            committed: true,
            last_reply: None,
            detail: None,
            signs: Vec::new(),
        }
    }

    /// What becomes of a mail to a, b, ... whose recipients got these rulings.
    fn concluded(rulings: &[(Verdict, Why)], unknown: UnknownOutcome) -> Conclusion {
        let recipients: Vec<String> = ["a", "b", "c"].iter().take(rulings.len()).map(ToString::to_string).collect();
        conclude(&header(), &recipients, &outcome(rulings), &policy(unknown), 0.0)
    }

    const DELIVERED: (Verdict, Why) = (Verdict::Delivered, Why::Accepted);
    const REFUSED: (Verdict, Why) = (Verdict::Dead, Why::RecipientRefused);
    const GREYLISTED: (Verdict, Why) = (Verdict::Retry { delay: Some(Duration::from_secs(300)) }, Why::Greylisted);
    const FULL: (Verdict, Why) =
        (Verdict::Defer { resend: Resend::NewTransaction, delay: None }, Why::TooManyRecipients);
    const DOWN: (Verdict, Why) = (Verdict::Defer { resend: Resend::Later, delay: None }, Why::ServiceUnavailable);
    const UNKNOWN: (Verdict, Why) = (Verdict::Unknown, Why::OutcomeUnknown);

    #[test]
    fn accepted_by_all_is_delivered_and_needs_no_names() {
        let conclusion = concluded(&[DELIVERED, DELIVERED], UnknownOutcome::Hold);
        assert!(matches!(conclusion.settlement, Settlement::Delivered { .. }), "{conclusion:?}");
        assert_eq!(conclusion.progress, Progress::default());
    }

    #[test]
    fn a_refused_recipient_beside_an_accepted_one_is_named() {
        let conclusion = concluded(&[DELIVERED, REFUSED], UnknownOutcome::Hold);
        assert!(matches!(conclusion.settlement, Settlement::Delivered { .. }), "{conclusion:?}");
        assert_eq!(conclusion.progress.accepted, ["a"]);
        assert_eq!(conclusion.progress.refused[0].recipient, "b");
    }

    #[test]
    fn refused_by_all_is_dead_for_the_reason_given() {
        let conclusion = concluded(&[REFUSED], UnknownOutcome::Hold);
        assert!(matches!(&conclusion.settlement, Settlement::Dead { reason, .. } if reason == "RecipientRefused"));
    }

    #[test]
    fn a_recipient_to_be_tried_again_keeps_the_mail_going_for_it_alone() {
        let conclusion = concluded(&[DELIVERED, GREYLISTED, REFUSED], UnknownOutcome::Hold);
        let Settlement::Delayed { wait, counted, .. } = conclusion.settlement else { panic!("{conclusion:?}") };
        assert_eq!((wait, counted), (Duration::from_secs(300), Counted::Attempt));
        assert_eq!((conclusion.progress.accepted.len(), conclusion.progress.refused.len()), (1, 1));
    }

    #[test]
    fn recipients_beyond_the_servers_number_go_on_at_once_and_free() {
        let conclusion = concluded(&[DELIVERED, FULL], UnknownOutcome::Hold);
        assert!(
            matches!(
                conclusion.settlement,
                Settlement::Delayed { wait: Duration::ZERO, counted: Counted::Deferral, .. }
            ),
            "{conclusion:?}"
        );
    }

    #[test]
    fn a_server_that_is_down_costs_no_attempt_but_a_wait() {
        let conclusion = concluded(&[DOWN], UnknownOutcome::Hold);
        assert!(
            matches!(conclusion.settlement, Settlement::Delayed { wait, counted: Counted::Deferral, .. } if !wait.is_zero()),
            "{conclusion:?}"
        );
    }

    #[test]
    fn a_lost_answer_is_held_or_resent_as_the_policy_says() {
        let held = concluded(&[UNKNOWN, REFUSED], UnknownOutcome::Hold);
        assert!(matches!(held.settlement, Settlement::Held { .. }), "{held:?}");
        let resent = concluded(&[UNKNOWN], UnknownOutcome::Resend);
        assert!(matches!(resent.settlement, Settlement::Delayed { counted: Counted::Attempt, .. }), "{resent:?}");
        let cut_off = cut_off(&header(), "the lease ended", &policy(UnknownOutcome::Hold), 0.0);
        assert!(matches!(cut_off.settlement, Settlement::Held { .. }), "{cut_off:?}");
    }

    #[test]
    fn a_mail_that_its_server_takes_too_slowly_costs_no_attempt_but_a_wait() {
        let Settlement::Delayed { wait, counted, .. } = stuck(&header(), &policy(UnknownOutcome::Hold), 0.0).settlement
        else {
            panic!("it goes back")
        };
        assert!(!wait.is_zero() && counted == Counted::Deferral);
    }

    #[test]
    fn what_we_stopped_ourselves_goes_on_at_once_and_free() {
        let conclusion = stopped("the lease was about to end");
        assert!(matches!(
            conclusion.settlement,
            Settlement::Delayed { wait: Duration::ZERO, counted: Counted::Deferral, .. }
        ));
    }
}
