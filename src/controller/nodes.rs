//! Signs of life of nodes: without one, a silent worker's connections may still be counted at the server (lease R5).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client};
use tokio::{sync::watch, time::timeout};

use super::leader::API_LIMIT;
use crate::lease::BootTime;

/// Where kubelets renew the Leases of their nodes.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often a node in question is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// How many nodes are looked at at once: more take longer than [`EVERY`], and less is asked of the API server.
const AT_ONCE: usize = 8;

/// What was seen of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSign {
    /// The boot that the node's status names.
    pub boot_id: String,
    /// When the status was asked for.
    pub asked: BootTime,
    /// The last renewal of the node's Lease, if one was seen.
    pub renewed: Option<Renewal>,
}

/// A renewal of a node's Lease, on our clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// A moment after which it surely came.
    pub after: BootTime,
    /// When we saw it.
    pub seen: BootTime,
}

/// What was seen, by the node's name.
pub type Signs = BTreeMap<String, NodeSign>;

/// Looks at the nodes in question, each second, while there are any.
pub async fn watch_nodes(
    client: Client,
    mut questions: watch::Receiver<BTreeSet<String>>,
    signs: watch::Sender<Signs>,
) {
    let nodes = Api::<Node>::all(client.clone());
    let leases = Api::<Lease>::namespaced(client, LEASE_NAMESPACE);
    let mut renewals: BTreeMap<String, Renewals> = BTreeMap::new();
    loop {
        let asked: BTreeSet<String> = questions.borrow_and_update().clone();
        renewals.retain(|node, _| asked.contains(node));
        signs.send_if_modified(|signs| {
            let before = signs.len();
            signs.retain(|node, _| asked.contains(node));
            signs.len() != before
        });
        if asked.is_empty() {
            if questions.changed().await.is_err() {
                return;
            }
            continue;
        }
        let next = tokio::time::Instant::now() + EVERY;
        let mut looks = futures::stream::iter(asked)
            .map(|node| {
                let look = look(&nodes, &leases, node.clone());
                async move { (node, look.await) }
            })
            .buffer_unordered(AT_ONCE);
        while let Some((node, looked)) = looks.next().await {
            match looked {
                Ok(Look { renewal, boot_id, asked, answered }) => {
                    let renewed = renewals.entry(node.clone()).or_default().learn(renewal, &boot_id, asked, answered);
                    signs.send_modify(|signs| drop(signs.insert(node, NodeSign { boot_id, asked, renewed })));
                }
                Err(error) => tracing::debug!(node, error, "cannot look at the node"),
            }
        }
        // Another node in question is looked at at once: its dead worker's slots wait for that.
        if let Ok(Err(_)) = tokio::time::timeout_at(next, questions.changed()).await {
            return;
        }
    }
}

/// What the API server says of a node.
struct Look {
    renewal: Option<MicroTime>,
    boot_id: String,
    asked: BootTime,
    answered: BootTime,
}

async fn look(nodes: &Api<Node>, leases: &Api<Lease>, name: String) -> Result<Look, String> {
    let asked = BootTime::now();
    // First the Lease: the boot that the status then names is not older than the renewal.
    let both = async { Ok::<_, kube::Error>((leases.get(&name).await?, nodes.get(&name).await?)) };
    let (lease, node) = match timeout(API_LIMIT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {API_LIMIT:?}")),
    };
    let renewal = lease.spec.and_then(|spec| spec.renew_time);
    let boot_id = node.status.and_then(|status| status.node_info).map(|info| info.boot_id).unwrap_or_default();
    Ok(Look { renewal, boot_id, asked, answered: BootTime::now() })
}

/// When a node's Lease was renewed, on our clock and in which boot.
///
/// After a reboot the new kubelet may renew the Lease a moment before it writes the new boot id into the status. So a
/// renewal counts for a boot only when the look after it still finds that boot.
#[derive(Debug, Default)]
struct Renewals {
    boot_id: String,
    /// The time in the Lease, and when we asked for it.
    last: Option<(Option<MicroTime>, BootTime)>,
    /// A renewal that no later look has confirmed.
    pending: Option<Renewal>,
    confirmed: Option<Renewal>,
}

impl Renewals {
    /// Takes in one look; the last renewal that surely came in this boot.
    fn learn(
        &mut self,
        renewal: Option<MicroTime>,
        boot_id: &str,
        asked: BootTime,
        answered: BootTime,
    ) -> Option<Renewal> {
        if self.boot_id != boot_id {
            *self = Self { boot_id: boot_id.to_owned(), ..Self::default() };
        } else if let Some(pending) = self.pending.take() {
            self.confirmed = Some(pending);
        }
        if let Some((last, then)) = &self.last
            && *last != renewal
        {
            // The renewal came after the look before this one.
            self.pending = Some(Renewal { after: *then, seen: answered });
        }
        self.last = Some((renewal, asked));
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::lease::{Action, Evidence, Holds, InitRequest, Ledger, OpenRequest, Policy, SyncRequest, Timing, Watch};

    const CLOSE_GRACE: Duration = Duration::from_secs(2);
    /// The longest pause of the kubelet between two renewals, and how long an answer of the API server takes, in ms.
    const KUBELET_RENEWS: u64 = 10_400;
    const ANSWER: u64 = 50;
    const SYNCED: u64 = 1_000;

    fn at(ms: u64) -> BootTime {
        BootTime::after_boot(Duration::from_millis(100_000 + ms))
    }

    fn ms(span: Duration) -> u64 {
        u64::try_from(span.as_millis()).expect("short")
    }

    /// A worker SYNCs for the last time after a second and then dies; the production code looks, judges, and frees its slots.
    /// When is that? `ledger_looks` is the phase of the looks at the ledger; `learn` says what is known by then. All in
    /// milliseconds.
    fn freed(ledger_looks: u64, mut learn: impl FnMut(u64, &mut Evidence)) -> u64 {
        let timing = Timing::default();
        let holds = Holds { close_grace: CLOSE_GRACE, session_timeout: Duration::from_secs(300) };
        let entitlements = BTreeMap::from([("a".to_owned(), 16)]);
        let policy = Policy {
            epoch: 1,
            revision: 1,
            budget: 16,
            lease: timing.lease,
            entitlements,
            servers: std::collections::BTreeSet::new(),
        };
        let mut ledger = Ledger::new("node");
        ledger.init(&InitRequest {
            fence: "node".into(),
            token: "t".into(),
            policy,
            quarantine: Vec::new(),
            version: 0,
        });
        ledger.open(&OpenRequest { epoch: 1, token: "t".into(), missing: Vec::new() });
        let (mut watch, mut evidence) = (Watch::default(), Evidence::default());
        for now in (0..400_000).step_by(10) {
            if now == SYNCED {
                ledger.sync(&sync());
            }
            learn(now, &mut evidence);
            if now % 250 != ledger_looks {
                continue;
            }
            watch.observe(&ledger.snapshot(), at(now));
            for action in watch.actions(at(now), &timing, holds, true, Duration::ZERO, &evidence) {
                let (token, inc, seq, quarantine) = match action {
                    Action::Reap { token, inc, seq, quarantine } => (token, inc, Some(seq), quarantine),
                    Action::ReapDead { token, inc, quarantine } => (token, inc, None, quarantine),
                    Action::Clear { .. } => return now,
                    other => panic!("{other:?}"),
                };
                ledger.reap(&token, &inc, seq, ms(quarantine).div_ceil(1_000), "over");
            }
        }
        panic!("never freed");
    }

    fn sync() -> SyncRequest {
        SyncRequest {
            token: "t".into(),
            inc: "a.1".into(),
            pod_uid: "a".into(),
            pod: "mail/a".into(),
            process: "a".into(),
            boot_id: "boot".into(),
            generation: 1,
            seq: 1,
            need: 0,
            want: 16,
            open: 0,
            busy: 0,
            hold: Duration::from_secs(300),
            seen: 0,
            accounts: Vec::new(),
            quarantine: Vec::new(),
        }
    }

    /// How long slots of a worker that died right after its SYNC stay away, on a node that lives and has no other worker:
    /// `renewals` is the phase of the kubelet's renewals, `node_looks` that of our looks at the node.
    fn away_by_silence(ledger_looks: u64, renewals: u64, node_looks: u64) -> Duration {
        let mut known = Renewals::default();
        let end = freed(ledger_looks, |now, evidence| {
            let asked = now >= SYNCED + ms(Timing::default().lease) / 2 && now % ms(EVERY) == node_looks;
            if asked {
                // A time by the kubelet's clock, which we never compare with ours.
                let renewal = i64::try_from((now + 100_000 - renewals) / KUBELET_RENEWS).expect("a time");
                let renewal = Timestamp::from_second(renewal).ok().map(MicroTime);
                if let Some(renewal) = known.learn(renewal, "boot", at(now), at(now + ANSWER)) {
                    evidence.nodes.insert("boot".into(), renewal.after);
                    evidence.reached.insert("boot".into(), renewal.seen);
                }
            }
        });
        Duration::from_millis(end - SYNCED)
    }

    #[test]
    fn slots_of_a_silent_worker_on_a_node_that_lives_come_back_whatever_the_phases() {
        let mut all = Vec::new();
        for renewals in (0..KUBELET_RENEWS).step_by(100) {
            for (ledger_looks, node_looks) in [(0, 0), (10, 0), (130, 250), (240, 490)] {
                all.push(away_by_silence(ledger_looks, renewals, node_looks));
            }
        }
        all.sort_unstable();
        let (median, longest) = (all[all.len() / 2], all[all.len() - 1]);
        println!("slots of a silent worker: back after {median:?} in the middle, {longest:?} at the longest");
        // Until the process must be dead, the node's next renewal, our looks; then as long again, since the network may have
        // been away all that time; the rest is the times in whole seconds and the clocks.
        let timing = Timing::default();
        let proof = timing.stretched(timing.lease) + Duration::from_millis(KUBELET_RENEWS) + EVERY * 2;
        let most = timing.quarantine_watch(proof * 2 + CLOSE_GRACE) + Duration::from_secs(1);
        assert!(longest <= most, "{longest:?}, expected {most:?} at the most");
    }

    #[test]
    fn slots_of_a_pod_that_is_over_come_back_within_five_seconds_and_the_close_grace() {
        // Its last SYNC was up to a heartbeat before; the kubelet tells a second after its end, and the node is looked at then.
        for (ledger_looks, before) in [(0, 0), (10, 500), (130, 1_000), (240, 1_150)] {
            let over = SYNCED + before + 1_000;
            let end = freed(ledger_looks, |now, evidence| {
                if now >= over + ANSWER {
                    evidence.dead.insert("a".into());
                    evidence.ended.insert("a".into(), at(over));
                }
            });
            let away = Duration::from_millis(end - (SYNCED + before));
            println!("slots of a pod that is over: back after {away:?}");
            assert!(away <= Duration::from_secs(5) + CLOSE_GRACE, "{away:?}");
        }
    }

    #[test]
    fn a_renewal_counts_from_the_look_before_it_and_once_the_next_look_finds_the_same_boot() {
        let at = |seconds| BootTime::after_boot(Duration::from_secs(seconds));
        let time = |second| Some(MicroTime(jiff::Timestamp::from_second(second).expect("in range")));
        let mut renewals = Renewals::default();
        let looks = [
            (time(1), "b1", 100, None, "the first sight proves nothing"),
            (time(1), "b1", 101, None, "no renewal"),
            (time(11), "b1", 102, None, "a renewal, not yet confirmed"),
            (time(11), "b1", 103, Some((101, 202)), "confirmed; it came after the look at 101"),
            (time(11), "b1", 104, Some((101, 202)), "stays so"),
            (time(21), "b1", 105, Some((101, 202)), "renewed by another kubelet already, says the next look"),
            (time(21), "b2", 106, None, "another boot begins anew"),
            (time(31), "b2", 107, None, "a renewal in the new boot"),
            (time(31), "b2", 108, Some((106, 207)), "confirmed"),
        ];
        for (renewal, boot, asked, expected, what) in looks {
            let expected = expected.map(|(after, seen)| Renewal { after: at(after), seen: at(seen) });
            assert_eq!(renewals.learn(renewal, boot, at(asked), at(asked + 100)), expected, "{what}");
        }
    }
}
