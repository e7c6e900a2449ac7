//! What every use of Redis rests on, against a real one.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mailrelay::store::{Heard, Store, StoreOptions};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use redis::Script;
use testkit::{Door, Persistence, RedisServer, eventually, free_port};

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

/// A Secret that is changed after Redis was: what was logged in by the old password goes on, by the new one, without a restart.
#[tokio::test]
async fn a_new_password_in_the_files_is_used_as_soon_as_the_old_one_is_refused() {
    let redis = RedisServer::start(Persistence::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let admin = async |password: &str, words: &[&str]| {
        let url = redis.url().replace("redis://", &format!("redis://:{password}@"));
        let store = Store::new(&StoreOptions::from_url(url)).expect("options");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        store.query::<redis::Value>(&command, LIMIT).await.expect("done");
    };
    redis.command(&["CONFIG", "SET", "requirepass", "old"]).expect("set");
    write("url", &redis.url());
    write("password", "old\n");
    let options = StoreOptions { url: None, dir: Some(folder.path().into()), ..StoreOptions::from_url("") };
    let store = Store::new(&options).expect("options");
    let ping = redis::cmd("PING");
    for lane in [store.clone(), store.for_bodies()] {
        lane.query::<String>(&ping, LIMIT).await.expect("answered");
    }
    admin("old", &["CONFIG", "SET", "requirepass", "new"]).await;
    admin("new", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    // The files come later, as kubelet has it.
    store.query::<String>(&ping, LIMIT).await.expect_err("killed");
    let refused = store.query::<String>(&ping, LIMIT).await.expect_err("the old password");
    assert!(refused.to_string().contains("authentication failed"), "{refused}");
    write("password", "new\n");
    for lane in [store.clone(), store.for_bodies()] {
        eventually("it is used", async || lane.query::<String>(&ping, LIMIT).await).await;
    }
    assert_eq!(store.subscribe("channel").next().await, Heard::Listening, "by the new one");
    // Another Redis is none that the same files lead to.
    write("url", "redis://127.0.0.1:1");
    write("password", "newer\n");
    admin("new", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    store.query::<String>(&ping, LIMIT).await.expect_err("killed");
    eventually("the same Redis", async || store.query::<String>(&ping, LIMIT).await).await;
}

/// A tenant's user gets another password, and the old one is taken away.
#[tokio::test]
async fn a_users_new_password_in_the_files_is_used_as_soon_as_the_old_one_is_refused() {
    let redis = RedisServer::start(Persistence::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    redis.command(&["ACL", "SETUSER", "tenant", "on", ">old", "~*", "&*", "+@all"]).expect("set");
    write("url", &redis.url());
    write("username", "tenant");
    write("password", "old");
    let store = Store::new(&StoreOptions { url: None, dir: Some(folder.path().into()), ..StoreOptions::from_url("") });
    let (store, ping) = (store.expect("options"), redis::cmd("PING"));
    store.query::<String>(&ping, LIMIT).await.expect("answered");
    redis.command(&["ACL", "SETUSER", "tenant", "resetpass", ">new"]).expect("set");
    redis.command(&["CLIENT", "KILL", "USER", "tenant"]).expect("killed");
    store.query::<String>(&ping, LIMIT).await.expect_err("killed");
    let refused = store.query::<String>(&ping, LIMIT).await.expect_err("the old password");
    assert!(refused.to_string().contains("authentication failed"), "{refused}");
    write("password", "new");
    eventually("it is used", async || store.query::<String>(&ping, LIMIT).await).await;
    assert_eq!(store.subscribe("channel").next().await, Heard::Listening);
}

/// Redis gets a certificate of another authority, and the Secret its CA later.
#[tokio::test]
async fn a_new_authority_in_the_files_is_believed_as_soon_as_the_old_one_does_not_fit() {
    let redis = RedisServer::start(Persistence::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let certify = || {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".into()]).expect("certified");
        write("tls.crt", &cert.pem());
        write("tls.key", &signing_key.serialize_pem());
        cert.pem()
    };
    let port = free_port();
    let first = certify();
    let (certificate, key) = (path("tls.crt"), path("tls.key"));
    let serve = ["CONFIG", "SET", "tls-auth-clients", "no", "tls-cert-file", &certificate, "tls-key-file", &key];
    redis.command(&[&serve[..], &["tls-port", &port.to_string()]].concat()).expect("it serves TLS");
    write("url", &format!("rediss://127.0.0.1:{port}"));
    write("ca.crt", &first);
    let store = Store::new(&StoreOptions { url: None, dir: Some(folder.path().into()), ..StoreOptions::from_url("") });
    let (store, ping) = (store.expect("options"), redis::cmd("PING"));
    store.query::<String>(&ping, LIMIT).await.expect("answered");
    let second = certify();
    // It reads the files when it is told where they are.
    redis.command(&serve).expect("it has another certificate");
    redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).expect("killed");
    store.query::<String>(&ping, LIMIT).await.expect_err("killed");
    store.query::<String>(&ping, LIMIT).await.expect_err("of an authority that nobody knows");
    write("ca.crt", &second);
    eventually("it is believed", async || store.query::<String>(&ping, LIMIT).await).await;
    assert_eq!(store.subscribe("channel").next().await, Heard::Listening);
}

#[tokio::test]
async fn a_redis_far_away_is_reached() {
    let redis = RedisServer::start(Persistence::Off);
    let door = Door::open(Ipv4Addr::LOCALHOST.into(), redis.address()).await.expect("a door");
    door.delay(Duration::from_millis(200));
    let store = Store::new(&StoreOptions::from_url(format!("redis://{}", door.address()))).expect("options");
    let ping = redis::cmd("PING");
    let mut tries = 0;
    eventually("an answer", async || {
        tries += 1;
        store.query::<String>(&ping, LIMIT).await
    })
    .await;
    assert!(tries <= 4, "{tries}");
}

/// A store that somebody else operates may forbid what a script needs, and does not say what.
#[tokio::test]
async fn a_script_that_the_user_may_not_run_is_told_as_a_matter_of_permissions() {
    let redis = RedisServer::start(Persistence::Off);
    redis.command(&["ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-info"]).expect("set");
    let url = redis.url().replace("redis://", "redis://limited:pw@");
    let store = Store::new(&StoreOptions::from_url(url)).expect("options");
    let script = Script::new("return redis.call('INFO', 'server')");
    let refused = store.invoke::<String>(&script, &["k"], &[], LIMIT).await.expect_err("forbidden");
    assert!(refused.is_definite() && refused.to_string().contains("can't run this command"), "{refused}");
}

#[tokio::test]
async fn channels_are_followed_over_one_connection_that_is_made_anew_and_ends_with_its_last_follower() {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
    let listeners = || redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).expect("told").lines().count();
    let followers = |channel: &str| redis.command(&["PUBSUB", "NUMSUB", channel]).expect("told");
    let publish = |channel: &str, text: &str| redis.command(&["PUBLISH", channel, text]).expect("told");
    let (mut one, mut other, mut same) = (store.subscribe("one"), store.subscribe("other"), store.subscribe("one"));
    for subscription in [&mut one, &mut other, &mut same] {
        assert_eq!(subscription.next().await, Heard::Listening);
    }
    assert_eq!(listeners(), 1);
    publish("one", "hello");
    publish("other", "world");
    assert_eq!(one.next().await, Heard::Message("hello".into()));
    assert_eq!(same.next().await, Heard::Message("hello".into()));
    assert_eq!(other.next().await, Heard::Message("world".into()));
    // Whoever comes later is told of its own beginning alone.
    let mut late = store.subscribe("one");
    assert_eq!(late.next().await, Heard::Listening);
    publish("one", "again");
    assert_eq!(one.next().await, Heard::Message("again".into()));

    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).expect("killed");
    assert_eq!(one.next().await, Heard::Listening, "made anew");
    assert_eq!(other.next().await, Heard::Listening);
    store.listen_anew();
    assert_eq!(one.next().await, Heard::Listening, "asked to");

    drop(other);
    eventually("nobody follows the other", async || match followers("other") {
        told if told.contains('1') => Err(told),
        _ => Ok(()),
    })
    .await;
    drop((one, same, late));
    eventually("the connection is gone", async || if listeners() == 0 { Ok(()) } else { Err("it is there") }).await;
    assert_eq!(store.subscribe("one").next().await, Heard::Listening, "and can come again");
}

#[tokio::test]
async fn a_channel_that_redis_refuses_costs_no_other_and_is_asked_for_again() {
    let redis = RedisServer::start(Persistence::Off);
    redis
        .command(&["ACL", "SETUSER", "worker", "on", ">secret", "+@all", "~*", "resetchannels", "&mine"])
        .expect("set");
    let url = redis.url().replace("redis://", "redis://worker:secret@");
    let store = Store::new(&StoreOptions::from_url(url)).expect("options");
    let (mut theirs, mut mine) = (store.subscribe("theirs"), store.subscribe("mine"));
    assert_eq!(mine.next().await, Heard::Listening);
    redis.command(&["ACL", "SETUSER", "worker", "&theirs"]).expect("set");
    redis.command(&["PUBLISH", "mine", "hello"]).expect("told");
    assert_eq!(mine.next().await, Heard::Message("hello".into()));
    assert_eq!(theirs.next().await, Heard::Listening);
}
