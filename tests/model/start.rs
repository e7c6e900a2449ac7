//! How a run begins, and how a worker does.

use std::collections::BTreeMap;

use mailrelay::lease::{Holder, Identity, InitRequest, Ledger, Left, Numbers, OpenRequest, ProcessId};

use crate::{
    config::{Scenario, Variant, timing},
    state::{Leader, Pod, Process, Recovery, Redis, Shared, State, moment},
    table::Table,
};

/// The UID of a pod.
pub fn uid(pod: usize) -> String {
    format!("pod-{pod}")
}

/// The boot id of a pod's node.
pub fn boot_id(pod: usize, boot: u8) -> String {
    format!("node-{pod}.{boot}")
}

/// The id of a run of a pod's worker.
pub fn process_id(pod: usize, run: u8) -> ProcessId {
    ProcessId::parse(&format!("{pod:016x}{run:016x}")).expect("32 digits")
}

/// The id under which a worker's slot is withheld, by itself or by a later one.
pub fn withheld_id(pod: usize, run: u8, slot: u64) -> String {
    Left::id_of(process_id(pod, run).as_str(), slot)
}

/// Who a run of a pod's worker is.
pub fn identity(pod: usize, run: u8, boot: u8, numbers: &Numbers) -> Identity {
    Identity {
        pod_uid: uid(pod),
        pod: uid(pod),
        namespace: "model".to_owned(),
        process: process_id(pod, run),
        boot_id: boot_id(pod, boot),
        numbers: numbers.clone(),
    }
}

/// More numbers than a process draws between joining a pool and leaving it.
const MOST_DRAWN: usize = 20;

fn process(scenario: &Scenario, pod: usize, run: u8, boot: u8, node: usize, now: u64, numbers: &Numbers) -> Process {
    let identity = identity(pod, run, boot, numbers);
    let holder = Holder::new(identity, timing(), scenario.session_timeout());
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

/// The supervisor starts the worker again; it is told what the ones before left (R5a).
pub fn restart(state: &mut State, scenario: &Scenario, pod: usize) {
    let (boot, run) = (state.pods[pod].boot, state.pods[pod].runs);
    let mut process = process(scenario, pod, run, boot, state.redis.nodes.len() - 1, state.now, &Numbers::default());
    let clock = state.clock();
    state.pods[pod].edit(|it| {
        process.holder.inherit(it.table.inheritance(scenario, pod, run, clock), clock);
        it.table.begin(run);
        it.runs += 1;
        it.process = Some(process);
    });
}

/// A worker that left the ledger joins it again. Numbers never repeat in a process: they go on from above whatever was
/// drawn before.
pub fn rejoin(state: &mut State, scenario: &Scenario, pod: usize) {
    let (boot, now) = (state.pods[pod].boot, state.now);
    state.process(pod, |old| {
        let numbers = Numbers::default();
        let drawn = if scenario.variant == Variant::NumbersRepeat { 0 } else { MOST_DRAWN };
        for _ in 0..drawn {
            process(scenario, pod, old.run, boot, old.node, now, &numbers);
        }
        let mut process = process(scenario, pod, old.run, boot, old.node, now, &numbers);
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
    ledger.init(&InitRequest {
        fence: "run-0".to_owned(),
        token: token.clone(),
        policy,
        quarantine: Vec::new(),
        version: 0,
    });
    ledger.open(&OpenRequest { epoch: 1, token, missing: Vec::new() });
    ledger.told.clear();
    if !scenario.versions() {
        ledger.view.iter_mut().for_each(|view| view.version = 0);
        ledger.twin = Some(0);
    }
    let pods = (0..scenario.pods()).map(|pod| {
        let mut table = Table::default();
        table.begin(0);
        let process = process(scenario, pod, 0, 0, 0, 0, &Numbers::default());
        Pod { process: Some(process), runs: 1, boot: 0, cut: None, over: false, table }
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
    if scenario.late_registration {
        leave_late_registration(&mut state, scenario);
    }
    if !scenario.unseen {
        state.lead(scenario);
    }
    if scenario.faults.rollback + scenario.faults.restore > 0 {
        state.redis.edit(|redis| redis.copy = redis.ledger().and_then(|ledger| ledger.view.clone()));
    }
    state
}

/// The first pod's worker dies, and so does the one after it while its registration is on its way. Both are taken off the
/// ledger, and the next policy does not name the pod.
fn leave_late_registration(state: &mut State, scenario: &Scenario) {
    state.kill(scenario, 0);
    restart(state, scenario, 0);
    // The token, and the pod's last generation.
    (0..2).for_each(|_| state.sync(scenario, 0));
    state.send(0);
    state.kill(scenario, 0);
    state.on_ledger(scenario, 0, |ledger, _| {
        let Some(view) = &ledger.view else { return };
        let (token, own) = (view.token.clone(), uid(0));
        let incs: Vec<String> = view.holders_of(&own).map(|holder| holder.inc.clone()).collect();
        for inc in incs {
            ledger.reap(&token, &inc, None, 0, "dead");
        }
    });
    state.plan(scenario);
}
