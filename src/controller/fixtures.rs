//! A ledger and a holder as the leader's unit tests want them; each changes what it is about.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::lease::{HolderView, LedgerState, LedgerView};

/// An open ledger of 16 slots.
pub fn ledger(holders: Vec<HolderView>) -> LedgerView {
    LedgerView {
        fence: "f".into(),
        token: "t".into(),
        state: LedgerState::Open,
        epoch: 1,
        revision: 1,
        budget: 16,
        lease: Duration::from_secs(6),
        holders,
        entitlements: BTreeMap::new(),
        generations: BTreeMap::new(),
        quarantine: Vec::new(),
        version: 1,
        twinned: true,
        servers: BTreeSet::new(),
        floor: 0,
    }
}

/// A process of one pod that claims one slot.
pub fn holder(inc: &str, process: &str, seq: u64) -> HolderView {
    HolderView {
        inc: inc.into(),
        pod_uid: "u".into(),
        pod: "mail/p".into(),
        process: process.into(),
        boot_id: "b".into(),
        generation: 1,
        seq,
        claim: 1,
        limit: 1,
        want: 1,
        open: 0,
        busy: 0,
    }
}
