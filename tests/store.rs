//! What every use of Redis rests on, against a real one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mailrelay::store::{Store, StoreOptions};
use redis::Script;
use testkit::{Persistence, RedisServer};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_runs_once_while_others_flush_the_scripts() {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
    let done = Arc::new(AtomicBool::new(false));
    let others = {
        let (store, done) = (Store::new(&StoreOptions::from_url(redis.url())).expect("options"), Arc::clone(&done));
        tokio::spawn(async move {
            let mut flushed = 0_u64;
            while !done.load(Ordering::Relaxed) {
                store.query::<()>(redis::cmd("SCRIPT").arg("FLUSH"), LIMIT).await.expect("flushed");
                flushed += 1;
            }
            flushed
        })
    };
    let script = Script::new("return redis.call('INCR', KEYS[1])");
    for expected in 1..=200_u64 {
        let count: u64 = store.invoke(&script, &["count"], &[], LIMIT).await.expect("it runs");
        assert_eq!(count, expected, "once each time");
    }
    done.store(true, Ordering::Relaxed);
    assert!(others.await.expect("no panic") > 0);
}

#[tokio::test]
async fn after_a_restart_of_redis_neither_connection_is_used_again() {
    let mut redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
    let ping = redis::cmd("PING");
    for lane in [store.clone(), store.for_bodies()] {
        lane.query::<String>(&ping, LIMIT).await.expect("answered");
    }
    redis.crash();
    redis.resume();
    store.query::<String>(&ping, LIMIT).await.expect_err("the connection is broken, which is not known before");
    for lane in [store.for_bodies(), store.clone()] {
        lane.query::<String>(&ping, LIMIT).await.expect("by a new connection");
    }
}
