//! The queue: alarms, and what is measured.

use super::*;
use crate::{mail::UnixMillis, queue::Audit};

#[test]
fn the_queue_raises_alarms_above_its_thresholds_and_not_at_them() {
    let with = |depths| scene(&[]).depths(depths).show();
    let pending = |pending| Depths { pending, ..Depths::default() };
    assert_eq!(says(&with(pending(1_000)), "QueueDepthHigh"), pair("False", "BelowThreshold"));
    assert_eq!(says(&with(pending(1_001)), "QueueDepthHigh"), pair("True", "AboveThreshold"));
    assert_eq!(says(&with(pending(99_999)), "QueueFull"), pair("False", "BelowCapacity"));
    let full = Depths { pending: 60_000, delayed: 40_000, ..Depths::default() };
    assert_eq!(says(&with(full), "QueueFull"), pair("True", "AtCapacity"));
    let parked = with(Depths { dead: 1, held: 2, ..Depths::default() });
    assert_eq!(says(&parked, "DeadLettersPresent").0, "True");
    assert_eq!(says(&parked, "OutcomeUnknown").0, "True");
    let waiting =
        |since: u64| with(Depths { pending: 1, oldest: Some(UnixMillis(since * 1_000)), ..Depths::default() });
    assert_eq!(says(&waiting(700), "MailDelayed"), pair("False", "InTime"));
    assert_eq!(says(&waiting(699), "MailDelayed"), pair("True", "OldestTooOld"));
}

#[test]
fn mail_that_is_not_accounted_for_is_told_and_what_cannot_be_verified_is_not_called_true() {
    let with = |audit: Audit| {
        let mut scene = scene(&[]);
        scene.measured.audit = Some(audit);
        says(&scene.show(), "AuditMismatch")
    };
    assert_eq!(with(Audit::default()), pair("False", "AllAccountedFor"));
    assert_eq!(
        with(Audit { accepted: 2, delivered: 1, difference: 1, ..Audit::default() }),
        pair("True", "MailMissing")
    );
    assert_eq!(with(Audit { delivered: 1, difference: -1, ..Audit::default() }), pair("True", "MailUnaccounted"));
    let doubted = Audit { unverified: vec!["the counters are gone".into()], ..Audit::default() };
    assert_eq!(with(doubted), pair("Unknown", "NotVerified"));
}

#[test]
fn what_cannot_be_measured_stays_as_it_was() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    scene.measured.depths = Some(Depths { pending: 5_000, ..Depths::default() });
    let before = scene.show();
    scene.measured.depths = None;
    scene.world.store_problem = Some("gone".into());
    Arc::make_mut(&mut scene.world.pools).clear();
    let after = scene.after(&before);
    assert_eq!(after.queue, before.queue);
    assert_eq!(condition(&after, "QueueDepthHigh"), condition(&before, "QueueDepthHigh"));
    assert_eq!(after.budget, before.budget);
    assert_eq!(after.servers[0].state, "Unknown");
    assert_eq!(says(&after, "Reconciling"), pair("True", "StoreUnreachable"));
}

#[test]
fn figures_alone_are_not_worth_a_write_at_once() {
    let before = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]).show();
    let busier = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    let busier = busier.depths(Depths { pending: 7, in_flight: 16, ..Depths::default() }).show();
    assert_ne!(before, busier);
    assert_eq!(steady(&before), steady(&busier));
    let alarm = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    let alarm = alarm.depths(Depths { pending: 5_000, ..Depths::default() }).show();
    assert_ne!(steady(&before), steady(&alarm));
    let moved = scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 8), ("b", 8, 8)]).show();
    assert_ne!(steady(&before), steady(&moved));
}
