//! What may not be used for a while.

use super::*;
use crate::lease::holder::withheld::INHERITED;

#[test]
fn an_unclean_slot_counts_until_it_was_sent_and_is_repeated_until_the_ledger_has_it() {
    let mut holder = registered(2);
    let slot = holder.count(at(1)).unwrap();
    holder.count(at(1)).unwrap();
    holder.quarantine(slot, "no-eof", Duration::from_secs(300), at(2));
    assert!(holder.is_due());
    assert_eq!((holder.counted(), holder.count(at(3))), (2, None));
    let lost = holder.request(at(4)).expect("a SYNC");
    assert_eq!((lost.need, lost.quarantine.len(), holder.counted()), (1, 1, 1));
    holder.answer(&lost, None, at(2004));
    assert_eq!(exchange(&mut holder, at(2100), ok(1, 1)).quarantine, lost.quarantine);
    assert!(exchange(&mut holder, at(2200), ok(1, 1)).quarantine.is_empty(), "the ledger has it");
    let token = SyncReply::Token { token: "t2".into(), state: LedgerState::Rec };
    exchange(&mut holder, at(2300), token);
    let again = exchange(&mut holder, at(2301), granted(1, 1, 8, LedgerState::Rec));
    assert_eq!((again.quarantine, again.token.as_str(), again.need), (lost.quarantine, "t2", 1));
}

#[test]
fn a_quarantine_whose_time_is_over_is_not_repeated() {
    let mut holder = registered(2);
    let slot = holder.count(at(1)).unwrap();
    holder.quarantine(slot, "no-eof", Duration::from_secs(1), at(2));
    let lost = holder.request(at(3)).expect("a SYNC");
    holder.answer(&lost, None, at(1300));
    assert!(holder.request(at(1301)).expect("a SYNC").quarantine.is_empty());
}

#[test]
fn a_closing_process_whose_lease_ended_is_not_done_before_the_ledger_has_its_unclean_slots() {
    let mut holder = registered(8);
    let slot = holder.count(at(1)).unwrap();
    holder.close();
    assert!(holder.tick(at(6000)), "Redis was out of reach");
    holder.quarantine(slot, "no-eof", Duration::from_secs(300), at(6001));
    assert!(!holder.is_done());
    exchange(&mut holder, at(6002), SyncReply::Register { last: 5 });
    let told = exchange(&mut holder, at(6003), ok(0, 0));
    assert_eq!((told.want, told.quarantine.len()), (0, 1));
    assert!(!holder.is_done(), "the ledger knows it");
    holder.leaving(at(6004)).expect("all is told");
    holder.left();
    assert!(holder.is_done());
}

#[test]
fn quarantine_that_others_left_is_cleared_on_our_clock() {
    let mut holder = registered(4);
    let SyncReply::Ok(mut granted) = ok(4, 4) else { unreachable!() };
    granted.quarantine = vec![QuarantineView { id: "x".into(), slots: 1, seconds: 1, why: "gone".into() }];
    let request = holder.request(at(100)).expect("a SYNC");
    holder.answer(&request, Some(SyncReply::Ok(granted)), at(150));
    assert!(holder.over(at(1400)).is_empty());
    assert_eq!(holder.over(at(1430)), ["x"]);
    holder.cleared("x");
    assert!(holder.over(at(1430)).is_empty());
}

#[test]
fn what_an_older_process_left_goes_with_the_registration_and_until_the_ledger_has_it() {
    let mut holder = fresh();
    let inheritance = Inheritance {
        accounts: vec!["b".into()],
        unproven: ["b/1", "b/2"].map(|id| (id.into(), Duration::from_secs(HOLD))).into(),
    };
    holder.inherit(inheritance, at(0));
    holder.prove("b/2");
    let asking = exchange(&mut holder, at(0), SyncReply::Register { last: 4 });
    assert!(asking.accounts.is_empty() && asking.quarantine.is_empty(), "it changes nothing");
    let lost = holder.request(at(1)).expect("the registration");
    assert_eq!(lost.accounts, ["b"]);
    let carried = Quarantine { id: "b/1".into(), slots: 1, seconds: HOLD, why: INHERITED.into() };
    assert_eq!(lost.quarantine, [carried]);
    holder.answer(&lost, None, at(2));
    exchange(&mut holder, at(3), SyncReply::Gone);
    exchange(&mut holder, at(4), SyncReply::Register { last: 4 });
    let again = exchange(&mut holder, at(5), showing(&["b/1"]));
    assert_eq!((again.accounts, again.quarantine), (lost.accounts, lost.quarantine));
    assert!(exchange(&mut holder, at(6), showing(&["b/1"])).quarantine.is_empty());
    holder.prove("b/1");
    assert_eq!(holder.over(at(7)), ["b/1"]);
}

#[test]
fn a_slot_that_is_proven_before_a_sync_took_it_along_is_simply_free() {
    let mut holder = registered(2);
    let slot = holder.count(at(1)).unwrap();
    let id = holder.quarantine(slot, "no-eof", Duration::from_secs(HOLD), at(2));
    assert_eq!(holder.counted(), 1);
    holder.prove(&id);
    assert_eq!(holder.counted(), 0);
    assert!(exchange(&mut holder, at(3), ok(2, 2)).quarantine.is_empty());
    assert!(holder.over(at(4)).is_empty() && holder.next_over(at(4)).is_none());
}

#[test]
fn a_slot_that_is_proven_while_a_sync_carries_it_is_cleared_when_the_ledger_shows_it() {
    for is_lost in [false, true] {
        let mut holder = registered(2);
        let slot = holder.count(at(1)).unwrap();
        let id = holder.quarantine(slot, "no-eof", Duration::from_secs(HOLD), at(2));
        let carrying = holder.request(at(3)).expect("a SYNC");
        assert_eq!(carrying.quarantine.len(), 1);
        holder.prove(&id);
        if is_lost {
            holder.answer(&carrying, None, at(4));
            assert!(holder.over(at(5)).is_empty(), "nobody knows whether it is there");
            assert!(holder.is_due());
            assert!(exchange(&mut holder, at(6), showing(&[&id])).quarantine.is_empty());
        } else {
            holder.answer(&carrying, Some(showing(&[&id])), at(4));
        }
        assert_eq!((holder.over(at(7)), holder.next_over(at(7))), (vec![id.clone()], Some(Duration::ZERO)));
        holder.cleared(&id);
        assert!(holder.over(at(8)).is_empty());
        // The SYNC that carried it never came: nothing is to be cleared.
        exchange(&mut holder, at(9), showing(&[]));
        assert!(holder.over(at(10)).is_empty());
    }
}

#[test]
fn a_slot_that_is_proven_later_is_cleared_at_once_and_again_until_it_is_gone() {
    let mut holder = registered(2);
    let slot = holder.count(at(1)).unwrap();
    let id = holder.quarantine(slot, "no-eof", Duration::from_secs(HOLD), at(2));
    exchange(&mut holder, at(3), showing(&[&id]));
    assert!(holder.over(at(4)).is_empty());
    holder.prove("another/1");
    holder.prove(&id);
    assert_eq!(holder.over(at(5)), [&*id]);
    exchange(&mut holder, at(6), showing(&[&id]));
    assert_eq!(holder.over(at(7)), [&*id], "the call was lost");
    // A new ledger, into which the leader carried it.
    exchange(&mut holder, at(8), SyncReply::Token { token: "t2".into(), state: LedgerState::Rec });
    assert!(exchange(&mut holder, at(9), showing(&[&id])).quarantine.is_empty(), "never told of again");
    assert_eq!(holder.over(at(10)), [&*id]);
    holder.close();
    exchange(&mut holder, at(11), showing(&[&id]));
    assert_eq!(holder.leaving(at(12)), None, "who leaves clears first");
    holder.cleared(&id);
    assert!(holder.is_due() && holder.leaving(at(13)).is_some());
}

#[test]
fn a_connection_stays_written_down_until_its_end_was_seen_whatever_the_ledger_has() {
    let mut holder = registered(4);
    let slots: Vec<u64> = (0..3).map(|_| holder.count(at(1)).unwrap()).collect();
    let entry = |slot: u64| Entry { line: 0, slot };
    for slot in &slots {
        holder.set_entry(*slot, entry(*slot));
    }
    holder.release(slots[0]);
    assert_eq!(holder.take_notes(), [Note::Ended(entry(slots[0]))]);
    let id = holder.quarantine(slots[1], "no-eof", Duration::from_secs(HOLD), at(2));
    let over = at(2) + holder.timing().quarantine_watch(Duration::from_secs(HOLD));
    assert_eq!(holder.take_notes(), [Note::Withheld(entry(slots[1]), over)]);
    exchange(&mut holder, at(5), showing(&[&id]));
    assert_eq!(holder.take_notes(), [], "the ledger that has it may be lost");
    holder.prove(&id);
    assert_eq!(holder.take_notes(), [Note::Ended(entry(slots[1]))]);
    let id = holder.quarantine(slots[2], "no-eof", Duration::from_secs(HOLD), at(6));
    let _carrying = holder.request(at(7)).expect("a SYNC");
    holder.take_notes();
    holder.prove(&id);
    assert_eq!(holder.take_notes(), [Note::Ended(entry(slots[2]))]);
}
