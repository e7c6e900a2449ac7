//! Signs of life of nodes: without one, a silent worker's connections may still be counted at the server (leases.md R5).

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
    let mut renewals: BTreeMap<String, (Option<MicroTime>, BootTime)> = BTreeMap::new();
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
                Ok(sign) => signs.send_modify(|signs| {
                    let renewed = sign.renewed.or_else(|| signs.get(&node).and_then(|old| old.renewed));
                    signs.insert(node.clone(), NodeSign { renewed, ..sign });
                }),
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
    renewals: &mut BTreeMap<String, (Option<MicroTime>, BootTime)>,
) -> Result<NodeSign, String> {
    let asked = BootTime::now();
    let both = async { tokio::try_join!(nodes.get(name), leases.get(name)) };
    let (node, lease) = match timeout(API_LIMIT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {API_LIMIT:?}")),
    };
    let renewal = lease.spec.and_then(|spec| spec.renew_time);
    let renewed = match renewals.insert(name.to_owned(), (renewal.clone(), asked)) {
        // The renewal came after the look before this one.
        Some((old, then)) if old != renewal => Some(then),
        _ => None,
    };
    let boot_id = node.status.and_then(|status| status.node_info).map(|info| info.boot_id).unwrap_or_default();
    Ok(NodeSign { boot_id, asked, renewed })
}
