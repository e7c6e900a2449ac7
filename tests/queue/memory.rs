//! What large mails cost Redis beside their own bytes.

use mailrelay::{
    api::UnknownOutcome,
    queue::{Filter, RecoverOptions, Settlement},
};

use super::support::*;

/// One figure of `INFO memory`, in bytes.
fn memory(fixture: &Fixture, figure: &str) -> u64 {
    let info = fixture.redis.command(&["INFO", "memory"]).expect("INFO");
    let line = info.lines().find_map(|line| line.trim().strip_prefix(&format!("{figure}:")).map(str::to_owned));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{figure} in {info}"))
}

/// A mail of about so many bytes.
fn large(id: &str, bytes: usize) -> String {
    mail_with(id, &format!(r#""html":"{}""#, "x".repeat(bytes)))
}

/// 60 dead letters, 45 of them of 4 MB.
async fn large_letters(fixture: &Fixture) {
    for number in 0..60 {
        let bytes = if number % 4 == 0 { 10 } else { 4_000_000 };
        fixture.push("mail_queue", large(&format!("m{number}"), bytes)).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, dead(if number % 2 == 0 { "Policy" } else { "TooLarge" })).await;
    }
}

#[tokio::test]
async fn looking_at_large_dead_letters_costs_redis_no_memory() {
    let fixture = fixture();
    large_letters(&fixture).await;
    let peak = memory(&fixture, "used_memory_peak");
    let all = fixture.queue.dead_list(&Filter::default(), 1_000).await.expect("listed");
    let ids: Vec<String> = (0..60).map(|number| format!("m{number}")).collect();
    assert_eq!(all.iter().map(|letter| letter.id.clone()).collect::<Vec<_>>(), ids);
    assert!(all.iter().all(|letter| letter.payload.is_none() && letter.tries.len() == 1), "without payloads");
    let policy = Filter { reason: Some("Policy".into()), ..Filter::default() };
    assert_eq!(fixture.queue.dead_list(&policy, 1_000).await.expect("listed").len(), 30);
    let shown = fixture.queue.dead_show("m7").await.expect("shown").expect("it is there");
    assert_eq!(shown.payload.as_deref(), Some(large("m7", 4_000_000).as_str()));
    assert_eq!(fixture.queue.dead_discard(&policy, 1_000, NOW).await.expect("discarded").done, 30);
    assert_eq!(fixture.queue.dead_requeue(&Filter::default(), 1_000, NOW).await.expect("requeued").done, 30);
    let more = memory(&fixture, "used_memory_peak").saturating_sub(peak);
    assert!(more < 40 << 20, "{more} bytes more for 180 MB of dead letters");
    for number in 0..30 {
        let number = 2 * number + 1;
        let claim = fixture.claim_one(ONE).await;
        assert_eq!(claim.payload, large(&format!("m{number}"), 4_000_000).as_bytes(), "oldest first, to the byte");
        fixture.settle(ONE, &claim, delivered()).await;
    }
    fixture.balanced().await;
}

#[tokio::test]
async fn listing_and_deciding_on_large_held_mail_costs_redis_no_memory() {
    let fixture = fixture();
    for number in 0..40 {
        fixture.push("mail_queue", large(&format!("m{number}"), 4_000_000)).await;
        let claim = fixture.claim_one(ONE).await;
        let held = Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() };
        fixture.settle(ONE, &claim, held).await;
    }
    let peak = memory(&fixture, "used_memory_peak");
    assert_eq!(fixture.queue.held_list(&Filter::default(), 100).await.expect("listed").len(), 40);
    assert_eq!(fixture.queue.held_discard(&Filter::default(), 100, NOW).await.expect("discarded").done, 40);
    let more = memory(&fixture, "used_memory_peak").saturating_sub(peak);
    assert!(more < 40 << 20, "{more} bytes more for 160 MB of held mail");
    fixture.balanced().await;
}

#[tokio::test]
async fn resolving_the_large_mails_of_a_dead_process_costs_redis_no_memory() {
    let fixture = fixture();
    for number in 0..40 {
        fixture.push("mail_queue", large(&format!("m{number}"), 4_000_000)).await;
        fixture.claim_one(ONE).await;
    }
    let peak = memory(&fixture, "used_memory_peak");
    let options =
        RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: true, out_of_memory: false };
    assert_eq!(fixture.queue.recover(ONE, &options, NOW).await.expect("resolved").requeued, 40);
    let more = memory(&fixture, "used_memory_peak").saturating_sub(peak);
    assert!(more < 40 << 20, "{more} bytes more for 160 MB of claims");
    fixture.balanced().await;
}
