//! What is said of a relay's queue.

use std::time::Duration;

use super::verdict::{Verdict, say, unknown};
use crate::controller::status::facts::{Facts, waiting};

pub fn queue_depth_high(facts: &Facts<'_>) -> Option<Verdict> {
    let pending = facts.measured.depths.as_ref()?.pending;
    let threshold = facts.relay.relay.spec.queue.depth_threshold;
    if i64::try_from(pending).unwrap_or(i64::MAX) > threshold {
        return say(true, "AboveThreshold", format!("{pending} mails wait, more than {threshold}"));
    }
    say(false, "BelowThreshold", format!("at most {threshold} mails wait"))
}

pub fn queue_full(facts: &Facts<'_>) -> Option<Verdict> {
    let depths = facts.measured.depths.as_ref()?;
    let limit = facts.relay.relay.spec.queue.max_length;
    let stored = depths.pending.saturating_add(depths.delayed);
    if i64::try_from(stored).unwrap_or(i64::MAX) >= limit {
        return say(true, "AtCapacity", format!("the queue is at its limit of {limit} mails; new mail is refused"));
    }
    say(false, "BelowCapacity", format!("fewer than {limit} mails are stored"))
}

pub fn mail_delayed(facts: &Facts<'_>) -> Option<Verdict> {
    facts.measured.depths.as_ref()?;
    let threshold = facts.relay.relay.spec.queue.oldest_threshold;
    if waiting(facts).unwrap_or(Duration::ZERO) > threshold.get() {
        return say(true, "OldestTooOld", format!("the oldest mail has waited longer than {threshold}"));
    }
    say(false, "InTime", format!("no mail has waited longer than {threshold}"))
}

pub fn dead_letters_present(facts: &Facts<'_>) -> Option<Verdict> {
    match facts.measured.depths.as_ref()?.dead {
        0 => say(false, "NoDeadLetters", "the dead-letter queue is empty"),
        dead => say(true, "DeadLetters", format!("{dead} mails wait for a person; see `mailrelay dead list`")),
    }
}

pub fn outcome_unknown(facts: &Facts<'_>) -> Option<Verdict> {
    match facts.measured.depths.as_ref()?.held {
        0 => say(false, "NothingHeld", "no mail is held"),
        held => say(
            true,
            "AnswerLost",
            format!("{held} mails are held since the server's final answer was lost; see `mailrelay held list`"),
        ),
    }
}

pub fn audit_mismatch(facts: &Facts<'_>) -> Option<Verdict> {
    let audit = facts.measured.audit.as_ref()?;
    let (accepted, accounted) = (audit.accepted, audit.accounted());
    if audit.difference != 0 {
        let message = format!(
            "{accepted} mails were accepted and {accounted} are accounted for: mail was removed from Redis, or put there, by \
             something else; see `mailrelay audit`"
        );
        return say(true, if audit.difference > 0 { "MailMissing" } else { "MailUnaccounted" }, message);
    }
    if !audit.unverified.is_empty() {
        let message = audit.unverified.join("; ");
        return Some(unknown("NotVerified", message));
    }
    say(false, "AllAccountedFor", "every accepted mail is accounted for")
}
