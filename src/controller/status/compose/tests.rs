//! What a status says of a scene: one file for each of its parts.

mod queue;
mod ready;
mod servers;
mod slots;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Condition, Reason, Unavailable},
    controller::{
        fixtures,
        observe::PodFacts,
        plan::{Candidate, Lenders, Ownership, RelayKey, plan},
        status::measured::Measured,
        world::{PoolView, World},
    },
    lease::{HolderView, Incarnation, LedgerView, Mirror, MirroredHolder, MirroredQuarantine, QuarantineView},
    queue::Depths,
};

/// One relay `corporate` with one server `mx`, its pods, and a world around it.
struct Scene {
    world: World,
    measured: Measured,
    now: i64,
}

fn scene(pods: &[&str]) -> Scene {
    scene_of(&json!({ "servers": [{ "name": "primary", "host": "mx" }] }), pods)
}

fn scene_of(spec: &Value, pods: &[&str]) -> Scene {
    let relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay", "spec": spec,
        "metadata": { "name": "corporate", "namespace": "mail", "uid": "r", "generation": 3 },
    });
    let relay = Candidate::new(Arc::new(serde_json::from_value(relay).expect("a relay")), None, &Lenders::default());
    let pods: Vec<PodFacts> = pods
        .iter()
        .map(|name| PodFacts {
            uid: format!("uid-{name}"),
            name: (*name).into(),
            namespace: "mail".into(),
            labels: Arc::new(BTreeMap::from([("mailrelay.dev/relay".into(), "corporate".into())])),
            running: Arc::new(BTreeSet::from(["mailrelay".into()])),
            ..PodFacts::default()
        })
        .collect();
    let world =
        World { plan: Arc::new(plan(&[relay], &pods, &Ownership::default(), &Lenders::default())), ..World::default() };
    let measured = Measured { depths: Some(Depths::default()), ..Measured::default() };
    Scene { world, measured, now: 1_000 }
}

impl Scene {
    /// What is known of a pool.
    fn pool(&mut self, name: &str) -> &mut PoolView {
        Arc::make_mut(Arc::make_mut(&mut self.world.pools).entry(name.into()).or_default())
    }

    /// The ledger of `mx`: for each pod its share and its claim.
    fn ledger(mut self, state: LedgerState, holders: &[(&str, u32, u32)]) -> Self {
        let holder = |(pod, _, claim): &(&str, u32, u32)| HolderView {
            pod_uid: format!("uid-{pod}"),
            pod: format!("mail/{pod}"),
            claim: *claim,
            limit: *claim,
            want: 100,
            open: claim / 2,
            ..fixtures::holder(&format!("inc-{pod}"), "p", 1)
        };
        let ledger = LedgerView {
            state,
            entitlements: holders.iter().map(|(pod, share, _)| (format!("uid-{pod}"), *share)).collect(),
            ..fixtures::ledger(holders.iter().map(holder).collect())
        };
        *self.pool("mx") = PoolView { ledger: Some(ledger.into()), ..PoolView::default() };
        self
    }

    /// So many slots of `mx` are withheld.
    fn withheld(mut self, slots: u32) -> Self {
        let entry = QuarantineView { id: "w".into(), slots, seconds: 330, why: "killed".into() };
        let ledger = self.pool("mx").ledger.as_mut();
        Arc::make_mut(ledger.expect("a ledger")).quarantine.push(entry);
        self
    }

    /// What the leader knows of a pool: these holders with a share of 8 each, and 4 slots withheld that `mail/gone` held.
    fn mirror(mut self, pool: &str, pods: &[&str]) -> Self {
        let holder = |pod: &&str| MirroredHolder {
            pod_uid: format!("uid-{pod}"),
            share: 8,
            incarnation: Some(Incarnation {
                inc: format!("inc-{pod}"),
                pod: format!("mail/{pod}"),
                process: "p".into(),
                boot_id: "b".into(),
                claim: 8,
            }),
        };
        let entry = QuarantineView { id: "q".into(), slots: 4, seconds: 300, why: "silent".into() };
        let withheld = MirroredQuarantine { entry, pod: Some("mail/gone".into()), left: Duration::from_secs(300) };
        let mirror =
            Mirror { holders: pods.iter().map(holder).collect(), quarantine: vec![withheld], ..Mirror::default() };
        self.pool(pool).mirror = mirror;
        self
    }

    fn depths(mut self, depths: Depths) -> Self {
        self.measured.depths = Some(depths);
        self
    }

    fn report(mut self, pod: &str, unavailable: Option<(&str, &str)>) -> Self {
        let report = json!({
            "pod": pod, "process": "p", "version": "1",
            "servers": [{ "name": "primary", "unavailable": unavailable.map(|(reason, message)| json!({ "reason": reason, "message": message })) }],
        });
        self.measured.reports.read.insert(format!("uid-{pod}"), serde_json::from_value(report).expect("a report"));
        self
    }

    fn after(&self, old: &MailRelayStatus) -> MailRelayStatus {
        let key = RelayKey { namespace: "mail".into(), name: "corporate".into() };
        let now = Timestamp::from_second(self.now).expect("a time");
        status(&Facts::of(&self.world, &self.world.plan.relays[&key], &self.measured, old, now), old)
    }

    fn show(&self) -> MailRelayStatus {
        self.after(&MailRelayStatus::default())
    }
}

fn condition<'a>(status: &'a MailRelayStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn says(status: &MailRelayStatus, kind: &str) -> (String, String) {
    condition(status, kind).map_or_else(Default::default, |c| (c.status.clone(), c.reason.clone()))
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}
