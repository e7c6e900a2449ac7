//! A new leader that knows the pool only from what the one before wrote down.

use super::*;

impl Scene {
    fn mirror(&self) -> Mirror {
        self.watch.mirror(self.now, &self.timing)
    }

    /// Ledger and leader are lost; the next leader has `mirror`. It has begun recovery.
    fn succeed(&mut self, mirror: &Mirror) {
        self.watch = Watch::default();
        self.watch.restore(mirror, self.now);
        self.watch.list(&["a".to_owned(), "b".to_owned()].into());
        self.wipe();
    }

    /// The slots that each pod is mirrored with.
    fn mirrored(&self) -> Vec<(String, u32)> {
        self.mirror().holders.iter().map(|holder| (holder.pod_uid.clone(), holder.slots())).collect()
    }
}

fn pods(of: &[(&str, u32)]) -> Vec<(String, u32)> {
    of.iter().map(|(pod, slots)| ((*pod).to_owned(), *slots)).collect()
}

fn withheld(actions: &[Action]) -> Vec<(&str, u32, u64)> {
    let Some(Action::Open { missing, .. }) = actions.first() else { panic!("{actions:?}") };
    missing.iter().map(|m| (&*m.inc, m.quarantine.slots, m.quarantine.seconds)).collect()
}

#[test]
fn quarantine_outlives_ledger_and_leader_and_is_timed_anew() {
    let mut scene = Scene::led();
    scene.evidence.dead.insert("a".into());
    scene.sync("a", 1, 2, 4);
    let reap = scene.look();
    scene.perform(&reap, "");
    assert_eq!(scene.look(), []);
    let mirror = scene.mirror();
    let [quarantine] = &mirror.quarantine[..] else { panic!("{mirror:?}") };
    assert_eq!((quarantine.entry.slots, quarantine.pod.as_deref()), (8, Some("mail/a")));
    scene.succeed(&mirror);
    let view = scene.ledger.view.clone().expect("a ledger");
    assert_eq!((view.quarantined(), view.state), (8, LedgerState::Rec));
    assert_eq!(scene.mirror().quarantine[0].pod.as_deref(), Some("mail/a"), "still named");
    let hold = Duration::from_secs(quarantine.entry.seconds);
    assert!(scene.mirror().quarantine[0].left + Duration::from_secs(1) > hold);
    let actions = scene.after(scene.timing.quarantine_watch(hold).as_secs_f64());
    assert!(actions.iter().any(|action| matches!(action, Action::Clear { .. })), "{actions:?}");
}

#[test]
fn who_does_not_come_back_to_a_new_leader_is_withheld_with_the_larger_of_claim_and_share() {
    let mut scene = Scene::led();
    scene.sync("a", 1, 2, 3);
    scene.look();
    let mirror = scene.mirror();
    assert_eq!(mirror.holders.iter().map(MirroredHolder::slots).collect::<Vec<_>>(), [8, 8]);
    scene.succeed(&mirror);
    scene.sync("b", 1, 2, 8);
    assert_eq!(scene.after(6.0), [], "a may still run");
    assert_eq!(withheld(&scene.after(1.1)), [("a.1", 8, 330)]);
    // Without a mirror nobody would know of it: the test can fail.
    let mut scene = Scene::led();
    scene.succeed(&Mirror::default());
    scene.sync("b", 1, 2, 8);
    scene.look();
    assert_eq!(withheld(&scene.after(7.1)), []);
}

#[test]
fn an_old_mirror_never_opens_the_ledger_by_roll_call() {
    let mut scene = Scene::led();
    let old = scene.mirror();
    // Another pod came after the mirror was written. Everyone that the mirror names comes back, and it does not.
    scene.policy(&[("a", 6), ("b", 5), ("c", 5)]);
    scene.sync("c", 1, 1, 0);
    scene.look();
    scene.succeed(&old);
    scene.sync("a", 1, 2, 6);
    scene.sync("b", 1, 2, 5);
    assert_eq!(scene.after(0.25), []);
    assert_eq!(scene.after(6.5), [], "whoever holds sessions has passed its deadline before the ledger opens");
    assert!(matches!(scene.after(0.5).first(), Some(Action::Open { .. })));
}

#[test]
fn a_share_without_a_holder_is_withheld_unless_its_pod_comes_back_or_never_started() {
    let missing = |prepare: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::led();
        scene.policy(&[("a", 6), ("b", 5), ("c", 5)]);
        scene.look();
        let mirror = scene.mirror();
        assert!(mirror.holders.iter().any(|h| (&*h.pod_uid, h.share, &h.incarnation) == ("c", 5, &None)));
        scene.succeed(&mirror);
        scene.sync("a", 1, 2, 0);
        scene.sync("b", 1, 2, 0);
        prepare(&mut scene);
        scene.look();
        let actions = scene.after(7.1);
        withheld(&actions).iter().map(|(_, slots, seconds)| (*slots, *seconds)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&|_| ()), [(5, 330)]);
    assert_eq!(missing(&|scene| scene.sync("c", 1, 1, 0)), []);
    assert_eq!(missing(&|scene| assert!(scene.evidence.never_started.insert("c".into()))), []);
}

#[test]
fn nothing_that_is_known_of_a_mirrored_holder_s_end_makes_its_quarantine_shorter() {
    let hold = |prepare: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::led();
        let mirror = scene.mirror();
        scene.succeed(&mirror);
        scene.sync("b", 1, 2, 8);
        prepare(&mut scene);
        scene.look();
        withheld(&scene.after(7.1))[0].2
    };
    assert_eq!(hold(&|_| ()), 330);
    assert_eq!(hold(&|scene| assert!(scene.evidence.dead.insert("a".into()))), 330);
    assert_eq!(hold(&|scene| scene.sync("a", 2, 1, 0)), 330);
}

#[test]
fn what_an_open_ledger_does_not_name_is_over_and_mirrored_no_more() {
    let mut scene = Scene::led();
    let mirror = scene.mirror();
    scene.ledger.leave("t1", "a.1", 9);
    scene.policy(&[("b", 8)]);
    scene.watch = Watch::default();
    scene.watch.restore(&mirror, scene.now);
    assert_eq!(scene.mirrored(), pods(&[("a", 8), ("b", 8)]), "before its first look");
    assert_eq!(scene.look(), []);
    assert_eq!(scene.mirrored(), pods(&[("b", 8)]));
}

#[test]
fn a_leader_that_dies_in_recovery_hands_on_who_has_not_come_back() {
    let mut scene = Scene::led();
    let mirror = scene.mirror();
    scene.succeed(&mirror);
    scene.sync("b", 1, 2, 8);
    scene.look();
    assert_eq!(scene.mirrored(), pods(&[("a", 8), ("b", 8)]), "in recovery");
    let handed_on = scene.mirror();
    // The ledger stays; the third leader finds it in recovery.
    scene.watch = Watch::default();
    scene.watch.restore(&handed_on, scene.now);
    scene.watch.list(&["a".to_owned(), "b".to_owned()].into());
    assert_eq!(scene.look(), []);
    assert_eq!(withheld(&scene.after(7.1)), [("a.1", 8, 330)]);
}

#[test]
fn a_mirror_is_kept_while_redis_is_away() {
    let mut scene = Scene::led();
    let mirror = scene.mirror();
    scene.watch = Watch::default();
    scene.watch.restore(&mirror, scene.now);
    scene.watch.unanswered(scene.now + Duration::from_secs(60));
    assert_eq!(scene.mirrored(), pods(&[("a", 8), ("b", 8)]));
}

#[test]
fn slots_that_no_mirror_had_room_for_are_withheld_but_for_those_that_come_back_unlisted() {
    let mut scene = Scene::led();
    let mut mirror = scene.mirror();
    let listed = mirror.holders.iter().position(|holder| holder.pod_uid == "a").expect("a is mirrored");
    mirror.holders = vec![mirror.holders.swap_remove(listed)];
    mirror.unlisted = 10;
    scene.succeed(&mirror);
    assert_eq!(scene.mirror().unlisted, 10, "handed on");
    scene.sync("a", 1, 2, 8);
    scene.sync("b", 1, 2, 7);
    scene.look();
    let actions = scene.after(7.1);
    assert_eq!(withheld(&actions), [("", 3, 330)]);
    scene.perform(&actions, "");
    scene.look();
    assert_eq!(scene.mirror().unlisted, 0, "it is in the ledger by now");
}
