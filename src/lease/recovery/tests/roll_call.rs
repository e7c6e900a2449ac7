//! Who comes back to a new ledger, and who does not.

use super::*;

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
