//! Signs of life of nodes: without one, a silent worker's connections may still be counted at the server (lease R5).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
const EVERY: Duration = Duration::from_secs(1);

/// What was seen of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSign {
    /// The boot that the node's status names.
    pub boot_id: String,
    /// When the status was asked for.
    pub asked: BootTime,
    /// A moment after which the node's Lease was renewed, if a renewal was seen.
    pub renewed: Option<BootTime>,
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
        for node in asked {
            match look(&nodes, &leases, &node, &mut renewals).await {
                Ok(sign) => signs.send_modify(|signs| drop(signs.insert(node.clone(), sign))),
                Err(error) => tracing::debug!(node, error, "cannot look at the node"),
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(
    nodes: &Api<Node>,
    leases: &Api<Lease>,
    name: &str,
    renewals: &mut BTreeMap<String, Renewals>,
) -> Result<NodeSign, String> {
    let asked = BootTime::now();
    // First the Lease: the boot that the status then names is not older than the renewal.
    let both = async { Ok::<_, kube::Error>((leases.get(name).await?, nodes.get(name).await?)) };
    let (lease, node) = match timeout(API_LIMIT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {API_LIMIT:?}")),
    };
    let renewal = lease.spec.and_then(|spec| spec.renew_time);
    let boot_id = node.status.and_then(|status| status.node_info).map(|info| info.boot_id).unwrap_or_default();
    let renewed = renewals.entry(name.to_owned()).or_default().learn(renewal, &boot_id, asked);
    Ok(NodeSign { boot_id, asked, renewed })
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
    /// A moment before a renewal that no later look has confirmed.
    pending: Option<BootTime>,
    confirmed: Option<BootTime>,
}

impl Renewals {
    /// Takes in one look; the last moment after which the Lease was surely renewed in this boot.
    fn learn(&mut self, renewal: Option<MicroTime>, boot_id: &str, asked: BootTime) -> Option<BootTime> {
        if self.boot_id != boot_id {
            *self = Self { boot_id: boot_id.to_owned(), ..Self::default() };
        } else if let Some(pending) = self.pending.take() {
            self.confirmed = Some(pending);
        }
        if let Some((last, then)) = &self.last
            && *last != renewal
        {
            // The renewal came after the look before this one.
            self.pending = Some(*then);
        }
        self.last = Some((renewal, asked));
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_counts_from_the_look_before_it_and_once_the_next_look_finds_the_same_boot() {
        let at = |seconds| BootTime::after_boot(Duration::from_secs(seconds));
        let time = |second| Some(MicroTime(jiff::Timestamp::from_second(second).expect("in range")));
        let mut renewals = Renewals::default();
        let looks = [
            (time(1), "b1", 100, None, "the first sight proves nothing"),
            (time(1), "b1", 101, None, "no renewal"),
            (time(11), "b1", 102, None, "a renewal, not yet confirmed"),
            (time(11), "b1", 103, Some(at(101)), "confirmed; it came after the look at 101"),
            (time(11), "b1", 104, Some(at(101)), "stays so"),
            (time(21), "b1", 105, Some(at(101)), "renewed by another kubelet already, says the next look"),
            (time(21), "b2", 106, None, "another boot begins anew"),
            (time(31), "b2", 107, None, "a renewal in the new boot"),
            (time(31), "b2", 108, Some(at(106)), "confirmed"),
        ];
        for (renewal, boot, asked, expected, what) in looks {
            assert_eq!(renewals.learn(renewal, boot, at(asked)), expected, "{what}");
        }
    }
}
