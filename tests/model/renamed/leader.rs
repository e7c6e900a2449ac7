//! The leader of the world with two pools: it looks at both in each tick and does what production says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mailrelay::{
    api::MailRelay,
    controller::{Known, Plan, PoolPlan, RelayKey, RelayPlan, Standing, stand},
    lease::{
        Action, BootTime, Evidence, InitRequest, LedgerState, LedgerView, MirroredQuarantine, OldPrimary, OpenRequest,
        Policy, Quarantine, Watch,
    },
};
use serde_json::json;

use super::{BUDGET, NAMES, PODS, Pool, Renamed, SESSION_TIMEOUT, State};
use crate::{config::timing, start::uid, state::Shared};

impl State {
    /// The leader's turn: how the pools stand, then each in turn.
    pub fn lead(&mut self, variant: Renamed) {
        let plan = plan(NAMES[usize::from(self.renamed)]);
        let known = |(pool, name): (&Shared<Pool>, &str)| Some((name.to_owned(), pool.known(self.clock())?));
        let known: BTreeMap<String, Known> = self.pools.iter().zip(NAMES).filter_map(known).collect();
        let mut standings = stand(&plan, &known);
        for (index, name) in NAMES.into_iter().enumerate() {
            let mut standing = standings.remove(name).unwrap_or_default();
            match variant {
                Renamed::Correct => {}
                Renamed::OpenedBeside => standing = Standing { servers: standing.servers, ..Standing::default() },
                Renamed::NothingInherited => standing.inherits.clear(),
            }
            self.drive(index, plan.pools.get(name).map(|pool| &**pool), &standing);
        }
    }

    fn drive(&mut self, pool: usize, plan: Option<&PoolPlan>, standing: &Standing) {
        let clock = self.clock();
        self.pools[pool].edit(|it| {
            if it.ledger.view.is_none() && plan.is_none() {
                return;
            }
            // Versions do not matter where no copy comes back.
            it.ledger.view.iter_mut().for_each(|view| view.version = 0);
            it.ledger.twin = it.ledger.twin.map(|_| 0);
            it.watch.list(&(0..PODS).map(uid).collect());
            it.watch.observe(&it.ledger.snapshot(), clock);
            // What others hear of it is of one look: who holds slots, and what is withheld.
            it.held = it.ledger.view.as_ref().filter(|view| view.state == LedgerState::Open).map(held);
            let policy = policy(plan, standing, it.ledger.view.as_ref());
            if let Some(view) = &it.ledger.view {
                it.fresh &= view.state != LedgerState::Open;
                if plan.is_none() && is_unused(view, standing.carried) {
                    (it.ledger.view, it.watch) = (None, Watch::default());
                    return;
                }
                if view.entitlements != policy.entitlements || view.servers != policy.servers {
                    it.watch.sent(1, &policy.entitlements, clock);
                    it.ledger.policy(&policy);
                    it.watch.answered();
                }
            }
            let old_primary = OldPrimary::StopsWithin(Duration::ZERO);
            let actions =
                it.watch.actions(clock, &timing(), SESSION_TIMEOUT, !it.fresh, old_primary, &Evidence::default());
            for action in actions {
                it.act(action, &policy, standing);
            }
        });
    }
}

impl Pool {
    fn known(&self, now: BootTime) -> Option<Known> {
        self.ledger.view.as_ref()?;
        let entry = |entry: &MirroredQuarantine| {
            let entry = entry.entry.clone();
            Quarantine { id: entry.id, slots: entry.slots, seconds: entry.seconds, why: entry.why }
        };
        let quarantine = self.watch.mirror(now, &timing()).quarantine.iter().map(entry).collect();
        Some(Known { servers: Some(self.watch.servers().clone()), held: self.held.clone(), quarantine })
    }

    fn act(&mut self, action: Action, policy: &Policy, standing: &Standing) {
        let hold = |hold: Duration| hold.as_secs() + u64::from(hold.subsec_nanos() > 0);
        match action {
            // What its servers still count is in the ledger of before.
            Action::Init { .. } if self.fresh && !standing.waits_for.is_empty() => {}
            Action::Init { fence, mut quarantine, version } => {
                quarantine.extend(standing.inherits.iter().cloned());
                let token = format!("token-{fence}");
                self.ledger.init(&InitRequest { fence, token, policy: policy.clone(), quarantine, version });
            }
            Action::Open { token, missing } => {
                self.ledger.open(&OpenRequest { epoch: 1, token, missing });
            }
            Action::Reap { token, inc, seq, quarantine } => {
                self.ledger.reap(&token, &inc, Some(seq), hold(quarantine), "silent");
            }
            Action::Clear { token, ids } => {
                self.ledger.clear(&token, &ids);
            }
            Action::Condemn { .. } | Action::ReapDead { .. } => unreachable!("nothing is lost and no pod is over"),
        }
        self.ledger.told.clear();
    }
}

/// As production writes it: a pool that is not planned grants nothing, nor does one to pods that wait.
fn policy(plan: Option<&PoolPlan>, standing: &Standing, view: Option<&LedgerView>) -> Policy {
    let share = |pod: &String| (pod.clone(), if standing.waiting.contains(pod) { 0 } else { BUDGET });
    Policy {
        epoch: 1,
        revision: view.map_or(1, |view| view.revision),
        budget: BUDGET,
        lease: timing().lease,
        entitlements: plan.map(|plan| plan.members.iter().map(share).collect()).unwrap_or_default(),
        servers: standing.servers.clone(),
    }
}

fn held(view: &LedgerView) -> BTreeSet<String> {
    let holders = view.holders.iter().filter(|holder| holder.claim > 0).map(|holder| &holder.pod_uid);
    let entitled = view.entitlements.iter().filter(|(_, share)| **share > 0).map(|(pod, _)| pod);
    holders.chain(entitled).cloned().collect()
}

fn is_unused(view: &LedgerView, carried: bool) -> bool {
    let is_empty = view.holders.is_empty() && view.entitlements.is_empty();
    view.state == LedgerState::Open && is_empty && (carried || view.quarantine.is_empty())
}

/// One relay with one server, whose budget has this name.
fn plan(budget: &str) -> Plan {
    let relay: MailRelay = serde_json::from_value(json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": { "name": "r", "namespace": "mail", "uid": "r" },
        "spec": {
            "servers": [{ "name": "s", "host": "mx", "port": 25, "budgetName": budget }],
            "queue": { "name": "q", "deadLetterName": "d" },
        },
    }))
    .expect("a relay");
    let members: BTreeSet<String> = (0..PODS).map(uid).collect();
    let key = RelayKey::of(&relay);
    let server = relay.spec.servers[0].inline().expect("a server of its own");
    let pool = PoolPlan {
        budget: BUDGET,
        members: members.clone(),
        relays: BTreeMap::new(),
        weights: None,
        session_timeout: server.session_timeout,
        close_grace: server.close_grace,
        rate_limits: Vec::new(),
        servers: BTreeSet::from([server.address(), format!("relay:{key}/s")]),
    };
    let spec = serde_json::to_value(&relay.spec).expect("JSON");
    let published = serde_json::from_value(spec).expect("a spec whose servers are its own is resolved");
    let relay = RelayPlan {
        uid: "r".to_owned(),
        generation: 1,
        selector: String::new(),
        stalled: None,
        workers: members.into_iter().map(|uid| (uid.clone(), uid)).collect(),
        selects_any: true,
        pools: BTreeSet::from([budget.to_owned()]),
        shared: None,
        lacking: BTreeMap::new(),
        relay: Arc::new(relay),
        published,
    };
    Plan {
        relays: BTreeMap::from([(key, relay)]),
        pools: BTreeMap::from([(budget.to_owned(), Arc::new(pool))]),
        ..Plan::default()
    }
}
