//! Which Notes are worth telling, pure: on transitions only, from the status before and after, and of what happened to pools.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    conditions::{HELD_BY_VANISHED, SCALED_TO_ZERO, SUSPENDED},
    note::{Action, Note},
};
use crate::{
    api::MailRelayStatus,
    controller::drive::{Happening, Incident},
};

/// What a change of the status is worth telling.
pub fn transitions(old: &MailRelayStatus, new: &MailRelayStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    let shares = |status: &MailRelayStatus| -> BTreeMap<String, i32> {
        status.workers.iter().map(|worker| (worker.pod.clone(), worker.share)).collect()
    };
    let (before, after) = (shares(old), shares(new));
    if before != after {
        notes.push(Note::normal(Action::Sharing, "SharesRebalanced", describe(&after, new.workers_omitted)));
    }
    for condition in &new.conditions {
        let before = old.conditions.iter().find(|old| old.type_ == condition.type_);
        if condition.reason == HELD_BY_VANISHED && before.is_none_or(|before| before.reason != HELD_BY_VANISHED) {
            notes.push(Note::warning(Action::Observing, HELD_BY_VANISHED, &condition.message));
        }
        let before = before.map_or("", |old| &*old.status);
        if before == condition.status {
            continue;
        }
        let ready = condition.type_ == "Ready";
        match (&*condition.status, ready) {
            ("True", true) => notes.push(Note::normal(Action::Observing, "Ready", &condition.message)),
            ("False", true) if before == "True" => {
                // What someone wanted is no failure.
                let warning = !matches!(&*condition.reason, SCALED_TO_ZERO | SUSPENDED);
                let note = Note::normal(Action::Observing, &condition.reason, &condition.message);
                notes.push(Note { warning, ..note });
            }
            ("True", false) if condition.type_ == "SharedBudget" => {
                notes.push(Note::normal(Action::Sharing, "SharedBudget", &condition.message));
            }
            // Being behind ends by itself, and withheld slots are told of with the worker that held them.
            ("True", false) if !matches!(&*condition.type_, "Reconciling" | "SlotsQuarantined" | "RateLimited") => {
                notes.push(Note::warning(
                    Action::Observing,
                    &condition.type_,
                    format!("{}: {}", condition.reason, condition.message),
                ));
            }
            ("False", false) if before == "True" => {
                notes.push(Note::normal(Action::Observing, &condition.type_, format!("over: {}", condition.message)));
            }
            _ => {}
        }
    }
    notes
}

fn describe(shares: &BTreeMap<String, i32>, omitted: Option<i32>) -> String {
    if shares.is_empty() {
        return "no worker is left".into();
    }
    let each: Vec<String> = shares.iter().map(|(pod, share)| format!("{pod} {share}")).collect();
    let rest = omitted.map_or_else(String::new, |omitted| format!(" and {omitted} more"));
    format!("{} workers share the budget: {}{rest}", shares.len(), each.join(", "))
}

/// What happened to a pool, for the relays that name it.
pub fn of_incident(incident: &Incident, now: Timestamp) -> Vec<Note> {
    let pool = &incident.pool;
    match &incident.what {
        Happening::WorkerLost { pod, slots, hold } => {
            let mut notes = vec![Note::warning(
                Action::Reclaiming,
                "WorkerLost",
                format!("{pod} was lost without a word; its {slots} slots of {pool} were taken back"),
            )];
            if *slots > 0 && !hold.is_zero() {
                notes.push(withheld(pool, *slots, Some(pod), *hold, now));
            }
            notes
        }
        Happening::Withheld { slots, hold } => vec![withheld(pool, *slots, None, *hold, now)],
        Happening::RecoveryStarted => {
            vec![Note::normal(
                Action::Recovering,
                "LedgerRecovering",
                format!("the ledger of {pool} is new; workers say again what they hold"),
            )]
        }
        Happening::Opened => {
            vec![Note::normal(Action::Recovering, "LedgerOpened", format!("slots of {pool} are granted"))]
        }
    }
}

fn withheld(pool: &str, slots: u32, pod: Option<&String>, hold: Duration, now: Timestamp) -> Note {
    let until = now.checked_add(hold).ok().and_then(|end| Timestamp::from_second(end.as_second() + 1).ok());
    let until = until.map_or_else(String::new, |end| format!(" until {end}"));
    let of = pod.map_or_else(String::new, |pod| format!(" of {pod}"));
    Note::warning(
        Action::Reclaiming,
        "SlotQuarantined",
        format!(
            "{slots} slots of {pool}{of} stay withheld{until}, since the server may still count their connections; only \
             its end of them, once seen, frees them sooner"
        ),
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{Condition, WorkerStatus};

    fn status(workers: &[(&str, i32)], conditions: &[(&str, &str)]) -> MailRelayStatus {
        MailRelayStatus {
            workers: workers
                .iter()
                .map(|(pod, share)| WorkerStatus { pod: (*pod).into(), share: *share, open: 0 })
                .collect(),
            conditions: conditions
                .iter()
                .map(|(kind, status)| Condition {
                    type_: (*kind).into(),
                    status: (*status).into(),
                    reason: "Because".into(),
                    message: "of this".into(),
                    observed_generation: None,
                    last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
                })
                .collect(),
            ..MailRelayStatus::default()
        }
    }

    fn reasons(old: &MailRelayStatus, new: &MailRelayStatus) -> Vec<(bool, String)> {
        transitions(old, new).into_iter().map(|note| (note.warning, note.reason)).collect()
    }

    #[test]
    fn nothing_new_is_no_news() {
        let same = status(&[("a", 8)], &[("Ready", "True"), ("QueueDepthHigh", "True")]);
        assert_eq!(transitions(&same, &same), []);
        let first = status(&[], &[("Ready", "False"), ("QueueDepthHigh", "False"), ("Reconciling", "True")]);
        assert_eq!(transitions(&MailRelayStatus::default(), &first), []);
    }

    #[test]
    fn moved_shares_are_told_with_the_shares() {
        let notes = transitions(&status(&[("a", 16)], &[]), &status(&[("a", 8), ("b", 8)], &[]));
        assert_eq!(notes, [Note::normal(Action::Sharing, "SharesRebalanced", "2 workers share the budget: a 8, b 8")]);
    }

    #[test]
    fn an_alarm_is_told_when_it_comes_and_when_it_goes() {
        let (calm, alarm) = (status(&[], &[("QueueDepthHigh", "False")]), status(&[], &[("QueueDepthHigh", "True")]));
        assert_eq!(reasons(&calm, &alarm), [(true, "QueueDepthHigh".to_owned())]);
        assert_eq!(reasons(&alarm, &calm), [(false, "QueueDepthHigh".to_owned())]);
        let (up, down) = (status(&[], &[("Ready", "True")]), status(&[], &[("Ready", "False")]));
        assert_eq!(reasons(&down, &up), [(false, "Ready".to_owned())]);
        assert_eq!(reasons(&up, &down), [(true, "Because".to_owned())]);
    }

    #[test]
    fn a_vanished_pod_that_holds_slots_is_told_once_and_withheld_slots_are_not() {
        let with = |reason: Option<&str>| {
            let mut status = status(&[], reason.map(|_| ("SlotsQuarantined", "True")).as_slice());
            status.conditions.iter_mut().for_each(|condition| condition.reason = reason.unwrap_or_default().into());
            status
        };
        let vanished = with(Some(HELD_BY_VANISHED));
        for before in [with(None), with(Some("SessionsMayLinger"))] {
            assert_eq!(reasons(&before, &vanished), [(true, HELD_BY_VANISHED.to_owned())]);
        }
        assert_eq!(reasons(&vanished, &vanished), []);
        assert_eq!(reasons(&with(None), &with(Some("SessionsMayLinger"))), []);
    }

    #[test]
    fn a_lost_worker_is_told_with_what_is_withheld() {
        let lost = |slots, seconds| Incident {
            pool: "mx".into(),
            what: Happening::WorkerLost { pod: "mail/a".into(), slots, hold: Duration::from_secs(seconds) },
        };
        let reasons = |incident| {
            of_incident(&incident, Timestamp::UNIX_EPOCH).into_iter().map(|note| note.reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(lost(4, 9)), ["WorkerLost", "SlotQuarantined"]);
        assert_eq!(reasons(lost(0, 9)), ["WorkerLost"]);
        let text = &of_incident(&lost(4, 330), Timestamp::UNIX_EPOCH)[1].text;
        assert!(text.contains("4 slots of mx of mail/a stay withheld until 1970-01-01T00:05:31Z"), "{text}");
    }
}
