//! How a run begins, and how a worker does.

use std::collections::{BTreeMap, BTreeSet};

use mailrelay::lease::{Holder, Identity, InitRequest, Ledger, OpenRequest, ProcessId};

use crate::{
    config::{Scenario, Variant, timing},
    kernel::{Connection, Kernel},
    state::{Leader, Pod, Process, Recovery, Redis, Shared, State, moment},
};

/// The UID of a pod.
pub fn uid(pod: usize) -> String {
    format!("pod-{pod}")
}

/// The boot id of a pod's node.
pub fn boot_id(pod: usize, boot: u8) -> String {
    format!("node-{pod}.{boot}")
}

fn process(scenario: &Scenario, pod: usize, run: u8, boot: u8, node: usize, now: u64) -> Process {
    let identity = Identity {
        pod_uid: uid(pod),
        pod: uid(pod),
        namespace: "model".to_owned(),
        process: ProcessId::parse(&format!("{pod:016x}{run:016x}")).expect("32 digits"),
        boot_id: boot_id(pod, boot),
    };
    let holder = Holder::new(identity, timing(), scenario.holds().close_grace, scenario.holds().session_timeout);
    Process {
        run,
        era: 0,
        holder,
        paused: false,
        frozen: false,
        node,
        flight: None,
        sent: (now, 0),
        closing: false,
        failed: false,
        sockets: BTreeMap::new(),
    }
}

/// The supervisor starts the worker again; it looks for sockets that its predecessor left in the kernel (R5a).
pub fn restart(state: &mut State, scenario: &Scenario, pod: usize) {
    let (boot, run) = (state.pods[pod].boot, state.pods[pod].runs);
    let mut process = process(scenario, pod, run, boot, state.redis.nodes.len() - 1, state.now);
    let table = &state.pods[pod].table;
    let left_over = |c: &&Connection| table.contains(&c.key()) && usize::from(c.pod) == pod && c.kernel == Kernel::FinWait1;
    let inherited = u32::try_from(state.connections.iter().filter(left_over).count()).expect("few sessions");
    if inherited > 0 && scenario.variant != Variant::FreedAtOnce {
        process.holder.inherit(inherited, "inherited", scenario.holds().session_timeout, state.clock());
    }
    state.pods[pod].edit(|pod| {
        pod.runs += 1;
        pod.process = Some(process);
    });
}

/// A worker that left the ledger joins it again.
pub fn rejoin(state: &mut State, scenario: &Scenario, pod: usize) {
    let (boot, now) = (state.pods[pod].boot, state.now);
    state.process(pod, |old| {
        let mut process = process(scenario, pod, old.run, boot, old.node, now);
        process.era = old.era + 1;
        *old = process;
    });
}

/// An open ledger that knows every pod, each with its share granted and no session open.
pub fn first(scenario: &Scenario) -> State {
    let mut leader = Leader::new(1, 0);
    leader.watch.sent(1, &leader.policy(scenario).entitlements, moment(0));
    leader.watch.answered();
    let mut ledger = Ledger::new("run-0");
    let (token, policy) = ("token-0".to_owned(), leader.policy(scenario));
    ledger.init(&InitRequest { fence: "run-0".to_owned(), token: token.clone(), policy, quarantine: Vec::new() });
    ledger.open(&OpenRequest { epoch: 1, token, missing: Vec::new() });
    ledger.told.clear();
    let pods = (0..scenario.pods()).map(|pod| Pod {
        process: Some(process(scenario, pod, 0, 0, 0, 0)),
        runs: 1,
        boot: 0,
        cut: None,
        renewed: BTreeMap::from([(0, 0)]),
        over: None,
        table: BTreeSet::new(),
    });
    let redis = Redis { nodes: vec![Some(ledger)], old_ends: None, copy: None, touched: BTreeMap::new(), tokens: 0 };
    let mut state = State {
        now: 0,
        pods: pods.map(Shared::new).collect(),
        net: Vec::new(),
        redis: Shared::new(redis),
        leaders: vec![Shared::new(leader)],
        connections: Vec::new(),
        left: scenario.faults,
        recovery: Recovery::Never,
    };
    if scenario.unseen {
        state.lead(scenario);
    }
    for pod in 0..scenario.pods() {
        // The token, the pod's last generation, the registration.
        for _ in 0..3 {
            state.sync(scenario, pod);
        }
    }
    if !scenario.unseen {
        state.lead(scenario);
    }
    if scenario.faults.rollback + scenario.faults.restore > 0 {
        state.redis.edit(|redis| redis.copy = redis.ledger().and_then(|ledger| ledger.view.clone()));
    }
    state
}
