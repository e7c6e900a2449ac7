//! Makes the mirror of what this leader knows, and takes in the one of the leader before.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Seen, Watch,
    mirror::{Incarnation, Mirror, MirroredHolder, MirroredQuarantine},
    unlisted::Unlisted,
};
use crate::lease::{
    clock::BootTime,
    state::{HolderView, LedgerState, LedgerView, QuarantineView},
    timing::Timing,
};

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
                let seen = Seen { holder: restored, since: now, first: now, settled: true, asked: None };
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
    /// and [`crate::lease::Holder`]).
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
