//! The command itself: what it prints, what it sets, what it refuses.

use serde_json::{Value, json};
use testkit::eventually;

use crate::house::{House, Tenant};

impl House {
    /// What it printed as JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let all = [&["redis-acl"], arguments, &["-o", "json"]].concat();
        serde_json::from_str(&self.done("default", &all, "")).expect("JSON")
    }

    /// What it said when it failed, and its exit code.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.cli("default", &[&["redis-acl"], arguments].concat(), "");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_is_what_is_set_and_setting_it_again_changes_nothing() {
    let house = House::empty();
    let of = ["worker", "--relay", "a/corporate", "--budget", "mx", "--queue", "a-mail", "--dead-letter", "a-dead"];
    let printed = house.done("default", &[&["redis-acl"], &of[..]].concat(), "");
    assert!(printed.starts_with("ACL SETUSER mailrelay-worker.a.corporate on resetkeys "), "{printed}");
    assert!(!printed.contains('#') && !printed.contains('>'), "no password: {printed}");
    assert!(house.redis(&["ACL", "USERS"]).trim() == "default", "nothing is set without --apply");
    // As redis-cli takes it from a pipe.
    let words: Vec<&str> = printed.split_whitespace().collect();
    house.redis(&words);
    let by_hand = house.redis(&["ACL", "LIST"]);
    let applied = house.json(&[&of[..], &["--apply"]].concat());
    assert_eq!(
        (&applied["applied"]["outcome"], &applied["applied"]["hasPassword"]),
        (&json!("unchanged"), &json!(false))
    );
    assert!(applied["notes"].to_string().contains("--password-file"), "{applied}");
    assert_eq!(house.redis(&["ACL", "LIST"]), by_hand);
    // Whatever else it might do is taken away; its password stays.
    house.redis(&["ACL", "SETUSER", "mailrelay-worker.a.corporate", ">pw", "+flushall", "~*"]);
    let applied = house.json(&[&of[..], &["--apply"]].concat());
    assert_eq!((&applied["applied"]["outcome"], &applied["applied"]["hasPassword"]), (&json!("changed"), &json!(true)));
    assert!(!house.redis(&["ACL", "LIST"]).contains("flushall"));
    let created = house.json(&["controller", "--user", "boss", "--apply"]);
    assert_eq!(
        (&created["applied"]["outcome"], &created["user"], &created["role"]),
        (&json!("created"), &json!("boss"), &json!("controller"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_the_field_and_the_remedy() {
    let house = House::empty();
    let usage: [(&[&str], &str); 6] = [
        (&["worker", "--relay", "corporate", "--budget", "mx"], "NAMESPACE/NAME"),
        (&["worker", "--relay", "a/corporate", "--budget", "mx", "--queue", "mailrelay:{x}"], "is no name of a queue"),
        (&["controller", "--user", "default"], "choose another"),
        (&["controller", "--user", "two words"], "no spaces"),
        (&["producer"], "--relay"),
        (&["worker", "--relay", "a/b", "--queue", "q"], "--budget"),
    ];
    for (arguments, words) in usage {
        let (code, said) = house.fails(arguments);
        assert!(code == Some(2) && said.contains(words), "{arguments:?}: {code:?} {said}");
    }
    let (code, said) = house.fails(&["worker", "--relay", "a/none"]);
    assert!(code == Some(1) && said.contains("no record of relay a/none"), "{said}");
    // A login that may not set users, and the one that is in use.
    let user = house.login(&["controller"]);
    let output = house.cli(&user, &["redis-acl", "producer", "--queue", "q", "--apply"], "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("may not set users"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_would_reach_another_namespace_or_a_stalled_relay_is_not_made() {
    let mut house = House::empty();
    house.lead();
    let (_a, b) = (Tenant::settle(&house, "a").await, Tenant::settle(&house, "b").await);
    let edit =
        |change: &dyn Fn(&mut Value)| house.api.edit("mailrelays", "b/corporate", |relay| change(&mut relay["spec"]));
    edit(&|spec| spec["queue"]["payloadPrefix"] = json!("a-body:"));
    let relay = b.relay();
    let said = eventually("it is refused", async || {
        let (code, said) = house.fails(&["worker", "--relay", &relay, "--apply"]);
        if code == Some(1) { Ok(said) } else { Err(said) }
    })
    .await;
    assert!(said.contains("a-body:* of the relay a/corporate (its spec.queue.payloadPrefix)"), "{said}");
    let forced = house.json(&["worker", "--relay", &relay, "--allow-overlap"]);
    assert!(forced["notes"].to_string().contains("this login reaches a-body:*"), "{forced}");
    edit(&|spec| spec["queue"] = json!({ "name": "a-mail", "deadLetterName": "b-dead", "payloadPrefix": "b-body:" }));
    let said = eventually("it is stalled", async || {
        let (code, said) = house.fails(&["producer", "--relay", &relay]);
        if code == Some(1) && said.contains("stalled") { Ok(said) } else { Err(said) }
    })
    .await;
    assert!(said.contains("the Redis list a-mail belongs to the relay a/corporate"), "{said}");
}
