use super::*;
use crate::lease::{Ledger, Policy, SyncRequest, Timing, wire};

mod mirror;
mod roll_call;
mod unchanged;

const SESSION_TIMEOUT: Duration = Duration::from_secs(300);
const STOPPED: OldPrimary = OldPrimary::StopsWithin(Duration::ZERO);

fn hold() -> Duration {
    Timing::default().hold(SESSION_TIMEOUT)
}

struct Scene {
    ledger: Ledger,
    watch: Watch,
    now: BootTime,
    timing: Timing,
    evidence: Evidence,
    opened: bool,
    old_primary: OldPrimary,
}

impl Scene {
    fn new() -> Self {
        Self {
            ledger: Ledger::new("node"),
            watch: Watch::default(),
            now: BootTime::after_boot(Duration::from_secs(1000)),
            timing: Timing::default(),
            evidence: Evidence::default(),
            opened: false,
            old_primary: STOPPED,
        }
    }

    fn look(&mut self) -> Vec<Action> {
        self.watch.observe(&self.ledger.snapshot(), self.now);
        self.watch.actions(self.now, &self.timing, SESSION_TIMEOUT, self.opened, self.old_primary, &self.evidence)
    }

    fn after(&mut self, seconds: f64) -> Vec<Action> {
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.look()
    }

    fn perform(&mut self, actions: &[Action], token: &str) {
        for action in actions {
            match action.clone() {
                Action::Condemn { version } => drop(self.ledger.condemn(version)),
                Action::Init { fence, quarantine, version } => {
                    let entitlements = [("a".to_owned(), 8), ("b".to_owned(), 8)].into();
                    let lease = self.timing.lease;
                    let servers = BTreeSet::new();
                    let policy = Policy { epoch: 1, revision: 1, budget: 16, lease, entitlements, servers };
                    let token = token.into();
                    self.ledger.init(&crate::lease::InitRequest { fence, token, policy, quarantine, version });
                }
                Action::Open { token, missing } => {
                    self.opened = true;
                    self.ledger.open(&crate::lease::OpenRequest { epoch: 1, token, missing });
                }
                Action::Reap { token, inc, seq, quarantine } => {
                    self.ledger.reap(&token, &inc, Some(seq), wire::seconds(quarantine), "silent");
                }
                Action::ReapDead { token, inc, quarantine } => {
                    self.ledger.reap(&token, &inc, None, wire::seconds(quarantine), "dead");
                }
                Action::Clear { token, ids } => drop(self.ledger.clear(&token, &ids)),
            }
        }
    }

    fn sync(&mut self, pod: &str, generation: u64, seq: u64, need: u32) {
        self.sync_as(pod, &format!("{pod}.{generation}"), generation, seq, need);
    }

    fn sync_as(&mut self, pod: &str, inc: &str, generation: u64, seq: u64, need: u32) {
        self.send(pod, inc, generation, seq, need, 16);
    }

    fn send(&mut self, pod: &str, inc: &str, generation: u64, seq: u64, need: u32, want: u32) {
        let token = self.ledger.view.as_ref().expect("a ledger").token.clone();
        self.ledger.sync(&SyncRequest {
            token,
            inc: inc.into(),
            pod_uid: pod.into(),
            pod: format!("mail/{pod}"),
            process: format!("process of {inc}"),
            boot_id: "boot".into(),
            generation,
            seq,
            need,
            want,
            open: need,
            busy: 0,
            hold: hold(),
            accounts: Vec::new(),
            seen: 0,
            quarantine: Vec::new(),
        });
    }

    fn policy(&mut self, shares: &[(&str, u32)]) {
        let entitlements: BTreeMap<String, u32> = shares.iter().map(|(pod, n)| ((*pod).to_owned(), *n)).collect();
        self.watch.sent(1, &entitlements, self.now);
        let (lease, servers) = (self.timing.lease, BTreeSet::new());
        self.ledger.policy(&Policy { epoch: 1, revision: 2, budget: 16, lease, entitlements, servers });
        self.watch.answered();
    }

    /// Open, led by someone who wrote its policy, with the pods a and b listed and registered.
    fn led() -> Self {
        let mut scene = Self::open();
        scene.policy(&[("a", 8), ("b", 8)]);
        scene.watch.list(&["a".to_owned(), "b".to_owned()].into());
        assert_eq!(scene.look(), []);
        scene
    }

    /// Everything is lost, and the ledger is made anew.
    fn wipe(&mut self) {
        self.ledger.view = None;
        let init = self.after(0.25);
        assert!(matches!(init.as_slice(), [Action::Init { .. }]), "{init:?}");
        self.perform(&init, "t2");
        assert_eq!(self.look(), []);
    }

    fn open() -> Self {
        let mut scene = Self::new();
        let init = scene.look();
        scene.perform(&init, "t1");
        let open = scene.look();
        scene.perform(&open, "");
        scene.sync("a", 1, 1, 0);
        scene.sync("b", 1, 1, 0);
        assert_eq!(scene.look(), []);
        scene
    }
}

#[test]
fn a_pool_that_never_was_opens_at_once_and_one_that_was_waits_the_reclaim_time() {
    let mut scene = Scene::new();
    let init = scene.look();
    assert!(
        matches!(init.as_slice(), [Action::Init { fence, quarantine, .. }] if fence == "node" && quarantine.is_empty())
    );
    scene.perform(&init, "t1");
    assert!(
        matches!(scene.look().as_slice(), [Action::Open { token, missing }] if token == "t1" && missing.is_empty())
    );
    scene.opened = true;
    assert_eq!(scene.after(6.9), []);
    assert!(matches!(scene.after(0.2).as_slice(), [Action::Open { .. }]));
}

#[test]
fn init_waits_until_the_old_primary_can_no_longer_write() {
    let mut scene = Scene::new();
    scene.watch.observe(&scene.ledger.snapshot(), scene.now);
    let wait = Duration::from_secs(3);
    let at = |watch: &Watch, now| {
        let old_primary = OldPrimary::StopsWithin(wait);
        watch.actions(now, &Timing::default(), SESSION_TIMEOUT, true, old_primary, &Evidence::default())
    };
    assert_eq!(at(&scene.watch, scene.now + Duration::from_millis(2999)), []);
    assert_eq!(at(&scene.watch, scene.now + wait).len(), 1);
    // Another node: the time begins again.
    scene.ledger.node_fence = "other".into();
    scene.watch.observe(&scene.ledger.snapshot(), scene.now + wait);
    assert_eq!(at(&scene.watch, scene.now + wait), []);
}

#[test]
fn where_nothing_bounds_the_old_primary_the_ledger_opens_by_roll_call_only() {
    let mut scene = Scene::led();
    scene.old_primary = OldPrimary::Unbounded;
    scene.ledger.node_fence = "promoted".into();
    let init = scene.after(0.25);
    assert!(matches!(init.as_slice(), [Action::Init { .. }]), "at once, since nothing is granted: {init:?}");
    scene.perform(&init, "t2");
    scene.sync("b", 1, 2, 8);
    for _ in 0..100 {
        scene.sync("b", 1, scene.ledger.view.as_ref().expect("a ledger").holders[0].seq + 1, 8);
        assert_eq!(scene.after(1.0), [], "a may renew at the node that was left for as long as that lives");
    }
    scene.sync("a", 1, 2, 8);
    assert!(matches!(scene.after(0.25).as_slice(), [Action::Open { missing, .. }] if missing.is_empty()));
}

#[test]
fn silence_is_timed_by_the_seq_and_withholds_in_full_whoever_else_lives_there() {
    let mut scene = Scene::open();
    for second in 1..=6 {
        scene.sync("b", 1, 1 + second, 0);
        assert_eq!(scene.after(1.0), []);
    }
    scene.sync("b", 1, 20, 0);
    assert_eq!(scene.after(0.9), []);
    let actions = scene.after(0.2);
    let [Action::Reap { inc, seq: 1, quarantine, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((inc.as_str(), *quarantine), ("a.1", hold()));
    scene.perform(&actions, "");
    assert_eq!(scene.look(), [], "b lives");
}

#[test]
fn the_time_in_which_the_store_stood_still_is_nobodys_silence() {
    let mut scene = Scene::open();
    scene.now = scene.now + Duration::from_secs(2);
    scene.watch.unanswered(scene.now);
    assert_eq!(scene.after(18.0), [], "it is back, and workers come back with it");
    assert_eq!(scene.after(6.0), []);
    let reaped = scene.after(1.5);
    assert!(matches!(&reaped[..], [Action::Reap { .. }, Action::Reap { .. }]), "{reaped:?}");
}

#[test]
fn a_pod_that_is_over_needs_no_waiting_and_is_withheld_in_full() {
    let mut scene = Scene::open();
    scene.evidence.dead.insert("a".into());
    let actions = scene.after(1.0);
    assert!(
        matches!(actions.as_slice(), [Action::ReapDead { quarantine, .. }] if *quarantine == hold()),
        "{actions:?}"
    );
    scene.perform(&actions, "");
    scene.sync("b", 1, 2, 0);
    assert_eq!(scene.look(), []);
    let left = scene.timing.quarantine_watch(hold());
    scene.evidence.dead.insert("b".into());
    let reap = scene.after(left.as_secs_f64() - 1.0);
    assert!(matches!(reap.as_slice(), [Action::ReapDead { .. }]), "{reap:?}");
    scene.perform(&reap, "");
    assert_eq!(scene.look(), []);
    // Both are over by then, and are cleared in one call.
    let actions = scene.after(left.as_secs_f64());
    let [Action::Clear { ids, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(ids.len(), 2, "{ids:?}");
    scene.perform(&actions, "");
    assert_eq!(scene.ledger.view.as_ref().expect("a ledger").quarantined(), 0);
}

#[test]
fn a_lease_that_is_shortened_binds_the_reaper_only_after_the_old_length() {
    let mut scene = Scene::open();
    let lengths = |scene: &mut Scene, revision: u64, seconds: u64| {
        let (entitlements, servers) = ([("a".to_owned(), 8), ("b".to_owned(), 8)].into(), BTreeSet::new());
        let lease = Duration::from_secs(seconds);
        scene.ledger.policy(&Policy { epoch: 1, revision, budget: 16, lease, entitlements, servers });
    };
    lengths(&mut scene, 2, 60);
    scene.sync("a", 1, 2, 0);
    scene.sync("b", 1, 2, 0);
    assert_eq!(scene.look(), []);
    lengths(&mut scene, 3, 6);
    assert_eq!(scene.after(0.25), []);
    let due = scene.watch.due(&scene.timing).expect("they renew");
    assert!(due < scene.now + Duration::from_secs(8), "the old length may be forgotten by the next look");
    assert_eq!(scene.after(59.0), [], "a lease of 60 s may be in use");
    assert_eq!(scene.after(3.0).len(), 2);
    scene.sync("a", 1, 3, 0);
    scene.sync("b", 1, 3, 0);
    assert_eq!(scene.look(), []);
    assert_eq!(scene.after(7.1).len(), 2, "the new length is in use now");
}

#[test]
fn a_ledger_that_was_restored_in_place_is_condemned_and_made_anew_above_its_version() {
    let mut scene = Scene::led();
    let copy = scene.ledger.view.clone();
    scene.sync("a", 1, 2, 5);
    scene.sync("b", 1, 2, 8);
    assert_eq!(scene.look(), []);
    let highest = scene.ledger.view.as_ref().expect("a ledger").version;
    // As when a virtual machine is set back: the twin says nothing.
    scene.ledger.twin = copy.as_ref().map(|copy| copy.version);
    scene.ledger.view = copy;
    let actions = scene.after(0.25);
    assert_eq!(actions, [Action::Condemn { version: highest }]);
    assert!(scene.watch.is_older_copy());
    scene.perform(&actions, "");
    let init = scene.after(0.25);
    assert!(matches!(init.as_slice(), [Action::Init { version, .. }] if *version >= highest), "{init:?}");
    scene.perform(&init, "t2");
    assert!(scene.ledger.view.as_ref().expect("a ledger").version > highest);
    scene.sync("a", 1, 3, 5);
    assert_eq!(scene.look(), [], "b has not answered");
    scene.sync("b", 1, 3, 8);
    assert!(matches!(scene.after(0.25).as_slice(), [Action::Open { missing, .. }] if missing.is_empty()));
}

#[test]
fn who_rests_is_reaped_by_proof_of_death_alone_and_is_timed_from_when_it_wakes() {
    let mut scene = Scene::led();
    scene.send("a", "a.1", 1, 2, 0, 0);
    scene.sync("b", 1, 2, 0);
    assert_eq!(scene.look(), []);
    let reaped = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Reap { inc, .. } | Action::ReapDead { inc, .. }] => Some(inc.clone()),
        [] => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(reaped(scene.after(7.0)), Some("b.1".to_owned()), "silent with a claim");
    scene.sync("b", 1, 3, 0);
    scene.sync("a", 1, 3, 0);
    assert_eq!(reaped(scene.look()), None, "it claims again: its silence is timed from now on");
    scene.sync("b", 1, 4, 0);
    assert_eq!(reaped(scene.after(6.9)), None);
    assert_eq!(reaped(scene.after(0.2)), Some("a.1".to_owned()));
    scene.send("a", "a.1", 1, 4, 0, 0);
    scene.sync("b", 1, 5, 0);
    scene.look();
    scene.evidence.dead.insert("a".to_owned());
    assert_eq!(reaped(scene.look()), Some("a.1".to_owned()), "dead");
}

#[test]
fn who_rests_is_asked_once_when_mail_waits_and_is_taken_for_dead_when_it_does_not_answer() {
    let mut scene = Scene::led();
    scene.send("a", "a.1", 1, 2, 0, 0);
    scene.send("b", "b.1", 1, 2, 0, 0);
    scene.look();
    assert_eq!(scene.watch.to_ask(true, scene.now), [""; 0], "both were heard of just now");
    assert_eq!(scene.after(60.0), []);
    assert_eq!(scene.watch.to_ask(false, scene.now), [""; 0], "nobody needs to know");
    scene.watch.list(&["b".to_owned()].into());
    assert_eq!(scene.watch.to_ask(false, scene.now), ["a.1"], "its pod is gone");
    assert_eq!(scene.watch.to_ask(true, scene.now), ["a.1", "b.1"]);
    for inc in ["a.1", "b.1"] {
        scene.watch.asked(inc, scene.now);
    }
    assert_eq!(scene.watch.to_ask(true, scene.now), [""; 0], "once");
    scene.send("b", "b.1", 1, 3, 0, 0);
    assert_eq!(scene.after(6.9), []);
    let actions = scene.after(0.2);
    assert!(matches!(actions.as_slice(), [Action::Reap { inc, .. }] if inc == "a.1"), "{actions:?}");
    assert_eq!(scene.after(60.0).len(), 1, "the one that answered rests on");
}

#[test]
fn who_rested_at_the_last_look_may_have_claimed_its_share_since() {
    let mut scene = Scene::led();
    scene.send("a", "a.1", 1, 2, 0, 0);
    scene.sync("b", 1, 2, 8);
    assert_eq!(scene.look(), []);
    // It wakes, and all is lost before anybody has seen that.
    scene.sync("a", 1, 3, 0);
    scene.wipe();
    scene.sync("b", 1, 3, 8);
    assert_eq!(scene.look(), [], "it has not answered yet");
    let actions = scene.after(7.0);
    let [Action::Open { missing, .. }, ..] = actions.as_slice() else { panic!("{actions:?}") };
    let withheld: Vec<(&str, u32)> = missing.iter().map(|m| (m.inc.as_str(), m.quarantine.slots)).collect();
    assert_eq!(withheld, [("a.1", 8)]);
}
