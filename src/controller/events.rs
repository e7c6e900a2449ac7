//! Step 6: Events, on transitions only; which ones is a pure function of the status before and after.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::timeout;

use super::{
    apply::{Happening, Incident},
    claims::Recovered,
    cleanup::Decisions,
    conditions::{HELD_BY_VANISHED, SCALED_TO_ZERO, SUSPENDED},
    leader::API_LIMIT,
    plan::RelayKey,
};
use crate::api::{DurationText, MailRelayStatus, Retention};

/// The API's limits for the texts of an Event.
const NOTE_BYTES: usize = 1_000;
const ACTION_BYTES: usize = 120;

/// Something to tell people about a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether someone should look.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub text: String,
}

impl Note {
    fn normal(reason: &str, text: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_owned(), text: text.into() }
    }
    fn warning(reason: &str, text: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_owned(), text: text.into() }
    }
}

/// What a change of the status is worth telling.
pub fn transitions(old: &MailRelayStatus, new: &MailRelayStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    let shares = |status: &MailRelayStatus| -> BTreeMap<String, i32> {
        status.workers.iter().map(|worker| (worker.pod.clone(), worker.share)).collect()
    };
    let (before, after) = (shares(old), shares(new));
    if before != after {
        notes.push(Note::normal("SharesRebalanced", describe(&after, new.workers_omitted)));
    }
    for condition in &new.conditions {
        let before = old.conditions.iter().find(|old| old.type_ == condition.type_);
        if condition.reason == HELD_BY_VANISHED && before.is_none_or(|before| before.reason != HELD_BY_VANISHED) {
            notes.push(Note::warning(HELD_BY_VANISHED, &condition.message));
        }
        let before = before.map_or("", |old| &*old.status);
        if before == condition.status {
            continue;
        }
        let ready = condition.type_ == "Ready";
        match (&*condition.status, ready) {
            ("True", true) => notes.push(Note::normal("Ready", &condition.message)),
            ("False", true) if before == "True" => {
                // What someone wanted is no failure.
                let warning = !matches!(&*condition.reason, SCALED_TO_ZERO | SUSPENDED);
                notes.push(Note { warning, reason: condition.reason.clone(), text: condition.message.clone() });
            }
            ("True", false) if condition.type_ == "SharedBudget" => {
                notes.push(Note::normal("SharedBudget", &condition.message));
            }
            // Being behind ends by itself, and withheld slots are told of with the worker that held them.
            ("True", false) if !matches!(&*condition.type_, "Reconciling" | "SlotsQuarantined" | "RateLimited") => {
                notes.push(Note::warning(&condition.type_, format!("{}: {}", condition.reason, condition.message)));
            }
            ("False", false) if before == "True" => {
                notes.push(Note::normal(&condition.type_, format!("over: {}", condition.message)));
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
                "LedgerRecovering",
                format!("the ledger of {pool} is new; workers say again what they hold"),
            )]
        }
        Happening::Opened => vec![Note::normal("LedgerOpened", format!("slots of {pool} are granted"))],
    }
}

fn withheld(pool: &str, slots: u32, pod: Option<&String>, hold: Duration, now: Timestamp) -> Note {
    let until = now.checked_add(hold).ok().and_then(|end| Timestamp::from_second(end.as_second() + 1).ok());
    let until = until.map_or_else(String::new, |end| format!(" until {end}"));
    let of = pod.map_or_else(String::new, |pod| format!(" of {pod}"));
    Note::warning(
        "SlotQuarantined",
        format!(
            "{slots} slots of {pool}{of} stay withheld{until}, since the server may still count their connections; only \
             its end of them, once seen, frees them sooner"
        ),
    )
}

/// What became of a dead worker's mail.
pub fn of_recovery(recovered: &Recovered) -> Option<Note> {
    let r = &recovered.recovery;
    if r.requeued + r.held + r.resent + r.poison == 0 {
        return None;
    }
    let text = format!(
        "mail in the hands of {}: {} back in the queue, {} held, {} sent again, {} dead-lettered as poison",
        recovered.pod, r.requeued, r.held, r.resent, r.poison
    );
    Some(if r.held + r.poison > 0 { Note::warning("MailRecovered", text) } else { Note::normal("MailRecovered", text) })
}

/// What the retention of dead letters discarded.
pub fn of_retention(queue: &str, retention: Retention, letters: u64, oldest: Duration) -> Note {
    let oldest = DurationText::new(Duration::from_secs(oldest.as_secs()));
    let text = format!(
        "{letters} dead letters of {queue} were discarded: deadLetterRetention is {retention}, and the oldest had been there for {oldest}"
    );
    Note::warning("DeadLettersDiscarded", text)
}

/// Unusually much was cleaned up.
pub fn of_cleanup(queue: &str, recent: &Decisions, window: Duration, threshold: i64) -> Note {
    let each: Vec<String> = recent.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let text = format!(
        "{} mails of {queue} that were in the hands of processes that ended were cleaned up within {}; recoveryThreshold is {threshold}, and a tenth of it for what is not just queued again ({}): look why workers end (kubectl get pods), and at `mailrelay held list`",
        recent.values().sum::<i64>(),
        DurationText::new(window),
        each.join(", ")
    );
    Note::warning("CleanupUnusual", text)
}

/// Something to tell people about this relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The relay.
    pub relay: RelayKey,
    /// What.
    pub note: Note,
}

/// Publishes Events; clones share the cache that folds repetitions.
#[derive(Clone)]
pub struct Teller {
    recorder: Recorder,
}

impl Teller {
    /// Tells as this controller's pod.
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "mailrelay.dev/controller".into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes without keeping the caller waiting. An Event that cannot be written is logged and lost.
    pub fn tell(&self, about: ObjectReference, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            for note in notes {
                let event = Event {
                    type_: if note.warning { EventType::Warning } else { EventType::Normal },
                    reason: note.reason,
                    note: Some(cut(&note.text, NOTE_BYTES).to_owned()),
                    // The recorder takes events of one reason and action for repetitions and keeps the first text.
                    action: cut(&note.text, ACTION_BYTES).to_owned(),
                    secondary: None,
                };
                match timeout(API_LIMIT, recorder.publish(&event, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if is_about_to_go(&error) => {
                        tracing::debug!(event.reason, "an Event was not written, since its namespace is being deleted");
                    }
                    Ok(Err(error)) => tracing::warn!(event.reason, %error, "cannot write an Event"),
                    Err(_) => tracing::warn!(event.reason, "cannot write an Event: no answer in time"),
                }
            }
        });
    }
}

/// Whether the object's namespace is going or gone, so that nobody would read of it.
fn is_about_to_go(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 404 || causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// At most so many bytes, at a character's boundary.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
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

    #[test]
    fn a_namespace_that_is_being_deleted_takes_no_event_and_that_is_no_problem() {
        // What kube-apiserver 1.36 answers.
        let refused = |reason: &str| {
            let status = serde_json::json!({
                "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": "events \"a.1\" is forbidden: unable to create new content in namespace a because it is being terminated",
                "details": { "name": "a.1", "kind": "events", "causes": [{ "reason": reason, "message": "namespace a is being terminated", "field": "metadata.namespace" }] },
            });
            kube::Error::Api(serde_json::from_value(status).expect("a status"))
        };
        assert!(is_about_to_go(&refused("NamespaceTerminating")));
        assert!(!is_about_to_go(&refused("")), "a role that lacks a right is");
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
        assert_eq!(notes, [Note::normal("SharesRebalanced", "2 workers share the budget: a 8, b 8")]);
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

    #[test]
    fn discarded_dead_letters_are_told_with_their_number_queue_and_age() {
        let retention = Retention::For(DurationText::from_secs(720 * 3_600));
        let note = of_retention("mail_queue", retention, 17, Duration::from_millis(2_595_600_500));
        assert_eq!((note.warning, &*note.reason), (true, "DeadLettersDiscarded"));
        let text = "17 dead letters of mail_queue were discarded: deadLetterRetention is 720h, and the oldest had been there for 721h";
        assert_eq!(note.text, text);
    }

    #[test]
    fn texts_are_cut_at_a_characters_boundary() {
        assert_eq!(cut("grüße", 3), "gr");
        assert_eq!(cut("abc", 9), "abc");
    }
}
