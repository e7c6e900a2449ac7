//! What Redis says of itself, and a real promotion.

use std::time::Duration;

use mailrelay::{
    controller::{Safety, StoreFacts, Topology, ask, judge},
    lease::{LedgerStore, OldPrimary},
    store::{Store, StoreOptions},
};
use testkit::{Persistence, RedisServer};

use super::support::{POOL, bench};

#[tokio::test]
async fn what_redis_says_of_itself_is_judged() {
    let bench = bench();
    let facts = ask(&bench.store).await.expect("facts");
    assert!(matches!(judge(&facts), Safety::Unsafe { reason: "AofOff", .. }), "{:?}", judge(&facts));
    let durable = RedisServer::start(Persistence::Always);
    let store = Store::new(&StoreOptions::from_url(durable.url())).expect("a store");
    assert_eq!(judge(&ask(&store).await.expect("facts")), Safety::Safe);
}

#[tokio::test]
async fn a_real_promotion_is_seen_and_bounded_only_by_what_the_old_primary_asks_of_its_replicas() {
    let facts = async |server: &RedisServer| {
        let store = Store::new(&StoreOptions::from_url(server.url())).expect("a store");
        let fence = LedgerStore::new(store.clone(), POOL).snapshot().await.expect("a look").node_fence;
        (fence, ask(&store).await.expect("facts"))
    };
    for (least, expected) in [("0", OldPrimary::Unbounded), ("1", OldPrimary::StopsWithin(Duration::from_secs(11)))] {
        let primary = RedisServer::start(Persistence::Off);
        primary.command(&["CONFIG", "SET", "min-replicas-to-write", least]).expect("set");
        let mut topology = Topology::default();
        let (fence, said) = facts(&primary).await;
        topology.learn(&fence, &said);
        assert_eq!(topology.old_primary(&fence), Some(OldPrimary::StopsWithin(Duration::ZERO)), "nothing was before");
        let mut replica = primary.replica(primary.address());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while topology_replicas(&facts(&primary).await.1) != "1" {
            assert!(tokio::time::Instant::now() < deadline, "no replica follows");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (fence, said) = facts(&primary).await;
        topology.learn(&fence, &said);
        replica.promote();
        let (promoted, said) = facts(&replica).await;
        topology.learn(&promoted, &said);
        assert_eq!(topology.old_primary(&promoted), Some(expected), "min-replicas-to-write {least}");
        let mut new_leader = Topology::default();
        new_leader.learn(&promoted, &said);
        assert_eq!(
            new_leader.old_primary(&promoted),
            Some(OldPrimary::Unbounded),
            "it was a replica of who knows whom"
        );
    }
}

fn topology_replicas(facts: &StoreFacts) -> &str {
    facts.info.get("connected_slaves").map_or("", String::as_str)
}
