use super::*;

fn resting() -> Holder {
    let mut holder = registered(8);
    assert!(holder.rest() && holder.is_due(), "it is told at once");
    let request = exchange(&mut holder, at(10), ok(0, 0));
    assert_eq!((request.need, request.want), (0, 0));
    assert!(holder.is_resting());
    holder
}

#[test]
fn who_rests_has_no_lease_to_renew_and_is_heard_at_long_intervals() {
    let mut holder = resting();
    assert_eq!((holder.deadline(), holder.pause(0.0)), (None, Timing::default().rest));
    assert!(!holder.tick(at(3_600_000)), "nothing ends");
    let status = holder.status(at(3_600_000));
    assert_eq!((status.registered, status.resting, status.limit, status.claim), (true, true, 0, 0));
    assert_eq!((status.entitlement, holder.count(at(3_600_000))), (8, None), "the share stays; nothing is opened");
    // It goes on like that from one SYNC to the next.
    assert_eq!(exchange(&mut holder, at(3_600_000), ok(0, 0)).want, 0);
    assert!(holder.is_resting());
}

#[test]
fn who_is_woken_claims_at_once_and_has_a_lease_again() {
    let mut holder = resting();
    holder.wake();
    assert!(holder.is_due() && holder.count(at(90_000)).is_none());
    let request = exchange(&mut holder, at(90_000), ok(8, 8));
    assert_eq!((request.seq, request.need, request.want), (3, 0, u32::MAX), "the same incarnation");
    assert_eq!(holder.deadline(), Some(at(96_000)));
    assert!(holder.count(at(90_010)).is_some());
    holder.wake();
    assert!(!holder.is_due(), "it is awake");
}

#[test]
fn nobody_rests_who_has_something_open_or_to_tell() {
    let mut holder = registered(8);
    let slot = holder.count(at(10)).unwrap();
    assert!(!holder.rest());
    holder.quarantine(slot, "no-eof", Duration::from_secs(HOLD), at(20));
    assert!(!holder.rest(), "the ledger has not heard of it");
    exchange(&mut holder, at(30), ok(8, 8));
    assert!(holder.rest());
    // A slot that is counted before the ledger was told ends the rest.
    assert!(holder.count(at(40)).is_some());
    assert_eq!(exchange(&mut holder, at(50), ok(8, 8)).want, u32::MAX);
    assert!(!fresh().rest(), "nor who is not registered");
    let mut short = registered(8);
    exchange(&mut short, at(10), ok(6, 6));
    assert!(!short.rest(), "nor who waits for what others have yet to give back");
    let mut recovering = registered(8);
    exchange(&mut recovering, at(10), granted(0, 0, 8, LedgerState::Rec));
    assert!(!recovering.rest());
}

#[test]
fn a_rest_that_the_ledger_has_not_confirmed_ends_with_the_lease() {
    let mut holder = registered(8);
    assert!(holder.rest());
    let request = holder.request(at(10)).unwrap();
    holder.answer(&request, None, at(2_010));
    assert!(!holder.is_resting() && holder.deadline().is_some());
    assert_eq!(holder.pause(0.0), Timing::default().retry);
    assert!(holder.tick(at(6_000)), "the claim of before may still be in the ledger");
    // The next incarnation rests too.
    exchange(&mut holder, at(6_000), SyncReply::Register { last: 5 });
    assert_eq!(exchange(&mut holder, at(6_000), ok(0, 0)).want, 0);
    assert!(holder.is_resting());
}

#[test]
fn who_rests_hears_of_a_new_ledger_and_not_of_others_shares() {
    let mut holder = resting();
    for event in ["policy -", "free other", "short other"] {
        holder.hear(event);
        assert!(!holder.is_due(), "{event}");
    }
    for event in ["init -", "open -", "listening -"] {
        let mut holder = holder.clone();
        holder.hear(event);
        assert!(holder.is_due(), "{event}");
    }
    // Without a share it must know when it gets one, since it does not listen for mail.
    holder.wake();
    exchange(&mut holder, at(20), granted(0, 0, 0, LedgerState::Open));
    assert!(holder.rest());
    exchange(&mut holder, at(30), granted(0, 0, 0, LedgerState::Open));
    holder.hear("policy -");
    assert!(holder.is_due());
}
