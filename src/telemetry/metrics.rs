//! The metrics of a worker, in the words of the design pages. Durations are in seconds.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// From a local relay's millisecond to the ten minutes the final dot may take.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Which server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByServer {
    /// Its name in the spec.
    pub server: String,
}

/// Which budget.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByPool {
    /// Its name.
    pub pool: String,
}

/// How a mail transaction ended, at which server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByVerdict {
    /// The server's name in the spec.
    pub server: String,
    /// `delivered`, `deferred`, `retried`, `dead`, `unknown`, `aborted`.
    pub verdict: &'static str,
}

/// A kind of something.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByKind {
    /// Which kind.
    pub kind: &'static str,
}

/// What became of a mail that was in the hands of a process that ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByDecision {
    /// The stage it was at: `taken`, `claimed`, `sending`, `committing`.
    pub stage: &'static str,
    /// `requeued`, `held`, `resent`, `poison`.
    pub outcome: &'static str,
}

/// Everything that a worker counts and measures. Clones share the figures.
#[derive(Clone)]
pub struct WorkerMetrics {
    /// Mails by state: `pending`, `delayed`, `in_flight`, `held`, `dead`; as the queue in Redis has them.
    pub queue_mails: Family<ByKind, Gauge<i64, AtomicI64>>,
    /// Age of the oldest mail that waits.
    pub queue_oldest: Gauge<f64, AtomicU64>,
    /// Mails claimed by this process.
    pub claims: Counter,
    /// Mails this process has claimed and not settled.
    pub claims_open: Gauge,
    /// Mail transactions by verdict.
    pub mails: Family<ByVerdict, Counter>,
    /// From the first command of a mail transaction to its last reply.
    pub transaction: Family<ByServer, Histogram, fn() -> Histogram>,
    /// From the first claim of a mail to its delivery.
    pub latency: Histogram,
    /// Sessions open.
    pub sessions_open: Family<ByServer, Gauge>,
    /// Sessions in a mail transaction.
    pub sessions_busy: Family<ByServer, Gauge>,
    /// Sessions opened.
    pub sessions_opened: Family<ByServer, Counter>,
    /// Sessions that could not be opened.
    pub sessions_failed: Family<ByServer, Counter>,
    /// Whether the server can be used: 1 or 0.
    pub server_available: Family<ByServer, Gauge>,
    /// Slots that this worker may use.
    pub slots_limit: Family<ByPool, Gauge>,
    /// Slots that this worker counts as used.
    pub slots_counted: Family<ByPool, Gauge>,
    /// Due mails moved back into the queue by this process.
    pub promoted: Counter,
    /// Claims of older processes resolved by this process, by their stage and what became of them.
    pub recovered: Family<ByDecision, Counter>,
    /// Mails that stayed too long at one stage and were ended there: `company`, `sending`, `committing`, `settlement`.
    pub stuck: Family<ByKind, Counter>,
    /// Answers that Redis did not give, by what was tried.
    pub store_failures: Family<ByKind, Counter>,
}

impl WorkerMetrics {
    /// Registers all of them under `mailrelay_`.
    pub fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            queue_mails: Family::default(),
            queue_oldest: Gauge::default(),
            claims: Counter::default(),
            claims_open: Gauge::default(),
            mails: Family::default(),
            transaction: Family::new_with_constructor(histogram),
            latency: histogram(),
            sessions_open: Family::default(),
            sessions_busy: Family::default(),
            sessions_opened: Family::default(),
            sessions_failed: Family::default(),
            server_available: Family::default(),
            slots_limit: Family::default(),
            slots_counted: Family::default(),
            promoted: Counter::default(),
            recovered: Family::default(),
            stuck: Family::default(),
            store_failures: Family::default(),
        };
        let all = registry.sub_registry_with_prefix("mailrelay");
        let m = &metrics;
        all.register("queue_mails", "Mails by state, as the queue in Redis has them", m.queue_mails.clone());
        all.register_with_unit(
            "queue_oldest",
            "Age of the oldest mail that waits",
            Unit::Seconds,
            m.queue_oldest.clone(),
        );
        all.register("claims", "Mails claimed by this process", m.claims.clone());
        all.register("claims_open", "Mails this process has claimed and not settled", m.claims_open.clone());
        all.register("mails", "Mail transactions by verdict", m.mails.clone());
        all.register_with_unit(
            "transaction_duration",
            "From the first command of a mail transaction to its last reply",
            Unit::Seconds,
            m.transaction.clone(),
        );
        all.register_with_unit(
            "mail_latency",
            "From the first claim of a mail to its delivery",
            Unit::Seconds,
            m.latency.clone(),
        );
        all.register("sessions_open", "SMTP sessions open", m.sessions_open.clone());
        all.register("sessions_busy", "SMTP sessions in a mail transaction", m.sessions_busy.clone());
        all.register("sessions_opened", "SMTP sessions opened", m.sessions_opened.clone());
        all.register("sessions_failed", "SMTP sessions that could not be opened", m.sessions_failed.clone());
        all.register("server_available", "Whether the server can be used: 1 or 0", m.server_available.clone());
        all.register("slots_limit", "Slots that this worker may use", m.slots_limit.clone());
        all.register("slots_counted", "Slots that this worker counts as used", m.slots_counted.clone());
        all.register("promoted", "Due mails moved back into the queue by this process", m.promoted.clone());
        all.register("recovered", "Claims of older processes resolved, by stage and outcome", m.recovered.clone());
        let stuck = "Mails that stayed too long at one stage and were ended as it allows, by stage";
        all.register("stuck", stuck, m.stuck.clone());
        all.register("store_failures", "Answers that Redis did not give, by what was tried", m.store_failures.clone());
        metrics
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn labels_and_units_are_in_the_text() {
        let mut registry = Registry::default();
        let metrics = WorkerMetrics::register(&mut registry);
        metrics.mails.get_or_create(&ByVerdict { server: "primary".into(), verdict: "delivered" }).inc();
        metrics.transaction.get_or_create(&ByServer { server: "primary".into() }).observe(0.003);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("mailrelay_mails_total{server=\"primary\",verdict=\"delivered\"} 1\n"), "{text}");
        assert!(text.contains("mailrelay_transaction_duration_seconds_count{server=\"primary\"} 1\n"), "{text}");
    }
}
