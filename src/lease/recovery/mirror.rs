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

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Seen, Watch};
use crate::lease::{
    clock::BootTime,
    state::{HolderView, LedgerState, LedgerView, QuarantineView},
    timing::Timing,
};

/// What a leader knows of a pool. [`Watch::mirror`] makes it, [`Watch::restore`] takes it.
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

/// What a mirror had no room to list.
#[derive(Clone, Debug)]
pub(super) struct Unlisted {
    slots: u32,
    /// Processes that it did list.
    listed: BTreeSet<String>,
}

impl Unlisted {
    /// The slots of those that did not come back. Whoever re-asserts without having been listed is one of them.
    pub(super) fn missing(&self, view: &LedgerView) -> u32 {
        let back = view.holders.iter().filter(|holder| !self.listed.contains(&holder.process));
        self.slots.saturating_sub(back.fold(0, |sum, holder| sum.saturating_add(holder.claim)))
    }
}

impl Watch {
    /// Everything that this leader knows, its predecessor's mirror included while nothing newer is known. Holders without
    /// slots are left out.
    pub fn mirror(&self, now: BootTime, timing: &Timing) -> Mirror {
        let shares = self.shares();
        let registered = self.seen.values().map(|seen| {
            let HolderView { inc, pod_uid, pod, process, boot_id, claim, .. } = seen.holder.clone();
            let share = shares.get(&*pod_uid).copied().unwrap_or(0);
            MirroredHolder { pod_uid, share, incarnation: Some(Incarnation { inc, pod, process, boot_id, claim }) }
        });
        let known: BTreeSet<&str> = self.seen.values().map(|seen| &*seen.holder.pod_uid).collect();
        let others = shares.iter().filter(|(pod, _)| !known.contains(**pod)).map(|(pod, share)| MirroredHolder {
            pod_uid: (*pod).to_owned(),
            share: *share,
            incarnation: None,
        });
        let quarantine = self.withheld.left(now, timing).map(|(entry, left)| MirroredQuarantine {
            pod: self.pod_of(&entry.id),
            entry,
            left,
        });
        Mirror {
            holders: registered.chain(others).filter(|holder| holder.slots() > 0).collect(),
            unlisted: self.unlisted.as_ref().map_or(0, |unlisted| unlisted.slots),
            quarantine: quarantine.collect(),
            servers: self.servers.clone(),
        }
    }

    /// Takes in what the leader before wrote down; to be called before the first look. It may be of any age. What several
    /// relays say of one pool is taken together.
    pub fn restore(&mut self, mirror: &Mirror, now: BootTime) {
        let mut shares: BTreeMap<String, u32> = BTreeMap::new();
        for holder in &mirror.holders {
            let share = shares.entry(holder.pod_uid.clone()).or_default();
            *share = holder.share.max(*share);
            if let Some(incarnation) = &holder.incarnation {
                let restored = restored(&holder.pod_uid, incarnation);
                let seen = Seen { holder: restored, since: now, first: now, settled: true };
                let known = self.seen.entry(incarnation.inc.clone()).or_insert(seen);
                known.holder.claim = incarnation.claim.max(known.holder.claim);
            }
        }
        self.enroll(&shares);
        self.servers.extend(mirror.servers.iter().cloned());
        if mirror.unlisted > 0 {
            let listed = self.seen.values().map(|seen| seen.holder.process.clone()).collect();
            self.unlisted = Some(Unlisted { slots: mirror.unlisted, listed });
        }
        let entries: Vec<QuarantineView> = mirror.quarantine.iter().map(|withheld| withheld.entry.clone()).collect();
        self.withheld.add(&entries, now);
        let named =
            mirror.quarantine.iter().filter_map(|withheld| Some((withheld.entry.id.clone(), withheld.pod.clone()?)));
        self.origins.extend(named);
    }

    /// What was restored is answered by an open ledger: whoever is not in it has been reaped, replaced or withheld by it.
    pub(super) fn forget_restored(&mut self, view: &LedgerView) {
        if view.state == LedgerState::Open {
            self.unlisted = None;
            self.origins.retain(|id, _| view.quarantine.iter().any(|entry| entry.id == *id));
        }
    }

    /// The pod whose slots a quarantine holds: ids begin with the process, or with the pod's UID (see `scripts/prelude.lua`
    /// and [`super::super::Holder`]).
    fn pod_of(&self, id: &str) -> Option<String> {
        let owner = id.split(['.', '/']).next()?;
        let seen = || self.seen.values().find(|seen| seen.holder.process == owner || seen.holder.pod_uid == owner);
        let over = || self.over.range(owner.to_owned()..).next().filter(|(inc, _)| inc.starts_with(owner));
        let pod = self.origins.get(id).or_else(|| Some(&seen()?.holder.pod)).or_else(|| Some(over()?.1));
        pod.cloned()
    }
}

/// A holder as far as a mirror tells.
fn restored(pod_uid: &str, incarnation: &Incarnation) -> HolderView {
    let Incarnation { inc, pod, process, boot_id, claim } = incarnation.clone();
    HolderView {
        inc,
        pod_uid: pod_uid.to_owned(),
        pod,
        process,
        boot_id,
        // Generations begin anew with the ledger. With the highest one, nobody is newer than this holder by his generation.
        generation: u64::MAX,
        seq: 0,
        claim,
        limit: claim,
        want: claim,
        open: claim,
        busy: 0,
    }
}
