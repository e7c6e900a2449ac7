//! The controller's figures. Durations are in seconds.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{drive::ApplyError, world::World};
use crate::{
    lease::{LedgerState, LedgerView},
    queue::Recovery,
    telemetry::metrics::{ByDecision, ByKind, ByPool},
};

/// Which state of slots, of which pool.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct BySlots {
    /// The pool.
    pub pool: String,
    /// `budget`, `claimed`, `open`, `busy`, `quarantined`.
    pub state: &'static str,
}

/// Everything the controller counts and measures. Clones share the figures.
#[derive(Clone)]
pub struct ControllerMetrics {
    leading: Gauge,
    epoch: Gauge,
    relays: Family<ByKind, Gauge>,
    slots: Family<BySlots, Gauge>,
    recovering: Family<ByPool, Gauge>,
    store_available: Gauge,
    turn: Histogram,
    recovered: Family<ByDecision, Counter>,
    letters_expired: Counter,
    status_writes: Counter,
    refused_writes: Family<ByKind, Counter>,
}

impl ControllerMetrics {
    /// Registers all of them under `mailrelay_controller_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            leading: Gauge::default(),
            epoch: Gauge::default(),
            relays: Family::default(),
            slots: Family::default(),
            recovering: Family::default(),
            store_available: Gauge::default(),
            turn: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]),
            recovered: Family::default(),
            letters_expired: Counter::default(),
            status_writes: Counter::default(),
            refused_writes: Family::default(),
        };
        let all = registry.sub_registry_with_prefix("mailrelay_controller");
        let m = &metrics;
        all.register("leading", "Whether this replica leads: 1 or 0", m.leading.clone());
        all.register("epoch", "The epoch of this leadership", m.epoch.clone());
        all.register("relays", "Relays by state: working, stalled", m.relays.clone());
        all.register("slots", "Slots of each budget by state", m.slots.clone());
        all.register("recovering", "Whether a budget's ledger is in recovery: 1 or 0", m.recovering.clone());
        all.register("store_available", "Whether Redis can be used: 1 or 0", m.store_available.clone());
        all.register_with_unit("turn_duration", "One turn over all ledgers", Unit::Seconds, m.turn.clone());
        all.register("recovered", "Mail of dead workers, by its stage and what became of it", m.recovered.clone());
        let letters = "Dead letters that were discarded since their retention was over";
        all.register("dead_letters_expired", letters, m.letters_expired.clone());
        all.register("status_writes", "Statuses written", m.status_writes.clone());
        let refused =
            "Writes to Redis that were refused since a later leader had written, by kind: policy, init, open, record";
        all.register("refused_writes", refused, m.refused_writes.clone());
        metrics
    }

    /// A write failed; counts it if it was refused to a leader that was replaced. The process ends soon after, so that the
    /// ledger's log says the same for longer.
    pub fn refused(&self, error: &ApplyError) {
        if let ApplyError::Deposed(deposed) = error
            && let Some(kind) = deposed.refused
        {
            self.refused_writes.get_or_create(&ByKind { kind }).inc();
        }
    }

    /// This replica leads.
    pub fn lead(&self, epoch: u64) {
        self.leading.set(1);
        self.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
    }

    /// A turn is over.
    pub fn turn(&self, duration: Duration, world: &World) {
        self.turn.observe(duration.as_secs_f64());
        self.store_available.set(i64::from(world.store_problem.is_none()));
        let stalled = world.plan.relays.values().filter(|relay| relay.stalled.is_some()).count();
        let working = world.plan.relays.len() - stalled;
        for (kind, count) in [("working", working), ("stalled", stalled)] {
            self.relays.get_or_create(&ByKind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A pool was looked at.
    pub fn pool(&self, pool: &str, ledger: &LedgerView) {
        let sum = |of: fn(&crate::lease::HolderView) -> u32| ledger.holders.iter().map(of).sum();
        let figures: [(&'static str, u32); 5] = [
            ("budget", ledger.budget),
            ("claimed", LedgerView::claimed(ledger)),
            ("open", sum(|holder| holder.open)),
            ("busy", sum(|holder| holder.busy)),
            ("quarantined", ledger.quarantined()),
        ];
        for (state, slots) in figures {
            self.slots.get_or_create(&BySlots { pool: pool.to_owned(), state }).set(i64::from(slots));
        }
        let recovering = ledger.state == LedgerState::Rec;
        self.recovering.get_or_create(&ByPool { pool: pool.to_owned() }).set(i64::from(recovering));
    }

    /// A dead worker's mail was resolved.
    pub fn recovered(&self, recovery: &Recovery) {
        for ((stage, outcome), mails) in &recovery.decisions {
            self.recovered.get_or_create(&ByDecision { stage: stage.as_str(), outcome }).inc_by(*mails);
        }
    }

    /// Dead letters were kept long enough.
    pub fn letters_expired(&self, letters: u64) {
        self.letters_expired.inc_by(letters);
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::drive::Deposed;

    #[test]
    fn refused_writes_are_counted_by_kind_and_a_look_that_sees_a_later_epoch_is_none() {
        let mut registry = Registry::default();
        let metrics = ControllerMetrics::register(&mut registry);
        let deposed =
            |refused| ApplyError::Deposed(Deposed { of: "the ledger of mx".into(), theirs: 2, ours: 1, refused });
        for refused in [Some("policy"), None, Some("open"), Some("policy")] {
            metrics.refused(&deposed(refused));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
        let name = "mailrelay_controller_refused_writes_total";
        assert!(text.contains(&format!("{name}{{kind=\"policy\"}} 2\n")), "{text}");
        assert!(text.contains(&format!("{name}{{kind=\"open\"}} 1\n")), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with(name)).count(), 2, "{text}");
    }
}
