//! Commands that are run twice, in a row or when everybody has gone on: no mail becomes another one, or two.

use mailrelay::{
    api::UnknownOutcome,
    queue::{Advance, At, Claimed, OperationId, PerRecipient, Queue, RecoverOptions, Settled, Stage},
};

use super::{
    courier::{Courier, Disorder},
    support::*,
};

#[tokio::test]
async fn a_take_that_is_run_twice_takes_nothing_in_the_place_of_what_it_took() {
    let fixture = fixture();
    let courier = Courier::open(&fixture, 0, &[]).await;
    let queue = courier.warm(&fixture).await;
    for id in ["one", "two", "three"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    courier.twice(digest!("take"));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let batch = queue.claim(ONE, "pod", 1, NOW).await.expect("claim");
        ids.extend(batch.mails.into_iter().map(|claim| claim.header.id));
    }
    assert_eq!(ids, ["one", "two", "three"]);
    assert_eq!(fixture.balanced().await.in_flight, 4);
}

#[tokio::test]
async fn commands_of_a_claim_that_come_again_change_nothing_of_it() {
    for entry in
        [mail("honest"), mail("honest").replace("from", "form"), forged("x", r#","remaining":["victim@x.org"]"#)]
    {
        let fixture = fixture();
        let courier = Courier::open(&fixture, 0, &[]).await;
        let queue = courier.queue();
        fixture.push("mail_queue", &entry).await;
        courier.disorder(Disorder { again: 1_000, ..Disorder::default() });
        let mut batch = queue.claim(ONE, "pod", 1, NOW).await.expect("claim");
        courier.disorder(Disorder::default());
        let before = fixture.balanced().await;
        while courier.under_way() > 0 {
            courier.arrive().await;
        }
        assert_eq!(fixture.balanced().await, before, "{entry}");
        if let Some(claim) = batch.mails.pop() {
            assert_eq!(fixture.advance(ONE, &claim, Stage::Committing).await, Advance::Done, "{entry}");
        }
    }
}

#[tokio::test]
async fn a_take_that_comes_again_when_its_claim_is_settled_makes_no_other_mail_the_settled_one() {
    let fixture = fixture();
    let courier = Courier::open(&fixture, 0, &[]).await;
    let queue = courier.queue();
    let claim = claimed_and_again(&fixture, &courier, &queue).await;
    queue.advance(ONE, &claim.claim_id, Stage::Committing, NOW).await.expect("advanced");
    let (operation, progress) = (OperationId::random(), PerRecipient::default());
    let settle = async || queue.settle(ONE, &claim, &operation, &delivered(), &progress, NOW).await.expect("settled");
    assert_eq!(settle().await, Settled::Done);
    take_another(&fixture, &courier).await;
    assert_ne!(settle().await, Settled::Done, "it is another mail");
    let audit = fixture.balanced().await;
    assert_eq!((audit.delivered, audit.queued, audit.in_flight), (1, 1, 0), "nobody has it: {audit:?}");
    assert_eq!(fixture.claim_one(ONE).await.header.id, "two");
}

#[tokio::test]
async fn a_take_that_found_nothing_and_comes_again_takes_nothing() {
    let fixture = fixture();
    let courier = Courier::open(&fixture, 0, &[]).await;
    let queue = courier.queue();
    courier.disorder(Disorder { again: 1_000, ..Disorder::default() });
    assert_eq!(queue.claim(ONE, "pod", 2, At::Redis).await.expect("claim").mails.len(), 0);
    courier.disorder(Disorder::default());
    take_another(&fixture, &courier).await;
    let audit = fixture.balanced().await;
    assert_eq!((audit.queued, audit.in_flight), (1, 0), "whoever asked has heard that nothing waits: {audit:?}");
    assert_eq!(queue.claim(ONE, "pod", 1, At::Redis).await.expect("claim").mails[0].header.id, "two");
}

#[tokio::test]
async fn a_take_that_comes_behind_a_later_one_of_its_process_takes_nothing() {
    let fixture = fixture();
    let courier = Courier::open(&fixture, 0, &[]).await;
    let queue = courier.warm(&fixture).await;
    courier.disorder(Disorder { late: 1_000, ..Disorder::default() });
    fixture.push("mail_queue", mail("one")).await;
    queue.claim(ONE, "pod", 1, At::Redis).await.expect_err("it is under way");
    courier.disorder(Disorder::default());
    assert_eq!(queue.claim(ONE, "pod", 1, At::Redis).await.expect("claim").mails[0].header.id, "one");
    take_another(&fixture, &courier).await;
    let audit = fixture.balanced().await;
    assert_eq!((audit.queued, audit.in_flight), (1, 2), "{audit:?}");
}

/// A claim of a mail, whose take comes again later.
async fn claimed_and_again(fixture: &Fixture, courier: &Courier, queue: &Queue) -> Claimed {
    fixture.push("mail_queue", mail("one")).await;
    courier.disorder(Disorder { again: 1_000, ..Disorder::default() });
    // Not by a time that stands still: when it was taken tells a claim from another of its id.
    let claim = queue.claim(ONE, "pod", 1, At::Redis).await.expect("claim").mails.remove(0);
    courier.disorder(Disorder::default());
    claim
}

/// It comes, when another mail waits.
async fn take_another(fixture: &Fixture, courier: &Courier) {
    fixture.push("mail_queue", mail("two")).await;
    while courier.under_way() > 0 {
        courier.arrive().await;
    }
}

const LOST: RecoverOptions =
    RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: true, crashed: false, out_of_memory: false };

#[tokio::test]
async fn a_late_settlement_ends_no_other_mail_that_is_held_under_its_claim() {
    let fixture = fixture();
    let courier = Courier::open(&fixture, 0, &[]).await;
    let queue = courier.queue();
    let claim = claimed_and_again(&fixture, &courier, &queue).await;
    queue.advance(ONE, &claim.claim_id, Stage::Sending, NOW).await.expect("advanced");
    queue.recover(ONE, &RecoverOptions { fence_changed: false, ..LOST }, NOW).await.expect("recovered");
    assert_eq!(fixture.claim_one(TWO).await.header.id, "one", "another process has it");
    take_another(&fixture, &courier).await;
    queue.recover(ONE, &LOST, NOW).await.expect("recovered");
    assert_eq!(fixture.balanced().await.held, 1);
    assert_eq!(fixture.settle(ONE, &claim, delivered()).await, Settled::Lost, "it is another mail");
    assert_eq!(fixture.balanced().await.held, 1);
}

#[tokio::test]
async fn mails_that_were_taken_under_one_claim_are_parked_each_for_itself() {
    for unknown in [UnknownOutcome::Hold, UnknownOutcome::Resend] {
        let fixture = fixture();
        let courier = Courier::open(&fixture, 0, &[]).await;
        let queue = courier.queue();
        let claim = claimed_and_again(&fixture, &courier, &queue).await;
        queue.advance(ONE, &claim.claim_id, Stage::Committing, NOW).await.expect("advanced");
        for _ in 0..2 {
            queue.recover(ONE, &RecoverOptions { unknown, ..LOST }, NOW).await.expect("recovered");
            take_another(&fixture, &courier).await;
        }
        let audit = fixture.balanced().await;
        assert_eq!((audit.held + audit.delayed, audit.queued), (2, 1), "{audit:?}");
    }
}

#[tokio::test]
async fn an_enqueueing_that_is_run_twice_is_one_mail() {
    for body in [mail("one"), mail("one").replace(r#""id":"one","#, "")] {
        let fixture = fixture();
        let courier = Courier::open(&fixture, 0, &[]).await;
        let queue = courier.queue();
        queue.enqueue(mail("warm").as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
        courier.twice(digest!("enqueue", ""));
        assert!(!queue.enqueue(body.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued").duplicate);
        let audit = fixture.balanced().await;
        assert_eq!((audit.accepted, audit.queued), (2, 2), "{body}: {audit:?}");
        // Two workers at once would send it twice.
        assert_eq!(fixture.claim(ONE, 2).await.len() + fixture.claim(TWO, 2).await.len(), 2, "{body}");
    }
}
