//! What a leader writes down outside Redis of all that it knows of a pool, so that the next one has it even when the
//! ledger is lost together with the leader (R8).
//!
//! # How old a mirror may be
//!
//! It is written at a bounded rate, so it lags behind: by a moment for a new incarnation, share or quarantine, by some
//! seconds for claims within their shares, by more while the API server is away. What such an old mirror can do:
//!
//! - **It shortens no wait.** Who knows a pool from its mirror alone has no history: the ledger opens after the reclaim time
//!   and never by roll call. By then every process that did not re-assert has passed its deadline, named by the mirror or not.
//!   What may be left is what the server still counts of a client whose end did not reach it.
//! - **A holder that left since** is withheld: too much, never too little.
//! - **A claim that grew since** grew within its share. The larger of both is withheld; shares and claims above them are
//!   written at once.
//! - **A quarantine that came since** held the slots of a holder that the mirror still names and that is withheld instead,
//!   or of a worker that lives and says it again to the new ledger.
//! - **A quarantine that ended since** begins anew.
//! - **A holder or a share that came since** is unknown. It is withheld only if the new ledger or a copy names it. That is
//!   what cannot be promised: the ledger lost, its leader lost, and a client whose end did not reach the server, all before the next
//!   write of the mirror.

use std::{collections::BTreeSet, time::Duration};

use crate::lease::state::QuarantineView;

/// What a leader knows of a pool. [`super::Watch::mirror`] makes it, [`super::Watch::restore`] takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Who holds slots or may do so.
    pub holders: Vec<MirroredHolder>,
    /// Slots of holders that are not listed.
    pub unlisted: u32,
    /// Slots withheld.
    pub quarantine: Vec<MirroredQuarantine>,
    /// Which servers the pool is for.
    pub servers: BTreeSet<String>,
}

/// A pod that holds slots or may do so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredHolder {
    /// UID of the pod.
    pub pod_uid: String,
    /// Its share; the largest, when several may be in force.
    pub share: u32,
    /// Its registration, if it was seen.
    pub incarnation: Option<Incarnation>,
}

/// One registration of a process in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Its id.
    pub inc: String,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// The process.
    pub process: String,
    /// The boot of its node.
    pub boot_id: String,
    /// Slots counted against it.
    pub claim: u32,
}

/// Slots withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredQuarantine {
    /// As in the ledger.
    pub entry: QuarantineView,
    /// `namespace/name` of the pod that held them, as far as it is known.
    pub pod: Option<String>,
    /// How long until it is over on the leader's clock.
    pub left: Duration,
}

impl MirroredHolder {
    /// The slots that it may hold: the larger of claim and share.
    pub fn slots(&self) -> u32 {
        self.incarnation.as_ref().map_or(0, |incarnation| incarnation.claim).max(self.share)
    }
}

impl Mirror {
    /// Whether it says that nobody holds a slot and none is withheld.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.unlisted == 0 && self.quarantine.is_empty()
    }
}
