//! What a ledger holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Whether the ledger grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerState {
    /// Recovery: workers re-assert what they hold, nothing grows (R8).
    Rec,
    /// Slots are granted.
    Open,
}

/// One registration of a process in a pool, an incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderView {
    /// Id of the incarnation.
    pub inc: String,
    /// UID of its pod.
    pub pod_uid: String,
    /// Namespace and name of its pod, `namespace/name`.
    pub pod: String,
    /// Its process, 32 hexadecimal digits.
    pub process: String,
    /// Boot of the node it runs on.
    pub boot_id: String,
    /// Order of the incarnations of one pod.
    pub generation: u64,
    /// Number of its last SYNC.
    pub seq: u64,
    /// Slots counted against it.
    pub claim: u32,
    /// Slots it may have open.
    pub limit: u32,
    /// Slots it could use.
    pub want: u32,
    /// Sessions it said are open.
    pub open: u32,
    /// Sessions it said are in a mail transaction.
    pub busy: u32,
}

impl HolderView {
    /// Whether it claims nothing and wants nothing: then it is heard at long intervals, and its silence proves nothing.
    pub fn is_resting(&self) -> bool {
        self.claim == 0 && self.want == 0
    }
}

/// Slots that nobody may use for a while, since the server may still count their session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineView {
    /// Id, never used for anything else.
    pub id: String,
    /// How many.
    pub slots: u32,
    /// For how long, from first sight on the clock of whoever clears it.
    pub seconds: u64,
    /// One word.
    pub why: String,
}

/// A whole ledger. `holders` is sorted by `inc`, `quarantine` by `id`. The totals that the scripts keep beside them (see
/// `scripts/prelude.lua`) say nothing that is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerView {
    /// The fence of the node that the ledger was made on; of no force on any other.
    pub fence: String,
    /// The recovery token, new with each INIT.
    pub token: String,
    /// Whether it grants.
    pub state: LedgerState,
    /// Epoch of the leader that last wrote the policy.
    pub epoch: u64,
    /// Order of the policies within the epoch.
    pub revision: u64,
    /// Raised by each change; never falls, not even with a new ledger. Whoever heard a higher one knows that this is an
    /// older copy, brought back.
    pub version: u64,
    /// Whether the ledger is of no force without its twin ([`super::Ledger::twin`]); always, but for a ledger that an
    /// older release made, or a Redis that cannot tell.
    pub twinned: bool,
    /// Slots in all.
    pub budget: u32,
    /// Lease length.
    pub lease: Duration,
    /// The addresses at which the server was reached, as the leader wrote them.
    pub servers: BTreeSet<String>,
    /// Incarnations.
    pub holders: Vec<HolderView>,
    /// Share of each pod, by pod UID.
    pub entitlements: BTreeMap<String, u32>,
    /// The last generation of each pod, by pod UID.
    pub generations: BTreeMap<String, u64>,
    /// The highest of the last generations that were dropped; a pod without one begins above it.
    pub floor: u64,
    /// Slots withheld.
    pub quarantine: Vec<QuarantineView>,
}

impl LedgerView {
    /// The holder of this incarnation.
    pub fn holder(&self, inc: &str) -> Option<&HolderView> {
        self.holders.iter().find(|holder| holder.inc == inc)
    }

    /// The holders of a pod: its process, and for a while one that died before it.
    pub fn holders_of<'v>(&'v self, pod_uid: &'v str) -> impl Iterator<Item = &'v HolderView> {
        self.holders.iter().filter(move |holder| holder.pod_uid == pod_uid)
    }

    /// Slots counted against holders.
    pub fn claimed(&self) -> u32 {
        self.holders.iter().fold(0, |sum, holder| sum.saturating_add(holder.claim))
    }

    /// The share of a pod, and the connections that its processes have open.
    pub fn share_and_open(&self, pod_uid: &str) -> (u32, u32) {
        let open = self.holders_of(pod_uid).map(|holder| holder.open).sum();
        (self.entitlements.get(pod_uid).copied().unwrap_or(0), open)
    }

    /// Slots in quarantine.
    pub fn quarantined(&self) -> u32 {
        self.quarantine.iter().fold(0, |sum, entry| sum.saturating_add(entry.slots))
    }
}

/// One atomic look at a node: its fence now, and the ledger if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `run_id:master_replid` of the node that answered. The ledger is in force only if its own fence is the same.
    pub node_fence: String,
    /// The ledger, when its key exists.
    pub ledger: Option<Arc<LedgerView>>,
}

impl Snapshot {
    /// The ledger, if it is in force on this node.
    pub fn in_force(&self) -> Option<&LedgerView> {
        self.shared().map(|ledger| &**ledger)
    }

    /// The same, for who keeps it.
    pub fn shared(&self) -> Option<&Arc<LedgerView>> {
        self.ledger.as_ref().filter(|ledger| ledger.fence == self.node_fence)
    }
}
