//! What the tests share.

use std::time::Duration;

use mailrelay::{
    mail::UnixMillis,
    queue::{
        Claimed, DeadLetter, EnqueueLimits, OperationId, PerRecipient, Queue, QueueNames, Settled, Settlement, Stage,
    },
    store::{Store, StoreOptions},
};
use redis::cmd;
use testkit::Persistence;

use super::RedisServer;

pub const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
pub const NO_LIMITS: EnqueueLimits = EnqueueLimits { max_length: 1_000_000, max_bytes: 0 };
pub const LIMIT: Duration = Duration::from_secs(5);
pub const ONE: &str = "11111111111111111111111111111111";
pub const TWO: &str = "22222222222222222222222222222222";

pub struct Fixture {
    pub redis: RedisServer,
    pub store: Store,
    pub queue: Queue,
}

pub fn fixture() -> Fixture {
    fixture_with(Persistence::Off)
}

pub fn fixture_with(persistence: Persistence) -> Fixture {
    let redis = RedisServer::start(persistence);
    let store = store_of(&redis);
    let queue = Queue::new(store.clone(), names());
    Fixture { redis, store, queue }
}

pub fn names() -> QueueNames {
    QueueNames::new("mail_queue", "mail_dead_letter_queue")
}

pub fn store_of(redis: &RedisServer) -> Store {
    Store::new(&StoreOptions::from_url(redis.url())).expect("options")
}

pub fn mail(id: &str) -> String {
    format!(r#"{{"id":"{id}","from":"a@example.com","to":"b@example.org","subject":"{id}","text":"hello"}}"#)
}

pub fn mail_with(id: &str, more: &str) -> String {
    format!(r#"{{"id":"{id}","from":"a@example.com","to":"b@example.org","text":"hello",{more}}}"#)
}

impl Fixture {
    pub async fn push(&self, list: &str, entry: impl AsRef<[u8]>) {
        let _: i64 = self.store.query(cmd("LPUSH").arg(list).arg(entry.as_ref()), LIMIT).await.expect("LPUSH");
    }

    pub async fn length(&self, list: &str) -> u64 {
        self.store.query(cmd("LLEN").arg(list), LIMIT).await.expect("LLEN")
    }

    pub async fn claim(&self, process: &str, max: usize) -> Vec<Claimed> {
        self.queue.claim(process, "pod", max, NOW).await.expect("claim").mails
    }

    pub async fn claim_one(&self, process: &str) -> Claimed {
        let mut claimed = self.claim(process, 1).await;
        assert_eq!(claimed.len(), 1, "one mail is there to be claimed");
        claimed.remove(0)
    }

    pub async fn settle(&self, process: &str, claim: &Claimed, outcome: Settlement) -> Settled {
        let operation = OperationId::random();
        self.queue.settle(process, claim, &operation, &outcome, &PerRecipient::default(), NOW).await.expect("settle")
    }

    pub async fn advance(&self, process: &str, claim: &Claimed, stage: Stage) -> mailrelay::queue::Advance {
        self.queue.advance(process, &claim.claim_id, stage, NOW).await.expect("advance")
    }

    /// All dead letters with their payloads.
    pub async fn letters(&self) -> Vec<DeadLetter> {
        self.letters_of(&self.queue).await
    }

    /// The same of another queue.
    pub async fn letters_of(&self, queue: &Queue) -> Vec<DeadLetter> {
        let mut command = cmd("LRANGE");
        command.arg(queue.names().dead_letter()).arg(0).arg(-1);
        let entries: Vec<Vec<u8>> = self.store.query(&command, LIMIT).await.expect("LRANGE");
        entries.iter().map(|entry| DeadLetter::decode(entry)).collect()
    }

    /// The buckets that hold records, by their keys.
    pub async fn buckets(&self) -> Vec<String> {
        self.store.query(cmd("KEYS").arg("{mail_queue}:records:*"), LIMIT).await.expect("KEYS")
    }

    /// The values of all records, those that have ended and still lie there too.
    pub async fn records(&self) -> Vec<String> {
        let mut records = Vec::new();
        for bucket in self.buckets().await {
            let pairs: Vec<(Vec<u8>, String)> =
                self.store.query(cmd("HGETALL").arg(bucket), LIMIT).await.expect("HGETALL");
            records.extend(pairs.into_iter().filter(|(field, _)| field.len() == 12).map(|(_, value)| value));
        }
        records
    }

    /// Asserts that the sum is right, and returns it.
    pub async fn balanced(&self) -> mailrelay::queue::Audit {
        let audit = self.queue.audit().await.expect("audit");
        assert_eq!(audit.difference, 0, "{audit:?}");
        audit
    }
}

pub fn delivered() -> Settlement {
    Settlement::Delivered { reply: "250 2.0.0 queued".into() }
}

pub fn dead(reason: &str) -> Settlement {
    Settlement::Dead { reason: reason.into(), reply: "554 no".into() }
}

pub fn delayed(wait: Duration) -> Settlement {
    Settlement::Delayed {
        wait,
        counted: mailrelay::queue::Counted::Attempt,
        reason: "Greylisted".into(),
        reply: "451 later".into(),
    }
}

/// A header that no script of ours wrote, in front of a good mail.
pub fn forged(id: &str, more: &str) -> String {
    let header = format!(
        r#"{{"id":"{id}","serial":"0123456789abcdef0123456789abcdef","messageId":"<forged@evil.example>","firstSeen":1,"since":1{more}}}"#
    );
    format!("mailrelay/1 n {header}\n{}", mail("honest"))
}

/// The digest of a script, as the product sends it; of one that drains unless its flags are given.
macro_rules! digest {
    ($name:literal) => {
        digest!($name, " flags=allow-oom")
    };
    ($name:literal, $flags:literal) => {
        redis::Script::new(concat!(
            "#!lua",
            $flags,
            "\n",
            include_str!("../../src/queue/lua/prelude.lua"),
            include_str!(concat!("../../src/queue/lua/", $name, ".lua"))
        ))
        .get_hash()
        .to_owned()
    };
}
pub(super) use digest;
