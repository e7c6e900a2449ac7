//! Two versions at once. `make mixed` builds the one before, and says where it is in `MAILRELAY_BEFORE`.

use std::{env, path::PathBuf, process::Command};

use super::house::{ByHand, Dev, shares};

const NOW: &str = env!("CARGO_BIN_EXE_mailrelay");

fn before() -> PathBuf {
    env::var_os("MAILRELAY_BEFORE").expect("run this by `make mixed`").into()
}

/// Mail flows, the cap holds, and shares go from one version to the other and back.
async fn work_together(dev: Dev, first: PathBuf, second: PathBuf) {
    let one = ByHand::start(&first, &dev, "one");
    dev.until("one has all", |relay| shares(relay) == [("one".to_owned(), 16)]).await;
    let two = ByHand::start(&second, &dev, "two");
    dev.until("they share", |relay| shares(relay).len() == 2 && shares(relay).iter().all(|(_, share)| *share == 8))
        .await;
    dev.send(300).await;
    dev.delivered(300).await;
    dev.edit("maxConnections: 16", "maxConnections: 6");
    dev.until("they follow the record", |relay| shares(relay).iter().all(|(_, share)| *share == 3)).await;
    one.stop();
    dev.until("the other has all", |relay| shares(relay) == [("two".to_owned(), 6)]).await;
    // What one of them enqueues the other takes.
    for binary in [&first, &second] {
        let flags = ["send", "--from", "a@example.com", "--to", "b@example.org", "--subject", "s", "--text", "t"];
        let sent = Command::new(binary).args(flags).env_clear().env("MAILRELAY_REDIS_URL", dev.redis.url()).output();
        let sent = sent.expect("the binary runs");
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }
    dev.delivered(302).await;
    let stats = dev.sink.stats();
    assert!(stats.peak <= 16 && stats.rejected == 0, "{stats:?}");
    two.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs a binary of the version before: make mixed"]
async fn workers_of_the_version_before_work_under_this_controller_and_beside_its_workers() {
    work_together(Dev::start(0).await, before(), NOW.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs a binary of the version before: make mixed"]
async fn workers_of_this_version_work_under_the_controller_before() {
    let help = Command::new(before()).args(["dev", "--help"]).output().expect("the binary runs");
    if !help.status.success() {
        println!("not run: the version before has no `mailrelay dev`, which leads here");
        return;
    }
    work_together(Dev::start_of(before(), 0).await, NOW.into(), before()).await;
}
