//! A ledger whose twin says what it said needs no look.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// Two leaders over one ledger: one looks in every tick, the other as the controller does.
struct Pair {
    scene: Scene,
    quiet: Watch,
    /// When time alone calls for a look of the one that does not look, as its last look had it.
    due: Option<BootTime>,
    seqs: BTreeMap<&'static str, (u64, u64)>,
    rests: u32,
    acts: u32,
}

impl Pair {
    fn new() -> Self {
        let scene = Scene::led();
        let quiet = scene.watch.clone();
        let due = quiet.due(&scene.timing);
        Self { scene, quiet, due, seqs: [("a", (1, 1)), ("b", (1, 1))].into(), rests: 0, acts: 0 }
    }

    fn befall(&mut self, random: &mut StdRng) {
        let pod = if random.random() { "a" } else { "b" };
        let (generation, seq) = self.seqs[pod];
        match random.random_range(0..60) {
            0..4 => {
                self.seqs.insert(pod, (generation, seq + 1));
                self.scene.sync(pod, generation, seq + 1, random.random_range(0..9));
            }
            4 => {
                self.seqs.insert(pod, (generation + 1, 1));
                self.scene.sync(pod, generation + 1, 1, 0);
            }
            5 => {
                let token = self.scene.ledger.view.as_ref().map(|view| view.token.clone()).unwrap_or_default();
                self.scene.ledger.leave(&token, &format!("{pod}.{generation}"), seq + 1);
            }
            6 => {
                let shares = [(pod, random.random_range(0..9))];
                let entitlements = shares.iter().map(|(pod, n)| ((*pod).to_owned(), *n)).collect();
                self.quiet.sent(1, &entitlements, self.scene.now);
                self.scene.policy(&shares);
                self.quiet.answered();
            }
            7 => {
                self.scene.watch.unanswered(self.scene.now);
                self.quiet.unanswered(self.scene.now);
                self.scene.now = self.scene.now + Duration::from_secs(random.random_range(0..5));
            }
            // Nobody looks for a while.
            8 => self.scene.now = self.scene.now + Duration::from_secs(random.random_range(0..9)),
            _ => {}
        }
    }

    fn actions(&self, watch: &Watch) -> Vec<Action> {
        let Scene { now, timing, evidence, opened, old_primary, .. } = &self.scene;
        watch.actions(*now, timing, SESSION_TIMEOUT, *opened, *old_primary, evidence)
    }

    fn tick(&mut self) {
        self.scene.now = self.scene.now + Duration::from_millis(250);
        let actions = self.scene.look();
        let seen = self.quiet.view().filter(|view| view.twinned && view.state == LedgerState::Open);
        let is_same = seen.is_some_and(|view| Some(view.version) == self.scene.ledger.twin);
        if is_same && self.due.is_none_or(|due| self.scene.now < due) {
            self.quiet.unchanged(self.scene.now);
            assert_eq!(actions, [], "it would have been too late");
            self.rests += 1;
        } else {
            self.quiet.observe(&self.scene.ledger.snapshot(), self.scene.now);
            self.due = self.quiet.due(&self.scene.timing);
        }
        assert_eq!(self.actions(&self.quiet), actions);
        assert_eq!(format!("{:?}", self.quiet), format!("{:?}", self.scene.watch));
        self.acts += u32::try_from(actions.len()).expect("few");
        self.scene.perform(&actions, "t2");
    }
}

#[test]
fn a_leader_that_looks_when_the_twin_or_the_time_says_so_knows_and_does_what_one_does_that_always_looks() {
    let (mut rests, mut acts) = (0, 0);
    for seed in 0..100 {
        let (mut random, mut pair) = (StdRng::seed_from_u64(seed), Pair::new());
        for _ in 0..600 {
            pair.befall(&mut random);
            pair.tick();
        }
        (rests, acts) = (rests + pair.rests, acts + pair.acts);
    }
    assert!(rests > 30_000 && acts > 500, "{rests} rests, {acts} acts");
}
