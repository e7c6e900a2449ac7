//! What is asked of a ledger, and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::view::{LedgerState, QuarantineView};

/// Slots to put into quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Id, never used for anything else; the same id twice changes nothing but can only lengthen or enlarge it.
    pub id: String,
    /// How many slots.
    pub slots: u32,
    /// For how many seconds from first sight.
    pub seconds: u64,
    /// One word that says why.
    pub why: String,
}

/// SYNC: renews, shrinks, grows, reports, registers; moves unclean slots to quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    /// The recovery token as last heard; empty when never.
    pub token: String,
    /// The incarnation.
    pub inc: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// The process.
    pub process: String,
    /// Boot of the node.
    pub boot_id: String,
    /// Generation; 0 only asks for the pod's last one and changes nothing.
    pub generation: u64,
    /// Number of this SYNC within the incarnation, from 1; each is sent once.
    pub seq: u64,
    /// Slots the worker refuses to give up now.
    pub need: u32,
    /// Slots it could use.
    pub want: u32,
    /// Sessions open.
    pub open: u32,
    /// Sessions in a mail transaction.
    pub busy: u32,
    /// How long slots of older processes of this pod stay in quarantine when this call registers: their death is no sign
    /// that the server knows of it.
    pub hold: Duration,
    /// The version of the ledger in the last answer that granted; a ledger below it is lost.
    pub seen: u64,
    /// Slots whose session ended uncleanly.
    pub quarantine: Vec<Quarantine>,
    /// Older processes of this pod whose every connection is proven to have ended or is in `quarantine`: their slots are
    /// free when this call registers.
    pub accounts: Vec<String>,
}

/// Why nothing can be done at this ledger now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The node is a replica.
    Replica,
    /// There is no ledger.
    Missing,
    /// The ledger was made on another node, another run of this one, or before a change of its replication id.
    Fence,
    /// A newer version of mailrelay made the ledger, in a schema that is not known here.
    Schema,
}

/// What a SYNC granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Slots counted against the incarnation.
    pub claim: u32,
    /// Slots it may have open.
    pub limit: u32,
    /// The share of its pod.
    pub entitlement: u32,
    /// Whether the ledger grants.
    pub state: LedgerState,
    /// Lease length.
    pub lease: Duration,
    /// Version of the ledger.
    pub version: u64,
    /// All slots in quarantine, for timing them.
    pub quarantine: Vec<QuarantineView>,
}

/// Answer to SYNC. Only `Ok` changed anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncReply {
    /// Renewed.
    Ok(Granted),
    /// Nothing can be done at this ledger now.
    Wait(Wait),
    /// The token is another one; re-assert with it.
    Token {
        /// The token.
        token: String,
        /// Whether the ledger grants.
        state: LedgerState,
    },
    /// The ledger does not know the incarnation (any more), or a newer one of the pod has replaced it.
    Gone,
    /// A later SYNC of the incarnation came first.
    Stale,
    /// To register, come back with generation `last + 1`, seq 1 and need 0.
    Register {
        /// The pod's last generation.
        last: u64,
    },
}

/// Answer to LEAVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaveReply {
    /// Gone, its slots are free.
    Ok,
    /// Nothing can be done at this ledger now.
    Wait(Wait),
    /// The token is another one.
    Token {
        /// The token.
        token: String,
        /// Whether the ledger grants.
        state: LedgerState,
    },
    /// It was not there.
    Gone,
    /// A later message came first.
    Stale,
}

/// POLICY: the shares. Never touches a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Epoch of the leader, below 2^53.
    pub epoch: u64,
    /// Order within the epoch, below 2^53.
    pub revision: u64,
    /// Slots in all.
    pub budget: u32,
    /// Lease length.
    pub lease: Duration,
    /// Share of each pod, by pod UID. Pods that wait are listed with 0.
    pub entitlements: BTreeMap<String, u32>,
    /// Where the server is reached: words without blanks.
    pub servers: BTreeSet<String>,
}

/// Answer to POLICY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyReply {
    /// In force.
    Ok,
    /// The ledger has a later policy; nothing changed.
    Old {
        /// Its epoch.
        epoch: u64,
        /// Its revision.
        revision: u64,
    },
    /// Nothing can be done at this ledger now.
    Wait(Wait),
}

/// Answer to REAP and `REAP_DEAD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReapReply {
    /// Removed; so many slots were freed or went into quarantine.
    Ok {
        /// The slots.
        slots: u32,
    },
    /// Nothing can be done at this ledger now.
    Wait(Wait),
    /// The token is another one.
    Token {
        /// The token.
        token: String,
        /// Whether the ledger grants.
        state: LedgerState,
    },
    /// It was not there.
    Gone,
    /// It lives: its seq is another one.
    Stale,
}

/// INIT: a new ledger in the place of none, or of one that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitRequest {
    /// The fence that the leader saw; refused when the node's is another by now.
    pub fence: String,
    /// A new random token.
    pub token: String,
    /// The first policy.
    pub policy: Policy,
    /// Quarantine that the leader still knows of.
    pub quarantine: Vec<Quarantine>,
    /// The highest version that the leader has seen.
    pub version: u64,
}

/// Answer to INIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitReply {
    /// The ledger is in recovery.
    Ok,
    /// A ledger is in force already; nothing changed.
    Exists {
        /// Its epoch: another one than ours means that we lead no more.
        epoch: u64,
        /// Its token.
        token: String,
        /// Whether it grants.
        state: LedgerState,
    },
    /// The ledger, though not in force, was written by a later epoch; nothing changed.
    Old {
        /// That epoch.
        epoch: u64,
    },
    /// The node is a replica or its fence is another one by now.
    Wait(Wait),
}

/// A holder that the leader knows and the new ledger may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its incarnation; when the ledger has it after all, nothing goes into quarantine. May be empty: always quarantined.
    pub inc: String,
    /// What goes into quarantine.
    pub quarantine: Quarantine,
}

/// OPEN: the end of recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Epoch of the leader.
    pub epoch: u64,
    /// The token of the recovery that ends.
    pub token: String,
    /// Holders of the time before that did not re-assert.
    pub missing: Vec<Missing>,
}

/// Answer to OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenReply {
    /// Open.
    Ok,
    /// It was open already; nothing changed.
    Already,
    /// The ledger was written by a later epoch; nothing changed.
    Old {
        /// That epoch.
        epoch: u64,
    },
    /// Nothing can be done at this ledger now.
    Wait(Wait),
    /// The token is another one.
    Token {
        /// The token.
        token: String,
        /// Whether the ledger grants.
        state: LedgerState,
    },
}

/// Answer to CONDEMN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CondemnReply {
    /// The ledger is no older copy.
    Current,
    /// It is of no force, now or already.
    Wait(Wait),
}

/// Answer to CLEAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClearReply {
    /// None of them is there any more.
    Ok,
    /// None of them was there.
    Gone,
    /// Nothing can be done at this ledger now.
    Wait(Wait),
    /// The token is another one.
    Token {
        /// The token.
        token: String,
        /// Whether the ledger grants.
        state: LedgerState,
    },
}
