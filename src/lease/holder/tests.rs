#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod rest;
mod withheld;

use super::*;
use crate::lease::{Granted, LedgerState, ProcessId, QuarantineView, SyncReply, SyncRequest, Wait};

/// 300 s of session timeout and the margin.
const HOLD: u64 = 330;

const START: BootTime = BootTime::after_boot(Duration::from_secs(100));

fn at(milliseconds: u64) -> BootTime {
    START + Duration::from_millis(milliseconds)
}

fn identity() -> Identity {
    Identity {
        pod_uid: "uid".into(),
        pod: "pod".into(),
        namespace: "mail".into(),
        process: ProcessId::parse(&"a".repeat(32)).unwrap(),
        boot_id: "boot".into(),
        numbers: Numbers::default(),
    }
}

fn fresh() -> Holder {
    Holder::new(identity(), Timing::default(), Duration::from_secs(300))
}

fn ok(claim: u32, limit: u32) -> SyncReply {
    granted(claim, limit, 8, LedgerState::Open)
}

fn granted(claim: u32, limit: u32, entitlement: u32, state: LedgerState) -> SyncReply {
    let lease = Duration::from_secs(6);
    SyncReply::Ok(Granted { claim, limit, entitlement, state, lease, version: 1, quarantine: Vec::new() })
}

fn exchange(holder: &mut Holder, sent: BootTime, reply: SyncReply) -> SyncRequest {
    let request = holder.request(sent).expect("a message");
    holder.answer(&request, Some(reply), sent);
    request
}

/// An answer that shows these in quarantine.
fn showing(ids: &[&str]) -> SyncReply {
    let SyncReply::Ok(granted) = ok(4, 4) else { unreachable!() };
    let entry = |id: &&str| QuarantineView { id: (*id).into(), slots: 1, seconds: HOLD, why: "no-eof".into() };
    SyncReply::Ok(Granted { quarantine: ids.iter().map(entry).collect(), ..granted })
}

/// Registered at 0 ms with this limit.
fn registered(limit: u32) -> Holder {
    registering(fresh(), limit).0
}

/// The same, and what it sent to register.
fn registering(mut holder: Holder, limit: u32) -> (Holder, SyncRequest) {
    let token = || SyncReply::Token { token: "t1".into(), state: LedgerState::Open };
    assert_eq!(exchange(&mut holder, at(0), token()).token, "");
    let asking = exchange(&mut holder, at(0), SyncReply::Register { last: 4 });
    assert_eq!((asking.token.as_str(), asking.generation, asking.seq, asking.need), ("t1", 0, 0, 0));
    assert!(holder.is_due(), "registration follows at once");
    let registration = exchange(&mut holder, at(0), ok(limit, limit));
    assert_eq!((registration.generation, registration.seq, registration.need), (5, 1, 0));
    assert!(!holder.is_due() && holder.status(at(0)).registered);
    (holder, registration)
}

#[test]
fn the_limit_falls_to_what_is_needed_before_a_sync_is_sent_and_rises_only_from_its_answer() {
    let mut holder = registered(8);
    assert_eq!((holder.count(at(10)), holder.count(at(10))), (Some(2), Some(3)));
    let request = holder.request(at(20)).expect("a SYNC");
    assert_eq!((request.seq, request.need), (2, 2));
    assert_eq!(holder.count(at(21)), None, "R1");
    assert_eq!(holder.request(at(21)), None, "one in flight");
    holder.answer(&request, None, at(2020));
    assert_eq!(holder.count(at(2021)), None, "no answer raises nothing");
    holder.release(2);
    assert_eq!(holder.count(at(2022)), Some(4), "up to what was needed");
    let next = holder.request(at(2030)).expect("the next");
    holder.answer(&request, Some(ok(8, 8)), at(2031));
    assert_eq!(holder.count(at(2032)), None, "a late answer raises nothing");
    holder.answer(&next, Some(ok(8, 8)), at(2040));
    assert_eq!(holder.count(at(2041)), Some(5));
}

#[test]
fn the_deadline_counts_from_sending_and_only_an_ok_moves_it() {
    let mut holder = registered(8);
    assert_eq!(holder.deadline(), Some(at(6000)));
    let request = holder.request(at(1000)).expect("a SYNC");
    holder.answer(&request, Some(ok(8, 8)), at(2900));
    assert_eq!(holder.deadline(), Some(at(7000)));
    for reply in [
        None,
        Some(SyncReply::Wait(Wait::Fence)),
        Some(SyncReply::Stale),
        Some(SyncReply::Token { token: "t2".into(), state: LedgerState::Rec }),
    ] {
        let request = holder.request(at(3000)).expect("a SYNC");
        holder.answer(&request, reply, at(3001));
        assert_eq!(holder.deadline(), Some(at(7000)));
    }
    // A ledger with a longer lease than ours does not lengthen it: the reaper may go by either.
    let request = holder.request(at(4000)).expect("a SYNC");
    let SyncReply::Ok(mut granted) = ok(8, 8) else { unreachable!() };
    granted.lease = Duration::from_secs(15);
    holder.answer(&request, Some(SyncReply::Ok(granted)), at(4001));
    assert_eq!(holder.deadline(), Some(at(10_000)));
}

#[test]
fn at_the_deadline_nothing_may_be_opened_and_a_new_incarnation_waits_for_every_old_slot() {
    let mut holder = registered(8);
    let (first, second) = (holder.count(at(1)).unwrap(), holder.count(at(1)).unwrap());
    assert!(holder.may_start(first, at(4499)) && !holder.may_start(first, at(4500)));
    assert!(holder.may_commit(at(5249)) && !holder.may_commit(at(5250)));
    assert_eq!(holder.time_left(at(5000)), Duration::from_millis(750));
    assert_eq!(holder.count(at(4500)), None, "too late to be of use");
    let late = holder.request(at(5900)).expect("a SYNC");
    assert!(holder.tick(at(6000)));
    assert_eq!(holder.status(at(6000)).limit, 0);
    assert!(holder.is_revoked(first) && holder.is_revoked(second));
    holder.answer(&late, Some(ok(8, 8)), at(6001));
    assert_eq!((holder.count(at(6002)), holder.request(at(6002))), (None, None), "abandoned stays abandoned");
    holder.release(first);
    assert_eq!(holder.request(at(6003)), None);
    holder.quarantine(second, "no-eof", Duration::from_secs(300), at(6004));
    let asking = exchange(&mut holder, at(6005), SyncReply::Register { last: 5 });
    assert_ne!(asking.inc, late.inc);
    assert!(asking.quarantine.is_empty(), "a message that changes nothing carries nothing");
    let registration = holder.request(at(6006)).expect("registration");
    assert_eq!((registration.generation, registration.seq, registration.need), (6, 1, 0));
    assert_eq!(registration.quarantine.len(), 1, "the unclean slot goes along");
}

#[test]
fn a_fall_of_the_share_revokes_idle_slots_first_and_a_shortage_that_others_cause_revokes_none() {
    let mut holder = registered(4);
    let slots: Vec<u64> = (0..4).map(|_| holder.count(at(1)).unwrap()).collect();
    holder.set_busy(slots[2], true);
    holder.set_busy(slots[3], true);
    // The share still covers all four, though nothing may be opened now.
    exchange(&mut holder, at(10), granted(4, 0, 4, LedgerState::Open));
    assert!(slots.iter().all(|slot| !holder.is_revoked(*slot)));
    exchange(&mut holder, at(20), granted(4, 1, 1, LedgerState::Open));
    let revoked: Vec<bool> = slots.iter().map(|slot| holder.is_revoked(*slot)).collect();
    assert_eq!(revoked, [true, true, false, true]);
    holder.release(slots[0]);
    assert!(holder.is_due(), "others wait for it");
}

#[test]
fn gone_ends_the_incarnation_but_not_the_mail_that_is_being_sent() {
    let mut holder = registered(4);
    let slot = holder.count(at(1)).unwrap();
    exchange(&mut holder, at(10), SyncReply::Gone);
    assert!(holder.is_revoked(slot) && !holder.may_start(slot, at(11)));
    assert!(holder.may_commit(at(11)), "the lease itself has not ended");
    assert_eq!((holder.count(at(12)), holder.request(at(12))), (None, None));
    holder.release(slot);
    assert!(holder.is_due());
    assert_eq!(holder.request(at(13)).expect("a new incarnation asks").generation, 0);
}

#[test]
fn a_registration_that_was_overtaken_starts_again_with_a_pause_and_never_repeats_a_seq() {
    let mut holder = fresh();
    let first = exchange(&mut holder, at(0), SyncReply::Register { last: 0 });
    let registration = exchange(&mut holder, at(1), SyncReply::Register { last: 1 });
    assert_eq!(registration.inc, first.inc);
    assert!(!holder.is_due());
    let again = holder.request(at(2)).expect("again");
    assert_eq!((again.generation, again.seq), (2, 1));
    assert_ne!(again.inc, registration.inc);
    // No answer: it may have registered. The next seq finds out.
    holder.answer(&again, None, at(3));
    let next = exchange(&mut holder, at(4), SyncReply::Gone);
    assert_eq!((next.inc.as_str(), next.seq), (again.inc.as_str(), 2));
    assert!(!holder.status(at(5)).registered && !holder.is_due());
}

#[test]
fn only_events_that_may_change_something_are_answered_with_a_sync() {
    let mut holder = registered(8);
    holder.hear(&format!("short {}.1", "a".repeat(32)));
    assert!(!holder.is_due(), "our own");
    holder.hear("free other");
    assert!(!holder.is_due(), "we have all that we may have");
    holder.hear("policy -");
    assert!(holder.is_due());
    exchange(&mut holder, at(10), ok(6, 6));
    holder.hear("free other");
    assert!(holder.is_due(), "we have less");
    let request = holder.request(at(20)).expect("a SYNC");
    holder.hear("free other");
    holder.answer(&request, Some(ok(7, 7)), at(21));
    assert!(holder.is_due(), "the answer may be older than the event");
    exchange(&mut holder, at(30), ok(8, 8));
    holder.set_want(20);
    assert!(!holder.is_due());
    holder.set_want(3);
    assert!(holder.is_due(), "slots can be given up");
    exchange(&mut holder, at(40), ok(3, 3));
    holder.hear("short other");
    assert!(holder.is_due(), "perhaps we have more than our share by now");
    exchange(&mut holder, at(50), ok(0, 0));
    holder.hear("short other");
    assert!(!holder.is_due(), "we have nothing to give");
}

#[test]
fn a_closing_process_leaves_only_when_nothing_is_counted_and_the_ledger_has_its_unclean_slots() {
    let mut holder = registered(4);
    let (clean, unclean) = (holder.count(at(1)).unwrap(), holder.count(at(1)).unwrap());
    holder.close();
    assert!(holder.is_revoked(clean) && holder.count(at(2)).is_none());
    let request = holder.request(at(3)).expect("a SYNC");
    assert_eq!((request.want, request.need), (0, 2));
    holder.answer(&request, None, at(4));
    assert_eq!(holder.leaving(at(6)), None);
    holder.release(clean);
    holder.quarantine(unclean, "no-eof", Duration::from_secs(300), at(7));
    assert_eq!(holder.leaving(at(8)), None, "the quarantine is not in the ledger yet");
    let last = exchange(&mut holder, at(9), ok(0, 0));
    let leaving = holder.leaving(at(10)).expect("LEAVE");
    assert_eq!(leaving.seq, last.seq + 1);
    assert!(!holder.is_done());
    holder.left();
    assert!(holder.is_done());
}

#[test]
fn two_holders_of_a_process_share_no_ids_though_one_follows_the_other() {
    let identity = identity();
    let mut seen = std::collections::BTreeSet::new();
    for _ in ["a", "b", "a"] {
        let (mut holder, registration) =
            registering(Holder::new(identity.clone(), Timing::default(), Duration::from_secs(300)), 4);
        assert!(seen.insert(registration.inc));
        let slot = holder.count(at(1)).unwrap();
        assert!(seen.insert(holder.quarantine(slot, "no-eof", Duration::from_secs(300), at(2))));
        exchange(&mut holder, at(3), SyncReply::Gone);
        assert!(seen.insert(holder.request(at(4)).expect("a new incarnation").inc));
    }
    assert_eq!(seen.len(), 9);
    assert_eq!(identity, Identity { numbers: Numbers::default(), ..identity.clone() }, "they say nothing of who it is");
}

#[test]
fn copies_of_a_holder_go_on_by_themselves() {
    let mut holder = registered(4);
    let mut copy = holder.clone();
    assert_eq!(holder.count(at(1)), copy.count(at(1)));
    assert_eq!(format!("{holder:?}"), format!("{copy:?}"));
}

#[test]
fn the_version_that_was_heard_last_is_told_to_every_ledger_that_comes() {
    let mut holder = registered(4);
    let SyncReply::Ok(granted) = ok(4, 4) else { unreachable!() };
    exchange(&mut holder, at(1), SyncReply::Ok(Granted { version: 77, ..granted }));
    exchange(&mut holder, at(2), SyncReply::Token { token: "t2".into(), state: LedgerState::Rec });
    assert_eq!(exchange(&mut holder, at(3), SyncReply::Gone).seen, 77);
    assert_eq!(holder.request(at(4)).expect("a new incarnation").seen, 77);
}
