//! The whole life of mail, by the logins of one tenant.

use std::time::Duration;

use mailrelay::{
    mail::UnixMillis,
    queue::{Audit, Stage},
    store::Store,
};
use mailsink::{Behaviour, Failure, FailureStage};
use redis::cmd;
use serde_json::{Value, json};
use testkit::{eventually, eventually_within};

use crate::house::{House, LIMIT, Tenant, mail};

/// Slots of a worker that was killed are withheld for half a minute.
const PATIENCE: Duration = Duration::from_secs(100);

async fn push(store: &Store, list: &str, text: &str) {
    let _: i64 = store.query(cmd("LPUSH").arg(list).arg(text), LIMIT).await.expect("pushed");
}

impl Tenant {
    pub async fn audit_until(&self, what: &str, fits: impl Fn(&Audit) -> bool) -> Audit {
        let audit = eventually_within(PATIENCE, what, async || match self.queue.audit().await {
            Ok(audit) if fits(&audit) => Ok(audit),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(audit.difference, 0, "{what}: {audit:?}");
        audit
    }

    pub async fn settled(&self, what: &str, delivered: u64) -> Audit {
        self.audit_until(what, |audit| {
            audit.delivered == delivered && audit.queued + audit.delayed + audit.in_flight == 0
        })
        .await
    }

    /// `mailrelay send` with this mail, by the producer's login; its id.
    pub fn send(&self, house: &House, mail: &Value) -> String {
        let sent = house.done(&self.producer, &["send", "--relay", &self.relay(), "-o", "json"], &mail.to_string());
        serde_json::from_str::<Value>(&sent).expect("JSON")["id"].as_str().expect("an id").to_owned()
    }

    /// Every way in, each priority, bare ids, long mail, mail for later, batches.
    async fn all_ways_in(&self, house: &House) -> u64 {
        let (store, queue) = (house.connected(&self.producer).await, format!("{}-mail", self.name));
        for list in [queue.clone(), format!("{{{queue}}}:high"), format!("{{{queue}}}:low")] {
            push(&store, &list, &mail("raw@example.org").to_string()).await;
        }
        for (id, text) in [("short", "s".to_owned()), ("long", "l".repeat(3 << 20))] {
            let mut body = mail("body@example.org");
            body["text"] = json!(text);
            let key = format!("{}-body:{id}", self.name);
            let () = store.query(cmd("SET").arg(key).arg(body.to_string()), LIMIT).await.expect("written");
            push(&store, &queue, id).await;
        }
        let mut long = mail("long@example.org");
        long["text"] = json!("x".repeat(3 << 20));
        self.send(house, &long);
        let mut later = mail("later@example.org");
        later["notBefore"] = json!(UnixMillis::now().after(Duration::from_secs(2)).to_string());
        self.send(house, &later);
        let mut once = mail("once@example.org");
        once["idempotencyKey"] = json!("once");
        self.send(house, &once);
        let lines: Vec<String> = (0..3).map(|number| mail(&format!("b{number}@example.org")).to_string()).collect();
        let lines = lines.join("\n");
        house.done(&self.producer, &["send", "--relay", &self.relay(), "--lines", "--batch", "news"], &lines);
        house.done(&self.producer, &["progress", "--relay", &self.relay(), "news"], "");
        11
    }

    /// Put off by the server, dead letters short and long, driven again, discarded.
    async fn refusals(&self, house: &House) -> u64 {
        let rcpt = |reply: &str, to: &str| Failure::reply(FailureStage::Rcpt, reply).for_recipient(to);
        let failures = vec![rcpt("451 4.3.0 later", "defer").times(2), rcpt("550 5.1.1 no such user", "dead")];
        self.sink.set_behaviour(Behaviour { failures, ..Behaviour::default() });
        let mut once = mail("once@example.org");
        once["idempotencyKey"] = json!("once");
        self.send(house, &once);
        let id = self.send(house, &mail("defer@example.org"));
        let before = self.audit_until("put off and delivered", |audit| audit.delivered == 12).await;
        assert_eq!(before.dead, 0);
        let mut long = mail("dead-long@example.org");
        long["text"] = json!("y".repeat(1 << 20));
        for mail in [mail("dead-1@example.org"), long, mail("dead-2@example.org")] {
            self.send(house, &mail);
        }
        self.audit_until("dead letters", |audit| audit.dead == 3).await;
        self.sink.set_behaviour(Behaviour::default());
        let relay = self.relay();
        let operator = |arguments: &[&str]| house.done(&self.operator, &[arguments, &["--relay", &relay]].concat(), "");
        assert!(operator(&["status", &id, "-o", "json"]).contains("delivered"));
        let letters: Value = serde_json::from_str(&operator(&["dead", "list", "-o", "json"])).expect("JSON");
        let first = letters[0]["id"].as_str().expect("an id");
        operator(&["dead", "show", first]);
        operator(&["dead", "requeue", "--text", "dead-1"]);
        operator(&["dead", "discard", "--text", "dead-2"]);
        operator(&["dead", "requeue", "--all"]);
        14
    }

    /// A worker is killed while the server thinks: what it had handed over is held. Another never comes back: the leader
    /// resolves what it had.
    async fn deaths(&mut self, house: &House) {
        self.sink.wait_for(LIMIT, |stats| stats.open == 0).await.expect("no session is at rest");
        self.sink.set_behaviour(Behaviour { mail_delay_ms: 60_000, ..Behaviour::default() });
        for _ in 0..2 {
            self.send(house, &mail("held@example.org"));
        }
        eventually("both are handed over", async || {
            let processes = self.queue.in_flight().await.map_err(|error| error.to_string())?;
            let committing = processes.iter().filter_map(|process| process.stages.get(&Stage::Committing)).sum::<u64>();
            if committing == 2 { Ok(()) } else { Err(format!("{processes:?}")) }
        })
        .await;
        self.workers[1].crash();
        self.workers[0].crash_and_restart();
        self.sink.set_behaviour(Behaviour::default());
        let audit = self.audit_until("nothing is in any hand", |audit| audit.in_flight == 0 && audit.held == 2).await;
        let relay = self.relay();
        let operator = |arguments: &[&str]| house.done(&self.operator, &[arguments, &["--relay", &relay]].concat(), "");
        let held: Value = serde_json::from_str(&operator(&["held", "list", "-o", "json"])).expect("JSON");
        operator(&["held", "show", held[0]["id"].as_str().expect("an id")]);
        operator(&["held", "release", held[0]["id"].as_str().expect("an id")]);
        self.audit_until("released and sent", |now| now.held == audit.held - 1 && now.delivered == audit.delivered + 1)
            .await;
        operator(&["held", "discard", "--all"]);
        self.audit_until("nothing is held", |audit| audit.held == 0).await;
        self.workers[1].crash_and_restart();
    }

    /// Nothing to do for a while, then mail again; and what people look at.
    async fn rest_and_wake(&self, house: &House) {
        self.all_rest().await;
        let delivered = self.queue.audit().await.expect("an audit").delivered;
        push(
            &house.connected(&self.producer).await,
            &format!("{}-mail", self.name),
            &mail("wake@example.org").to_string(),
        )
        .await;
        self.settled("woken", delivered + 1).await;
        let relay = self.relay();
        for command in ["queue", "status", "audit"] {
            house.done(&self.operator, &[command, "--relay", &relay], "");
        }
        house.done(&self.operator, &["leases", &format!("mx-{}", self.name)], "");
    }

    /// All of it.
    pub async fn live(&mut self, house: &House) {
        self.add_worker(house);
        self.add_worker(house);
        let delivered = self.all_ways_in(house).await;
        self.settled("every way in", delivered).await;
        let delivered = self.refusals(house).await;
        self.settled("after the refusals", delivered).await;
        self.deaths(house).await;
        self.rest_and_wake(house).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_lives_its_whole_life_under_logins_that_are_refused_nothing() {
    let mut house = House::empty();
    house.lead();
    let mut tenant = Tenant::settle(&house, "a").await;
    tenant.live(&house).await;
    // The relay goes, and what is kept of it in Redis but for its mail.
    house.api.edit("mailrelays", "a/corporate", |relay| relay["spec"]["suspend"] = json!(true));
    let relay = tenant.relay();
    eventually("the workers are told", async || {
        let shown = house.done(&tenant.operator, &["status", "--relay", &relay], "");
        if shown.contains("suspended") { Ok(()) } else { Err(shown) }
    })
    .await;
    tenant.logs_are_clean();
    house.nothing_was_refused();
    // The test can fail: a worker without one of its rules is refused.
    house.redis(&["ACL", "SETUSER", &tenant.worker, "clearselectors"]);
    eventually("it is refused", async || {
        if house.redis(&["ACL", "LOG"]).contains(&tenant.worker) { Ok(()) } else { Err("nothing") }
    })
    .await;
}

/// A second mail of the same key while the first is in somebody's hands: a producer can't see whether it is there, so whoever
/// claims the second one looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_may_not_look_where_the_first_mail_is_pushes_the_second_which_is_dropped_when_it_is_claimed() {
    let mut house = House::empty();
    house.lead();
    let mut tenant = Tenant::settle(&house, "a").await;
    tenant.sink.set_behaviour(Behaviour { mail_delay_ms: 60_000, ..Behaviour::default() });
    tenant.add_worker(&house);
    let mut once = mail("once@example.org");
    once["idempotencyKey"] = json!("once");
    tenant.send(&house, &once);
    tenant.sink.wait_for(LIMIT, |stats| stats.open > 0).await.expect("a session");
    tenant.audit_until("it is in hand", |audit| audit.in_flight == 1 && audit.queued == 0).await;
    tenant.send(&house, &once);
    tenant.audit_until("the second is dropped", |audit| audit.duplicates == 1 && audit.queued == 0).await;
    tenant.sink.set_behaviour(Behaviour::default());
    let audit = tenant.audit_until("nothing else comes of it", |audit| audit.accepted == 2).await;
    assert_eq!((audit.dead, audit.expired), (0, 0), "{audit:?}");
}
