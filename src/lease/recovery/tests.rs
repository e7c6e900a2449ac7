use super::*;
use crate::lease::{Ledger, Policy, SyncRequest};

mod mirror;

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
            want: 16,
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
fn who_does_not_come_back_after_a_wipe_is_withheld_at_open() {
    let mut scene = Scene::open();
    scene.sync("a", 1, 2, 3);
    scene.look();
    // A larger share was sent and may have been used, though it never was seen in the ledger.
    scene.watch.sent(1, &[("a".to_owned(), 9)].into(), scene.now);
    scene.ledger.view = None;
    let init = scene.after(0.25);
    scene.perform(&init, "t2");
    scene.sync("b", 1, 2, 8);
    assert_eq!(scene.after(1.0), []);
    scene.sync("b", 1, 3, 8);
    let actions = scene.after(7.1);
    let [Action::Open { token, missing }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((token.as_str(), missing.len()), ("t2", 1));
    assert_eq!((missing[0].inc.as_str(), missing[0].quarantine.slots, missing[0].quarantine.seconds), ("a.1", 9, 330));
}

#[test]
fn a_pod_that_was_granted_unseen_and_came_back_as_a_new_process_is_withheld() {
    let mut scene = Scene::led();
    // A third pod came, was granted its share, opened sessions and went down with its node, all between two looks; then
    // the ledger was lost, and the pod's next process, in another boot, has nothing to re-assert.
    scene.policy(&[("a", 8), ("b", 4), ("c", 4)]);
    scene.watch.list(&["a".to_owned(), "b".to_owned(), "c".to_owned()].into());
    scene.wipe();
    for pod in ["a", "b", "c"] {
        scene.sync(pod, 1, 2, 0);
    }
    let actions = scene.after(0.25);
    let [Action::Open { missing, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let withheld: Vec<_> = missing.iter().map(|m| (m.quarantine.slots, m.quarantine.seconds)).collect();
    assert_eq!(withheld, [(4, 330)], "{missing:?}");
    // What it re-asserts is its own, and counted already.
    scene.sync("c", 1, 3, 3);
    let actions = scene.after(0.25);
    let [Action::Open { missing, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(missing.iter().map(|m| m.quarantine.slots).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_process_that_a_newer_one_of_its_pod_replaced_is_withheld_too() {
    let mut scene = Scene::open();
    scene.ledger.view = None;
    let init = scene.after(0.25);
    scene.perform(&init, "t2");
    scene.sync("a", 2, 1, 0);
    scene.sync("b", 1, 2, 0);
    scene.look();
    let actions = scene.after(7.0);
    let Some(Action::Open { missing, .. }) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].quarantine.seconds, 330, "{missing:?}");
}

#[test]
fn a_stale_copy_does_not_bring_back_who_was_seen_to_leave() {
    let mut scene = Scene::open();
    let stale = scene.ledger.view.clone();
    scene.ledger.leave("t1", "a.1", 9);
    scene.policy(&[("b", 8)]);
    assert_eq!(scene.after(1.0), []);
    scene.ledger.view = stale;
    scene.ledger.node_fence = "restarted".into();
    let init = scene.after(1.0);
    scene.perform(&init, "t2");
    scene.sync("b", 1, 5, 1);
    scene.look();
    let actions = scene.after(7.1);
    assert!(matches!(&actions[0], Action::Open { missing, .. } if missing.is_empty()), "{actions:?}");
    // A leader without history cannot know and withholds.
    let mut fresh = Watch::default();
    let mut copy = scene.ledger.snapshot();
    copy.node_fence = "elsewhere".into();
    fresh.observe(&copy, scene.now);
    assert_eq!(fresh.seen.len(), 1);
}

#[test]
fn the_ledger_opens_as_soon_as_everyone_on_the_roll_has_answered() {
    let mut scene = Scene::led();
    scene.wipe();
    scene.sync("a", 1, 2, 5);
    assert_eq!(scene.after(0.25), [], "b has not answered");
    scene.sync("b", 1, 2, 8);
    let actions = scene.after(0.25);
    assert!(matches!(actions.as_slice(), [Action::Open { missing, .. }] if missing.is_empty()), "{actions:?}");
    scene.perform(&actions, "");
    assert_eq!(scene.after(0.25), []);
    // And again.
    scene.wipe();
    scene.sync("a", 1, 9, 5);
    scene.sync("b", 1, 9, 5);
    assert!(matches!(scene.look().as_slice(), [Action::Open { .. }]));
}

#[test]
fn a_pod_that_does_not_answer_makes_the_roll_call_wait_unless_its_end_is_proven() {
    let answers = |prepare: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::led();
        scene.wipe();
        scene.sync("b", 1, 2, 8);
        prepare(&mut scene);
        scene.after(0.25)
    };
    assert_eq!(answers(&|_| ()), []);
    let listed = |scene: &mut Scene| scene.watch.list(&["b".to_owned()].into());
    assert_eq!(answers(&listed), [], "a pod that vanished proves nothing");
    let dead = answers(&|scene| assert!(scene.evidence.dead.insert("a".into())));
    let [Action::Open { missing, .. }] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!((missing[0].quarantine.slots, missing[0].quarantine.seconds), (8, 330), "{missing:?}");
    let replaced = answers(&|scene| scene.sync("a", 2, 1, 0));
    let [Action::Open { missing, .. }] = replaced.as_slice() else { panic!("{replaced:?}") };
    assert_eq!((missing[0].quarantine.slots, missing[0].quarantine.seconds), (8, 330), "{missing:?}");
    // Generations begin anew with the ledger, but who was seen to end is no heir.
    let mut scene = Scene::led();
    scene.sync("a", 2, 1, 0);
    scene.look();
    scene.wipe();
    scene.sync("b", 1, 2, 8);
    scene.sync_as("a", "a.1", 1, 7, 0);
    assert_eq!(scene.after(0.25), []);
    scene.sync_as("a", "a.new", 1, 1, 0);
    assert!(matches!(scene.after(0.25).as_slice(), [Action::Open { .. }]));
}

#[test]
fn a_pod_without_a_holder_is_on_the_roll_by_its_share_or_by_the_list() {
    // A third pod was given a share that it may have used and lost between two looks.
    let mut scene = Scene::led();
    scene.policy(&[("a", 6), ("b", 5), ("c", 5)]);
    scene.wipe();
    scene.sync("a", 1, 2, 5);
    scene.sync("b", 1, 2, 5);
    assert_eq!(scene.after(0.25), []);
    let actions = scene.after(7.0);
    let Some(Action::Open { missing, .. }) = actions.first() else { panic!("{actions:?}") };
    assert_eq!((missing.len(), &*missing[0].inc), (1, ""));
    assert_eq!((missing[0].quarantine.slots, missing[0].quarantine.seconds), (5, 330));
    scene.evidence.never_started.insert("c".into());
    let actions = scene.look();
    assert!(matches!(&actions[0], Action::Open { missing, .. } if missing.is_empty()), "{actions:?}");
    // One that is listed and has no share yet holds nothing, but may be one that we do not know.
    let mut scene = Scene::led();
    scene.watch.list(&["a".to_owned(), "b".to_owned(), "d".to_owned()].into());
    scene.wipe();
    scene.sync("a", 1, 2, 5);
    scene.sync("b", 1, 2, 5);
    assert_eq!(scene.after(0.25), []);
    scene.sync("d", 1, 1, 0);
    assert!(matches!(scene.after(0.25).as_slice(), [Action::Open { .. }]));
}

#[test]
fn a_leader_without_history_or_with_a_gap_in_it_waits_the_full_time() {
    let recover = |scene: &mut Scene| {
        scene.wipe();
        scene.sync("a", 1, 2, 5);
        scene.sync("b", 1, 2, 5);
        scene.after(0.25)
    };
    let mut scene = Scene::open();
    scene.watch.list(&["a".to_owned(), "b".to_owned()].into());
    assert_eq!(recover(&mut scene), [], "it never saw its own policy in force");
    let mut scene = Scene::led();
    scene.now = scene.now + Duration::from_secs(5);
    assert_eq!(recover(&mut scene), [], "another may have led while it slept");
    let mut scene = Scene::led();
    for _ in 0..5 {
        scene.now = scene.now + Duration::from_secs(1);
        scene.watch.unanswered(scene.now);
    }
    assert!(matches!(recover(&mut scene).as_slice(), [Action::Open { .. }]), "it was awake, Redis was not");
}
