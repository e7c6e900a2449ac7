//! `mailrelay dev`: the binary as a stranger runs it, beside a real Redis and the counting sink.

mod house;
mod mixed;

use std::{fs, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{Persistence, RedisServer, eventually};

use house::{ByHand, Dev, EXAMPLE, children_of, is_gone, shares};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_example_delivers_mail_through_two_workers_and_an_edit_of_its_file_is_followed() {
    let dev = Dev::start(2).await;
    dev.send(20).await;
    dev.delivered(20).await;
    let relay = dev.until("two workers share 16", |relay| shares(relay).len() == 2).await;
    assert_eq!(relay["metadata"]["namespace"], "mail");
    dev.until("each has eight", |relay| shares(relay).iter().all(|(_, share)| *share == 8)).await;

    dev.edit("maxConnections: 16", "maxConnections: 6");
    dev.until("each has three", |relay| shares(relay).iter().all(|(_, share)| *share == 3)).await;

    // What the API server would refuse is told, and what the file said before holds.
    dev.edit("maxConnections: 16", "maxConnections: 16\n    port: 70000");
    dev.until_said("not followed: ").await;
    dev.edit("maxConnections: 16", "maxConnection: 16");
    dev.until_said("spec.servers[0].maxConnection: there is no such field").await;
    dev.send(20).await;
    dev.delivered(40).await;
    dev.edit("maxConnections: 16", "maxConnections: 4");
    dev.until("each has two", |relay| shares(relay).iter().all(|(_, share)| *share == 2)).await;
    let peak = dev.sink.stats().peak;
    assert!(peak <= 16, "{peak}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_started_by_hand_has_its_share_and_gives_it_back() {
    let dev = Dev::start(1).await;
    dev.until("one worker has all", |relay| shares(relay) == [("corporate-1".to_owned(), 16)]).await;
    let by_hand = ByHand::start(env!("CARGO_BIN_EXE_mailrelay"), &dev, "by-hand");
    dev.until("they share", |relay| {
        let shares = shares(relay);
        shares.len() == 2 && shares.iter().all(|(_, share)| *share == 8)
    })
    .await;
    by_hand.stop();
    dev.until("one has all again", |relay| shares(relay) == [("corporate-1".to_owned(), 16)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_its_workers_and_they_end_with_it() {
    let mut dev = Dev::start(2).await;
    dev.until("two workers", |relay| shares(relay).len() == 2).await;
    let workers = children_of(dev.pid());
    assert_eq!(workers.len(), 2);
    kill(dev.pid(), Signal::SIGTERM).expect("it lives");
    let status = dev.child.wait().expect("it ended");
    assert!(status.success(), "{status}: {}", dev.said());
    assert!(workers.into_iter().all(is_gone));

    // However it ends.
    let mut dev = Dev::start(2).await;
    dev.until("two workers", |relay| shares(relay).len() == 2).await;
    let workers = children_of(dev.pid());
    dev.child.kill().expect("it lives");
    dev.child.wait().expect("it ended");
    eventually("the workers end too", async || {
        let left: Vec<&Pid> = workers.iter().filter(|pid| !is_gone(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_followed_ends_it_at_once_with_the_file_and_the_field() {
    let redis = RedisServer::start(Persistence::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("relay.yaml");
    let run = |redis: &str, text: &str| {
        fs::write(&file, text).expect("written");
        let ended = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
            .args(["dev", "-f"])
            .arg(&file)
            .env_clear()
            .env("MAILRELAY_REDIS_URL", redis)
            .output()
            .expect("the binary runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = run(&redis.url(), &EXAMPLE.replace("port: 587", "port: 70000"));
    assert_eq!(code, Some(1));
    assert!(said.contains("relay.yaml: MailRelay corporate would be refused: spec.servers[0].port"), "{said}");
    let (code, said) = run(&redis.url(), "{kind: Secret, metadata: {name: a}}");
    assert!(code == Some(1) && said.contains("no MailRelay in "), "{said}");
    let (code, said) = run("redis://127.0.0.1:1", EXAMPLE);
    assert!(code == Some(1) && said.contains("127.0.0.1:1") && said.contains("--redis-url"), "{said}");
}
