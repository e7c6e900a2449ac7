//! The controller: it looks at the ledger in each tick and does what the production [`Watch`] says; it writes policies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mailrelay::lease::{Action, BootTime, InitRequest, OldPrimary, OpenRequest, Policy, Watch};

use crate::{
    config::{ABSENT, GRACE, Scenario, TICK, Variant, timing},
    start::uid,
    state::{Leader, Recovery, Shared, State},
};

impl Leader {
    pub fn new(epoch: u64, plan: usize) -> Self {
        Self { epoch, revision: 1, plan, watch: Watch::default(), pending: Vec::new() }
    }

    pub fn policy(&self, scenario: &Scenario) -> Policy {
        let shares = scenario.plans[self.plan];
        let named = shares.iter().enumerate().filter(|(_, share)| **share != ABSENT);
        let entitlements: BTreeMap<String, u32> = named.map(|(pod, share)| (uid(pod), *share)).collect();
        Policy {
            epoch: self.epoch,
            revision: self.revision,
            budget: scenario.budget,
            lease: timing().lease,
            entitlements,
            servers: std::collections::BTreeSet::new(),
        }
    }
}

impl State {
    /// Every leader looks, and acts at once, or plans to when leaders are slow.
    pub fn lead(&mut self, scenario: &Scenario) {
        for leader in 0..self.leaders.len() {
            let actions = self.look(scenario, leader);
            if scenario.slow_leader {
                self.leaders[leader].edit(|leader| leader.pending = actions);
            } else {
                for action in actions {
                    self.act(scenario, leader, action);
                }
            }
        }
    }

    fn look(&mut self, scenario: &Scenario, leader: usize) -> Vec<Action> {
        let clock = self.clock();
        let Some(mut snapshot) = self.redis.ledger().map(mailrelay::lease::Ledger::snapshot) else { return Vec::new() };
        if let Some(view) = snapshot.ledger.as_mut().filter(|_| scenario.variant == Variant::NoVersion) {
            Arc::make_mut(view).version = 0;
        }
        let evidence = self.evidence();
        let pods = (0..self.pods.len()).filter(|pod| !self.pods[*pod].over).map(uid).collect();
        let wait = if scenario.variant == Variant::EarlyInit { 0 } else { scenario.old_primary };
        let old_primary = OldPrimary::StopsWithin(TICK * u32::try_from(wait).expect("few ticks"));
        self.leaders[leader].edit(|leader| {
            leader.watch.list(&pods);
            leader.watch.observe(&snapshot, clock);
            leader.watch.actions(clock, &timing(), scenario.session_timeout(), true, old_primary, &evidence)
        })
    }

    pub fn act(&mut self, scenario: &Scenario, leader: usize, action: Action) {
        let primary = self.redis.nodes.len() - 1;
        let policy = self.leaders[leader].policy(scenario);
        let epoch = policy.epoch;
        // In whole seconds, rounded up, as the store writes them.
        let seconds = |hold: Duration| hold.as_secs() + u64::from(hold.subsec_nanos() > 0);
        let vouched = self.pods.iter().all(|pod| pod.cut.is_none());
        let most = match (scenario.variant, &action) {
            (Variant::FreedAtOnce, _) => Duration::ZERO,
            (Variant::StatusIsProof, Action::ReapDead { .. }) => GRACE,
            (Variant::NodeIsProof, Action::Reap { .. }) if vouched => GRACE,
            _ => Duration::MAX,
        };
        let hold = |quarantine: Duration| seconds(quarantine.min(most));
        match action {
            Action::Condemn { version } => {
                self.on_ledger(scenario, primary, |ledger, _| ledger.condemn(version));
            }
            Action::Init { fence, quarantine, version } => {
                self.redis.edit(|redis| redis.tokens += 1);
                let token = format!("token-{}", self.redis.tokens);
                let request = InitRequest { fence, token, policy, quarantine, version };
                self.tell(leader, |leader, clock| leader.watch.sent(epoch, &request.policy.entitlements, clock));
                self.on_ledger(scenario, primary, |ledger, _| ledger.init(&request));
                self.tell(leader, |leader, _| leader.watch.answered());
                self.recovery = Recovery::Begun;
            }
            Action::Open { token, mut missing } => {
                if scenario.variant == Variant::NoQuarantineAtOpen {
                    missing.clear();
                }
                let request = OpenRequest { epoch, token, missing };
                self.tell(leader, |leader, clock| leader.watch.opening(clock));
                self.on_ledger(scenario, primary, |ledger, _| ledger.open(&request));
                self.tell(leader, |leader, _| leader.watch.answered());
            }
            Action::Reap { token, inc, seq, quarantine } => {
                let seconds = hold(quarantine);
                self.on_ledger(scenario, primary, |l, _| l.reap(&token, &inc, Some(seq), seconds, "silent"));
            }
            Action::ReapDead { token, inc, quarantine } => {
                let seconds = hold(quarantine);
                self.on_ledger(scenario, primary, |l, _| l.reap(&token, &inc, None, seconds, "dead"));
            }
            Action::Clear { token, ids } => {
                self.on_ledger(scenario, primary, |ledger, _| ledger.clear(&token, &ids));
            }
        }
    }

    fn tell<R>(&mut self, leader: usize, what: impl FnOnce(&mut Leader, BootTime) -> R) -> R {
        let clock = self.clock();
        self.leaders[leader].edit(|leader| what(leader, clock))
    }

    /// The newest leader writes the next policy.
    pub fn plan(&mut self, scenario: &Scenario) {
        let newest = self.leaders.len() - 1;
        self.leaders[newest].edit(|leader| {
            leader.plan += 1;
            leader.revision += 1;
        });
        self.write(scenario);
    }

    /// The newest leader writes its policy.
    fn write(&mut self, scenario: &Scenario) {
        let newest = self.leaders.len() - 1;
        let policy = self.leaders[newest].policy(scenario);
        if scenario.variant != Variant::SentSharesForgotten {
            self.tell(newest, |leader, clock| leader.watch.sent(policy.epoch, &policy.entitlements, clock));
        }
        let primary = self.redis.nodes.len() - 1;
        self.on_ledger(scenario, primary, |ledger, _| ledger.policy(&policy));
        self.tell(newest, |leader, _| leader.watch.answered());
    }

    /// Another one leads from now on; the one before is dead, or goes `beside` it and does not know.
    pub fn new_leader(&mut self, scenario: &Scenario, beside: bool) {
        let left = if beside { &mut self.left.second_leader } else { &mut self.left.new_leader };
        *left -= 1;
        let before = self.leaders.last().expect("one leads always");
        let mut leader = Leader::new(before.epoch + 1, before.plan);
        if scenario.variant != Variant::NoMirror {
            leader.watch.restore(&before.watch.mirror(self.clock(), &timing()), self.clock());
        }
        if !beside {
            self.leaders.clear();
        }
        self.leaders.push(Shared::new(leader));
        self.write(scenario);
    }
}
