use super::*;
use crate::lease::{Ledger, Policy, SyncRequest};

const HOLDS: Holds = Holds { close_grace: Duration::from_secs(2), session_timeout: Duration::from_secs(300) };

struct Scene {
    ledger: Ledger,
    watch: Watch,
    now: BootTime,
    timing: Timing,
    evidence: Evidence,
    opened: bool,
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
        }
    }

    fn look(&mut self) -> Vec<Action> {
        self.watch.observe(&self.ledger.snapshot(), self.now);
        self.watch.actions(self.now, &self.timing, HOLDS, self.opened, Duration::ZERO, &self.evidence)
    }

    fn after(&mut self, seconds: f64) -> Vec<Action> {
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.look()
    }

    fn perform(&mut self, actions: &[Action], token: &str) {
        for action in actions {
            match action.clone() {
                Action::Init { fence, quarantine } => {
                    let entitlements = [("a".to_owned(), 8), ("b".to_owned(), 8)].into();
                    let lease = self.timing.lease;
                    let policy = Policy { epoch: 1, revision: 1, budget: 16, lease, entitlements };
                    self.ledger.init(&crate::lease::InitRequest { fence, token: token.into(), policy, quarantine });
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
                Action::Clear { token, id } => drop(self.ledger.clear(&token, &id)),
            }
        }
    }

    fn sync(&mut self, pod: &str, generation: u64, seq: u64, need: u32) {
        let token = self.ledger.view.as_ref().expect("a ledger").token.clone();
        self.ledger.sync(&SyncRequest {
            token,
            inc: format!("{pod}.{generation}"),
            pod_uid: pod.into(),
            pod: format!("mail/{pod}"),
            process: format!("{pod}{generation}"),
            boot_id: "boot".into(),
            generation,
            seq,
            need,
            want: 16,
            open: need,
            busy: 0,
            close_grace: HOLDS.close_grace,
            session_timeout: HOLDS.session_timeout,
            quarantine: Vec::new(),
        });
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
        matches!(init.as_slice(), [Action::Init { fence, quarantine }] if fence == "node" && quarantine.is_empty())
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
    let at = |watch: &Watch, now| watch.actions(now, &Timing::default(), HOLDS, true, wait, &Evidence::default());
    assert_eq!(at(&scene.watch, scene.now + Duration::from_millis(2999)), []);
    assert_eq!(at(&scene.watch, scene.now + wait).len(), 1);
    // Another node: the time begins again.
    scene.ledger.node_fence = "other".into();
    scene.watch.observe(&scene.ledger.snapshot(), scene.now + wait);
    assert_eq!(at(&scene.watch, scene.now + wait), []);
}

#[test]
fn silence_is_timed_by_the_seq_and_a_living_neighbour_makes_the_quarantine_short() {
    let mut scene = Scene::open();
    for second in 1..=6 {
        scene.sync("b", 1, 1 + second, 0);
        assert_eq!(scene.after(1.0), []);
    }
    scene.sync("b", 1, 20, 0);
    let actions = scene.after(1.1);
    let [Action::Reap { inc, seq: 1, quarantine, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(inc, "a.1");
    assert_eq!(*quarantine, Duration::from_millis(2000 + 7100), "closeGrace and as long again as it was silent");
    scene.perform(&actions, "");
    assert_eq!(scene.look(), [], "b lives");
}

#[test]
fn a_holder_on_a_node_that_gives_no_sign_is_withheld_for_the_session_timeout() {
    let mut scene = Scene::open();
    assert_eq!(scene.after(7.5), [], "the node has time for one renewal of its Lease");
    scene.evidence.nodes.insert("another boot".into(), scene.now);
    let actions = scene.after(10.0);
    assert_eq!(actions.len(), 2);
    assert!(
        actions.iter().all(|a| matches!(a, Action::Reap { quarantine, .. } if *quarantine == HOLDS.session_timeout))
    );
    scene.evidence.nodes.insert("boot".into(), scene.now);
    let lives = scene.look();
    assert!(lives.iter().all(|a| matches!(a, Action::Reap { quarantine, .. } if *quarantine < HOLDS.session_timeout)));
}

#[test]
fn a_proven_death_needs_no_waiting_and_its_quarantine_ends_on_the_leaders_clock() {
    let mut scene = Scene::open();
    scene.evidence.dead.insert("a".into());
    let actions = scene.after(1.0);
    assert!(
        matches!(actions.as_slice(), [Action::ReapDead { quarantine, .. }] if *quarantine == Duration::from_secs(3))
    );
    scene.perform(&actions, "");
    scene.sync("b", 1, 2, 0);
    assert_eq!(scene.look(), []);
    scene.sync("b", 1, 3, 0);
    assert_eq!(scene.after(3.0), []);
    scene.sync("b", 1, 4, 0);
    let actions = scene.after(0.4);
    assert!(matches!(actions.as_slice(), [Action::Clear { .. }]), "{actions:?}");
    scene.perform(&actions, "");
    assert_eq!(scene.ledger.view.as_ref().expect("a ledger").quarantined(), 0);
}

#[test]
fn who_does_not_come_back_after_a_wipe_is_withheld_at_open() {
    let mut scene = Scene::open();
    scene.sync("a", 1, 2, 3);
    scene.look();
    // A larger share was sent and may have been used, though it never was seen in the ledger.
    scene.watch.sent(&[("a".to_owned(), 9)].into());
    scene.ledger.view = None;
    let init = scene.after(0.25);
    scene.perform(&init, "t2");
    scene.sync("b", 1, 2, 8);
    assert_eq!(scene.after(1.0), []);
    scene.sync("b", 1, 3, 8);
    let actions = scene.after(7.1);
    let [Action::Open { token, missing }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((token.as_str(), missing.len()), ("t2", 1));
    assert_eq!((missing[0].inc.as_str(), missing[0].quarantine.slots, missing[0].quarantine.seconds), ("a.1", 9, 300));
}

#[test]
fn a_pod_whose_new_process_came_back_is_withheld_only_for_the_close_grace() {
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
    assert!(missing[0].quarantine.seconds < 12, "{missing:?}");
}

#[test]
fn a_stale_copy_does_not_bring_back_who_was_seen_to_leave() {
    let mut scene = Scene::open();
    let stale = scene.ledger.view.clone();
    scene.ledger.leave("t1", "a.1", 9);
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
