//! What becomes of a mail, case by case.

use std::collections::BTreeMap;

use super::*;
use crate::{
    queue::{Patience, Try},
    smtp::{Disposition, Reply, ServerSignal, Step},
};

const NOW: Moment = Moment { now: UnixMillis(10_000_000), random: 0.0 };

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
        patience: Patience::default(),
        recipients: BTreeMap::new(),
        tries: Vec::new(),
        unknown_outcome: None,
    }
}

fn policy(unknown: UnknownOutcome) -> Policy {
    Policy { retry: Retry::default(), unknown }
}

fn outcome(dispositions: &[(Verdict, Why)]) -> MailOutcome {
    let recipient = |(verdict, why): &(Verdict, Why)| RecipientOutcome {
        disposition: Disposition { verdict: *verdict, why: *why, signal: ServerSignal::None },
        reply: Some(Reply { code: 250, enhanced: None, text: why.as_str().into() }),
    };
    MailOutcome {
        started: true,
        recipients: dispositions.iter().map(recipient).collect(),
        step: Step::AfterDot,
        committed: true,
        last_reply: None,
        detail: None,
        signals: Vec::new(),
    }
}

/// What becomes of a mail to a, b, ... whose recipients got these dispositions.
fn concluded(dispositions: &[(Verdict, Why)], unknown: UnknownOutcome) -> Conclusion {
    concluded_after(&header(), dispositions, unknown, &Standing::default())
}

fn concluded_after(
    header: &Header,
    dispositions: &[(Verdict, Why)],
    unknown: UnknownOutcome,
    standing: &Standing,
) -> Conclusion {
    let recipients: Vec<String> = ["a", "b", "c"].iter().take(dispositions.len()).map(ToString::to_string).collect();
    conclude(header, &recipients, &outcome(dispositions), &policy(unknown), standing, NOW)
}

const DELIVERED: (Verdict, Why) = (Verdict::Delivered, Why::Accepted);
const REFUSED: (Verdict, Why) = (Verdict::Dead, Why::RecipientRefused);
const GREYLISTED: (Verdict, Why) =
    (Verdict::Retry { class: Class::Greylisted, delay: Some(Duration::from_secs(300)) }, Why::Greylisted);
const BUSY: (Verdict, Why) = (Verdict::Retry { class: Class::Judged, delay: None }, Why::RecipientDeferred);
const DENIED: (Verdict, Why) = (Verdict::Suspect, Why::RelayDenied);
const FULL: (Verdict, Why) = (Verdict::Defer { resend: Resend::NewTransaction, delay: None }, Why::TooManyRecipients);
const DOWN: (Verdict, Why) = (Verdict::Defer { resend: Resend::Later, delay: None }, Why::ServiceUnavailable);
const UNKNOWN: (Verdict, Why) = (Verdict::Unknown, Why::OutcomeUnknown);

#[test]
fn accepted_by_all_is_delivered_and_needs_no_names() {
    let conclusion = concluded(&[DELIVERED, DELIVERED], UnknownOutcome::Hold);
    assert!(matches!(conclusion.settlement, Settlement::Delivered { .. }), "{conclusion:?}");
    assert_eq!(conclusion.per_recipient, PerRecipient::default());
}

#[test]
fn a_refused_recipient_beside_an_accepted_one_is_named() {
    let conclusion = concluded(&[DELIVERED, REFUSED], UnknownOutcome::Hold);
    assert!(matches!(conclusion.settlement, Settlement::Delivered { .. }), "{conclusion:?}");
    assert_eq!(conclusion.per_recipient.accepted, ["a"]);
    assert_eq!(conclusion.per_recipient.refused[0].recipient, "b");
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
    assert_eq!((conclusion.per_recipient.accepted.len(), conclusion.per_recipient.refused.len()), (1, 1));
}

#[test]
fn recipients_beyond_the_servers_number_go_on_at_once_and_free() {
    let conclusion = concluded(&[DELIVERED, FULL], UnknownOutcome::Hold);
    assert!(
        matches!(conclusion.settlement, Settlement::Delayed { wait: Duration::ZERO, counted: Counted::Deferral, .. }),
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
    let cut_off = cut_off(&header(), "the lease ended", &policy(UnknownOutcome::Hold), NOW);
    assert!(matches!(cut_off.settlement, Settlement::Held { .. }), "{cut_off:?}");
}

/// A header of a mail that was refused as if we were judged, so many milliseconds ago.
fn suspected(ago: &[u64]) -> Header {
    let tried = |ago: &u64| Try {
        at: UnixMillis(NOW.now.0 - ago),
        reason: "RelayDenied".into(),
        reply: String::new(),
        suspect: true,
    };
    Header { deferrals: 40, tries: ago.iter().map(tried).collect(), ..header() }
}

#[test]
fn row_38_no_mail_dies_while_a_server_refuses_everybody() {
    let others_refused = Standing { taken: Some(UnixMillis(NOW.now.0 - 60_001)), lone: false };
    for ago in [&[][..], &[60_000], &[60_000, 50_000], &[60_000, 50_000, 40_000, 30_000, 20_000]] {
        let conclusion = concluded_after(&suspected(ago), &[DENIED], UnknownOutcome::Hold, &others_refused);
        let Settlement::Delayed { wait, counted, .. } = conclusion.settlement else { panic!("{conclusion:?}") };
        let expected = [5, 15, 60, 300][ago.len().min(3)];
        assert_eq!((wait, counted), (Duration::from_secs(expected), Counted::Deferral));
        assert!(conclusion.per_recipient.suspect);
    }
}

#[test]
fn row_38_the_second_refusal_is_final_when_the_server_took_another_mail_since_the_first() {
    let took = Standing { taken: Some(UnixMillis(NOW.now.0 - 59_999)), lone: false };
    let first = concluded_after(&header(), &[DENIED], UnknownOutcome::Hold, &took);
    assert!(matches!(first.settlement, Settlement::Delayed { .. }), "{first:?}");
    let second = concluded_after(&suspected(&[60_000]), &[DENIED], UnknownOutcome::Hold, &took);
    assert!(matches!(&second.settlement, Settlement::Dead { reason, .. } if reason == "RelayDenied"), "{second:?}");
}

#[test]
fn row_38_a_lone_suspect_is_final_after_three_confirmations() {
    let lone = Standing { taken: None, lone: true };
    for (ago, dead) in [(&[9_000, 8_000][..], false), (&[9_000, 8_000, 7_000], true)] {
        let conclusion = concluded_after(&suspected(ago), &[DENIED], UnknownOutcome::Hold, &lone);
        assert_eq!(matches!(conclusion.settlement, Settlement::Dead { .. }), dead, "{conclusion:?}");
    }
}

#[test]
fn row_38_a_recipient_that_may_be_refused_for_our_sake_does_not_stop_the_others() {
    let conclusion = concluded(&[DELIVERED, DENIED], UnknownOutcome::Hold);
    assert!(matches!(conclusion.settlement, Settlement::Delayed { .. }), "{conclusion:?}");
    assert_eq!((conclusion.per_recipient.accepted.len(), conclusion.per_recipient.refused.len()), (1, 0));
}

#[test]
fn a_mail_that_is_too_old_ends_with_whatever_would_put_it_off() {
    for (disposition, ends) in [(DOWN, true), (GREYLISTED, true), (DENIED, true), (FULL, false), (DELIVERED, false)] {
        let mut policy = policy(UnknownOutcome::Hold);
        policy.retry.max_age = crate::api::DurationText::from_secs(NOW.now.0 / 1_000);
        let (to, outcome) = (["a".to_owned()], outcome(&[disposition]));
        let conclusion = conclude(&header(), &to, &outcome, &policy, &Standing::default(), NOW);
        let too_old = matches!(&conclusion.settlement, Settlement::Dead { reason, .. } if reason == "TooOld");
        assert_eq!(too_old, ends, "{conclusion:?}");
    }
}

#[test]
fn row_13_attempts_of_one_recipient_use_up_no_others() {
    let spent = Patience { judged: 3, ..Patience::default() };
    let header = Header { attempts: 3, recipients: BTreeMap::from([("a".to_owned(), spent)]), ..header() };
    let standing = Standing::default();
    let conclusion = concluded_after(&header, &[BUSY, BUSY, DELIVERED], UnknownOutcome::Hold, &standing);
    let Settlement::Delayed { wait, counted, .. } = conclusion.settlement else { panic!("{conclusion:?}") };
    assert_eq!((wait, counted), (Duration::from_secs(1), Counted::Attempt));
    let refused: Vec<_> = conclusion.per_recipient.refused.iter().map(|refusal| &*refusal.recipient).collect();
    assert_eq!((refused, conclusion.per_recipient.accepted), (vec!["a"], vec!["c".to_owned()]));
    assert_eq!(conclusion.per_recipient.judged, [("b".to_owned(), Schedule::Judged)]);
    let last = concluded_after(&header, &[BUSY], UnknownOutcome::Hold, &standing);
    assert!(matches!(&last.settlement, Settlement::Dead { reason, .. } if reason == "RetriesExhausted"), "{last:?}");
}

#[test]
fn what_we_stopped_ourselves_goes_on_at_once_and_free() {
    let conclusion = stopped("the lease was about to end");
    assert!(matches!(
        conclusion.settlement,
        Settlement::Delayed { wait: Duration::ZERO, counted: Counted::Deferral, .. }
    ));
}

#[test]
fn a_mail_that_its_server_takes_too_slowly_costs_no_attempt_but_a_wait() {
    let Settlement::Delayed { wait, counted, .. } = stuck(&header(), &policy(UnknownOutcome::Hold), NOW).settlement
    else {
        panic!("it goes back")
    };
    assert!(!wait.is_zero() && counted == Counted::Deferral);
}
