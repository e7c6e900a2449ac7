//! How a run begins, and how a worker does.

use std::collections::BTreeMap;

use mailrelay::lease::{Holder, Identity, Inheritance, InitRequest, Ledger, Numbers, OpenRequest, ProcessId};

use crate::{
    config::{Scenario, Variant, timing},
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
        numbers: Numbers::default(),
    };
    let holder = Holder::new(identity, timing(), scenario.holds().session_timeout);
    Process {
        run,
        holder,
        paused: false,
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
    let left_over = |s: &&crate::state::Session| usize::from(s.pod) == pod && s.lost.is_some_and(|(_, b)| b == boot);
    let unproven = state.server.iter().filter(left_over).map(|s| (format!("{pod}.{}/t{}", s.run, s.slot), "inherited"));
    if scenario.variant != Variant::FreedAtOnce {
        let inheritance = Inheritance { accounts: Vec::new(), unproven: unproven.collect() };
        process.holder.inherit(inheritance, state.clock());
    }
    state.pods[pod].edit(|pod| {
        pod.runs += 1;
        pod.process = Some(process);
    });
}

/// An open ledger that knows every pod, each with its share granted and no session open.
pub fn first(scenario: &Scenario) -> State {
    let mut leader = Leader::new(1, 0);
    leader.watch.sent(1, &leader.policy(scenario).entitlements, moment(0));
    leader.watch.answered();
    let mut ledger = Ledger::new("run-0");
    let (token, policy) = ("token-0".to_owned(), leader.policy(scenario));
    ledger.init(&InitRequest {
        fence: "run-0".to_owned(),
        token: token.clone(),
        policy,
        quarantine: Vec::new(),
        version: 0,
    });
    ledger.open(&OpenRequest { epoch: 1, token, missing: Vec::new() });
    ledger.told.clear();
    let pods = (0..scenario.pods()).map(|pod| Pod {
        process: Some(process(scenario, pod, 0, 0, 0, 0)),
        runs: 1,
        boot: 0,
        cut: None,
        renewed: BTreeMap::from([(0, 0)]),
        over: None,
    });
    let redis = Redis { nodes: vec![Some(ledger)], old_ends: None, copy: None, touched: BTreeMap::new(), tokens: 0 };
    let mut state = State {
        now: 0,
        pods: pods.map(Shared::new).collect(),
        net: Vec::new(),
        redis: Shared::new(redis),
        leaders: vec![Shared::new(leader)],
        server: Vec::new(),
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
    if scenario.faults.rollback > 0 {
        state.redis.edit(|redis| redis.copy = redis.ledger().and_then(|ledger| ledger.view.clone()));
    }
    state
}
