//! Two controllers believe that they lead: the older one changes nothing.

use std::time::Duration;

use mailrelay::{
    controller::{ApplyError, Driven, Pool, PoolPlan},
    lease::LedgerStore,
    store::Store,
};

use super::support::{Bench, LIMIT, Leader, POOL, bench, pool_plan, shares};

#[tokio::test]
async fn a_leader_that_was_replaced_changes_nothing_and_hears_of_it() {
    let bench = bench();
    let plan = pool_plan(&["a"]);
    let mut old = Leader::new(&bench, 1);
    old.open(&plan).await;
    let mut new = Leader::new(&bench, 2);
    new.drive(Some(&plan), true).await.expect("a turn of the new leader");
    let more = pool_plan(&["a", "b"]);
    assert!(matches!(old.drive(Some(&more), true).await, Err(ApplyError::Deposed(_))));
    let look = LedgerStore::new(bench.store.clone(), POOL).snapshot().await.expect("a look");
    let ledger = look.in_force().expect("the ledger").clone();
    assert_eq!((ledger.epoch, ledger.entitlements), (2, shares(&[("a", 16)])));
}

/// The entries of the ledger's log, each as its fields in order.
async fn log(store: &Store) -> Vec<Vec<String>> {
    let mut command = redis::cmd("XRANGE");
    command.arg(format!("mailrelay:{{{POOL}}}:log")).arg("-").arg("+");
    let entries: Vec<(String, Vec<String>)> = store.query(&command, LIMIT).await.expect("the log");
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Two controllers believe that they lead. The older one has looked at the ledger and is about to write, as if it had been
/// stopped just then, when what the newer one writes arrives. Returns how the older one's turn ends.
async fn overtaken(bench: &Bench, old: &mut Leader, plan: &PoolPlan) -> Result<Driven, ApplyError> {
    // Redis keeps writes back, and does them afterwards in the order in which they came; looks are answered. What follows
    // on the same connection waits, too, so that each needs its own.
    let admin = bench.connect();
    let client =
        async |words: &[&str]| admin.query::<String>(redis::cmd("CLIENT").arg(words), LIMIT).await.expect("an answer");
    let kept_back = async |count: usize| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let clients = client(&["LIST"]).await;
            if clients.lines().filter(|client| client.contains(" flags=b")).count() == count {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {count} writes are kept back: {clients}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // A script that Redis does not know yet would come again, and later.
    let mut warm = Leader { pool: Pool::new(bench.connect(), "warm"), ..Leader::at(bench.connect(), 1) };
    warm.open(&pool_plan(&["a"])).await;
    warm.drive_until(Some(&pool_plan(&["b"])), |ledger| ledger.entitlements.contains_key("b")).await;
    client(&["PAUSE", "20000", "WRITE"]).await;
    let mut newer = Leader::at(bench.connect(), 2);
    let (newer, older, ()) = tokio::join!(
        newer.drive(Some(plan), true),
        async {
            kept_back(1).await;
            old.drive(Some(plan), true).await
        },
        async {
            kept_back(2).await;
            client(&["UNPAUSE"]).await;
        }
    );
    newer.expect("the newer leader's writes are taken");
    older
}

#[tokio::test]
async fn writes_of_a_leader_that_was_replaced_after_its_look_are_refused_and_recorded() {
    for what in ["policy", "init", "open"] {
        let bench = bench();
        let (mut old, plan) = (Leader::new(&bench, 1), pool_plan(&["a"]));
        let mut next = plan.clone();
        match what {
            "policy" => {
                old.open(&plan).await;
                next = pool_plan(&["a", "b"]);
            }
            // In recovery; it opens as soon as the mark is there.
            "open" => drop(old.drive(Some(&plan), false).await.expect("a turn")),
            _ => {}
        }
        let error = overtaken(&bench, &mut old, &next).await.expect_err("refused");
        let ApplyError::Deposed(deposed) = &error else { panic!("{what}: {error}") };
        assert_eq!((deposed.refused, deposed.ours, deposed.theirs), (Some(what), 1, 2), "{error}");
        assert!(error.to_string().contains(&format!("our {what} was refused")), "{error}");
        let refused = ["op", "refused", "what", what, "epoch", "1", "later", "2"].map(str::to_owned);
        assert_eq!(log(&bench.store).await.iter().filter(|entry| **entry == refused).count(), 1, "{what}");
    }
}
