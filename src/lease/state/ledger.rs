//! The machine: one method for each script, line by line the same, but for the totals: it adds up where scripts read a sum.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::request::{
    ClearReply, CondemnReply, Granted, InitReply, InitRequest, LeaveReply, OpenReply, OpenRequest, Policy, PolicyReply,
    Quarantine, ReapReply, SyncReply, SyncRequest, Wait,
};
use super::view::{HolderView, LedgerState, LedgerView, QuarantineView, Snapshot};
use crate::lease::{store::CARRIED, wire};

/// The fence of a ledger that was found to be an older copy.
const LOST: &str = "lost";

/// How far a new ledger's version is above all that is known of the last one's, and of the epoch before: workers may have
/// seen more than the leader.
const LEAP: u64 = 1 << 32;

/// One pool's ledger on one node, without Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Fence of the node; the ledger is in force only while its own is the same.
    pub node_fence: String,
    /// The ledger, when there is one.
    pub view: Option<LedgerView>,
    /// The version that the twin says; `None` when the twin is gone or was brought back, or a ledger was found lost. It tells
    /// an older copy, whoever asks.
    pub twin: Option<u64>,
    /// What was published since this was last emptied: `<kind> <inc or ->`.
    pub told: Vec<String>,
}

/// Why an operation was refused before it looked at anything else.
enum Refusal {
    Wait(Wait),
    Token { token: String, state: LedgerState },
}

macro_rules! in_force {
    ($self:ident, $token:expr, $reply:ident) => {
        in_force!($self, $token, 0, $reply)
    };
    ($self:ident, $token:expr, $seen:expr, $reply:ident) => {
        match refusal(&$self.node_fence, $self.view.as_mut(), &mut $self.twin, $token, $seen) {
            Ok(view) => view,
            Err(Refusal::Wait(wait)) => return $reply::Wait(wait),
            Err(Refusal::Token { token, state }) => return $reply::Token { token, state },
        }
    };
}

fn refusal<'a>(
    node_fence: &str,
    view: Option<&'a mut LedgerView>,
    twin: &'a mut Option<u64>,
    token: Option<&str>,
    seen: u64,
) -> Result<(&'a mut LedgerView, &'a mut Option<u64>), Refusal> {
    let view = view.ok_or(Refusal::Wait(Wait::Missing))?;
    if view.fence != node_fence {
        return Err(Refusal::Wait(Wait::Fence));
    }
    let known = twin.filter(|_| view.twinned);
    let newest = view.version.max(seen).max(known.unwrap_or(0));
    if newest > view.version || (view.twinned && known.is_none()) {
        (view.fence, view.version) = (LOST.to_owned(), newest);
        *twin = None;
        return Err(Refusal::Wait(Wait::Fence));
    }
    if token.is_some_and(|token| token != view.token) {
        return Err(Refusal::Token { token: view.token.clone(), state: view.state });
    }
    Ok((view, twin))
}

/// To be called by whatever changes the ledger, before it does.
fn raise(view: &mut LedgerView, twin: &mut Option<u64>) {
    view.version += 1;
    write_twin(view, twin);
}

fn write_twin(view: &mut LedgerView, twin: &mut Option<u64>) {
    (*twin, view.twinned) = (Some(view.version), true);
}

impl Ledger {
    /// A node without a ledger.
    pub fn new(node_fence: impl Into<String>) -> Self {
        Self { node_fence: node_fence.into(), view: None, twin: None, told: Vec::new() }
    }

    /// What a snapshot would show.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { node_fence: self.node_fence.clone(), ledger: self.view.clone().map(Arc::new) }
    }

    /// SYNC.
    pub fn sync(&mut self, request: &SyncRequest) -> SyncReply {
        let (view, twin) = in_force!(self, Some(&*request.token), request.seen, SyncReply);
        let known = view.generations.get(&request.pod_uid).copied();
        let last = known.unwrap_or(view.floor);
        if request.generation == 0 {
            return SyncReply::Register { last };
        }
        let mine = view.holder(&request.inc).cloned();
        let mut generation = request.generation;
        if let Some(mine) = &mine {
            if request.seq <= mine.seq {
                return SyncReply::Stale;
            }
            generation = mine.generation;
        } else if let Some(refused) = refused_as_new(view, request, known) {
            return refused;
        }
        raise(view, twin);
        for entry in &request.quarantine {
            quarantine(view, entry);
        }
        let freed = mine.is_none() && replace_older(view, request);
        if mine.is_none() {
            view.generations.insert(request.pod_uid.clone(), known.map_or(generation, |known| known.max(generation)));
        }
        let share = view.entitlements.get(&request.pod_uid).copied().unwrap_or(0);
        let others = view.holders.iter().filter(|h| h.inc != request.inc).map(|h| h.claim).sum::<u32>();
        let available = view.budget.saturating_sub(others + view.quarantined());
        let (claim, limit) = match view.state {
            LedgerState::Rec => (request.need, request.need),
            LedgerState::Open => {
                let claim = request.need.max(request.want.min(share).min(available));
                (claim, claim.min(share).min(available))
            }
        };
        put_holder(
            view,
            HolderView {
                inc: request.inc.clone(),
                pod_uid: request.pod_uid.clone(),
                pod: request.pod.clone(),
                process: request.process.clone(),
                boot_id: request.boot_id.clone(),
                generation,
                seq: request.seq,
                claim,
                limit,
                want: request.want,
                open: request.open,
                busy: request.busy,
            },
        );
        let granted = Granted {
            claim,
            limit,
            entitlement: share,
            state: view.state,
            lease: view.lease,
            version: view.version,
            quarantine: view.quarantine.clone(),
        };
        if view.state == LedgerState::Open {
            let was_short = mine.as_ref().is_some_and(|m| m.want.min(share) > m.claim);
            if freed || mine.as_ref().is_some_and(|m| claim < m.claim) {
                self.told.push(format!("free {}", request.inc));
            } else if request.want.min(share) > claim && !was_short {
                self.told.push(format!("short {}", request.inc));
            }
        }
        SyncReply::Ok(granted)
    }

    /// LEAVE.
    pub fn leave(&mut self, token: &str, inc: &str, seq: u64) -> LeaveReply {
        let (view, twin) = in_force!(self, Some(token), LeaveReply);
        match view.holder(inc) {
            None => return LeaveReply::Gone,
            Some(holder) if seq <= holder.seq => return LeaveReply::Stale,
            Some(_) => {}
        }
        raise(view, twin);
        view.holders.retain(|holder| holder.inc != inc);
        self.told.push(format!("free {inc}"));
        LeaveReply::Ok
    }

    /// POLICY.
    pub fn policy(&mut self, policy: &Policy) -> PolicyReply {
        let (view, twin) = match refusal(&self.node_fence, self.view.as_mut(), &mut self.twin, None, 0) {
            Ok(view) => view,
            Err(Refusal::Wait(wait)) => return PolicyReply::Wait(wait),
            Err(Refusal::Token { .. }) => unreachable!("the token was not asked"),
        };
        if (policy.epoch, policy.revision) < (view.epoch, view.revision) {
            return PolicyReply::Old { epoch: view.epoch, revision: view.revision };
        }
        let same = view.budget == policy.budget
            && view.lease == policy.lease
            && view.entitlements == policy.entitlements
            && view.servers == policy.servers;
        raise(view, twin);
        (view.epoch, view.revision) = (policy.epoch, policy.revision);
        (view.budget, view.lease) = (policy.budget, policy.lease);
        view.entitlements.clone_from(&policy.entitlements);
        view.servers.clone_from(&policy.servers);
        let LedgerView { generations, entitlements, holders, floor, .. } = view;
        generations.retain(|uid, last| {
            let kept = entitlements.contains_key(uid) || holders.iter().any(|h| h.pod_uid == *uid);
            if !kept {
                *floor = (*floor).max(*last);
            }
            kept
        });
        if !same {
            self.told.push("policy -".to_owned());
        }
        PolicyReply::Ok
    }

    /// REAP; `seq` is `None` for `REAP_DEAD`.
    pub fn reap(&mut self, token: &str, inc: &str, seq: Option<u64>, seconds: u64, why: &str) -> ReapReply {
        let (view, twin) = in_force!(self, Some(token), ReapReply);
        let Some(holder) = view.holder(inc).cloned() else { return ReapReply::Gone };
        if seq.is_some_and(|seq| seq != holder.seq) {
            return ReapReply::Stale;
        }
        raise(view, twin);
        remove(view, &holder, seconds, why);
        self.told.push(format!("free {inc}"));
        ReapReply::Ok { slots: holder.claim }
    }

    /// INIT.
    pub fn init(&mut self, request: &InitRequest) -> InitReply {
        if request.fence != self.node_fence {
            return InitReply::Wait(Wait::Fence);
        }
        if let Some(view) = &self.view {
            if view.fence == self.node_fence {
                return InitReply::Exists { epoch: view.epoch, token: view.token.clone(), state: view.state };
            }
            if view.epoch > request.policy.epoch {
                return InitReply::Old { epoch: view.epoch };
            }
        }
        let policy = request.policy.clone();
        let (stored, floor) = self
            .view
            .as_ref()
            .map_or((0, 0), |view| (view.version, view.generations.values().copied().fold(view.floor, u64::max)));
        let mut view = LedgerView {
            fence: request.fence.clone(),
            token: request.token.clone(),
            state: LedgerState::Rec,
            epoch: policy.epoch,
            revision: policy.revision,
            version: stored.max(request.version).max(policy.epoch * LEAP) + LEAP,
            twinned: false,
            budget: policy.budget,
            lease: policy.lease,
            servers: policy.servers,
            holders: Vec::new(),
            entitlements: policy.entitlements,
            generations: BTreeMap::new(),
            floor,
            quarantine: Vec::new(),
        };
        for entry in &request.quarantine {
            quarantine(&mut view, entry);
        }
        write_twin(&mut view, &mut self.twin);
        self.view = Some(view);
        self.told.push("init -".to_owned());
        InitReply::Ok
    }

    /// OPEN.
    pub fn open(&mut self, request: &OpenRequest) -> OpenReply {
        let (view, twin) = in_force!(self, Some(&*request.token), OpenReply);
        if view.epoch > request.epoch {
            return OpenReply::Old { epoch: view.epoch };
        }
        if view.state == LedgerState::Open {
            return OpenReply::Already;
        }
        raise(view, twin);
        for missing in &request.missing {
            if view.holder(&missing.inc).is_none() {
                quarantine(view, &missing.quarantine);
            }
        }
        view.state = LedgerState::Open;
        self.told.push("open -".to_owned());
        OpenReply::Ok
    }

    /// CLEAR.
    pub fn clear(&mut self, token: &str, ids: &[String]) -> ClearReply {
        let (view, twin) = in_force!(self, Some(token), ClearReply);
        if !view.quarantine.iter().any(|entry| ids.contains(&entry.id)) {
            return ClearReply::Gone;
        }
        raise(view, twin);
        view.quarantine.retain(|entry| !ids.contains(&entry.id));
        self.told.push("free -".to_owned());
        ClearReply::Ok
    }

    /// CONDEMN.
    pub fn condemn(&mut self, version: u64) -> CondemnReply {
        match refusal(&self.node_fence, self.view.as_mut(), &mut self.twin, None, version) {
            Ok(_) => CondemnReply::Current,
            Err(Refusal::Wait(wait)) => CondemnReply::Wait(wait),
            Err(Refusal::Token { .. }) => unreachable!("the token was not asked"),
        }
    }
}

/// Why an incarnation that the ledger does not know can't be registered; `known` is the pod's last generation.
fn refused_as_new(view: &LedgerView, request: &SyncRequest, known: Option<u64>) -> Option<SyncReply> {
    let last = known.unwrap_or(view.floor);
    let register = Some(SyncReply::Register { last });
    match known {
        Some(known) if request.generation < known => return Some(SyncReply::Gone),
        // A first call that was late; with a later seq it is a living process that re-asserts, whatever the floor is.
        None if request.seq == 1 && request.generation <= view.floor => return register,
        _ => {}
    }
    if view.state == LedgerState::Rec {
        return None;
    }
    if request.seq != 1 || request.need != 0 {
        return Some(SyncReply::Gone);
    }
    if request.generation == last + 1 { None } else { register }
}

/// The process whose slots a leader withheld under this id, `<process>.<number>.<seq>`.
fn process_of(id: &str) -> Option<&str> {
    let mut words = id.split('.');
    let (process, number, seq) = (words.next()?, words.next()?, words.next()?);
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (!process.is_empty() && is_number(number) && is_number(seq) && words.next().is_none()).then_some(process)
}

/// Takes out the older incarnations of the pod that registers: their process is dead (R5a), which says nothing of what the
/// server knows. Free are only those of the same process, which accounted for all their sockets first (R3), and those that
/// it accounts for. Returns whether any slot was given up.
fn replace_older(view: &mut LedgerView, request: &SyncRequest) -> bool {
    let older: Vec<HolderView> = view
        .holders
        .iter()
        .filter(|h| h.pod_uid == request.pod_uid && h.generation < request.generation)
        .cloned()
        .collect();
    for holder in &older {
        let accounted = holder.process == request.process || request.accounts.contains(&holder.process);
        let hold = if accounted { Duration::ZERO } else { request.hold };
        remove(view, holder, wire::seconds(hold), "replaced");
    }
    // What a leader withheld for them is no longer needed, unless it came over from another ledger: their connections of that
    // one are not accounted for here.
    let withheld = view.quarantine.len();
    view.quarantine.retain(|entry| {
        let is_accounted = |process: &str| process == request.process || request.accounts.iter().any(|a| a == process);
        entry.why == CARRIED || !process_of(&entry.id).is_some_and(is_accounted)
    });
    older.iter().any(|holder| holder.claim > 0) || view.quarantine.len() < withheld
}

fn remove(view: &mut LedgerView, holder: &HolderView, seconds: u64, why: &str) {
    if seconds > 0 && holder.claim > 0 {
        let id = format!("{}.{}", holder.inc, holder.seq);
        quarantine(view, &Quarantine { id, slots: holder.claim, seconds, why: why.to_owned() });
    }
    view.holders.retain(|other| other.inc != holder.inc);
}

fn put_holder(view: &mut LedgerView, holder: HolderView) {
    match view.holders.binary_search_by(|other| other.inc.cmp(&holder.inc)) {
        Ok(at) => view.holders[at] = holder,
        Err(at) => view.holders.insert(at, holder),
    }
}

fn quarantine(view: &mut LedgerView, entry: &Quarantine) {
    match view.quarantine.binary_search_by(|other| other.id.cmp(&entry.id)) {
        Ok(at) => {
            let stored = &mut view.quarantine[at];
            stored.slots = stored.slots.max(entry.slots);
            stored.seconds = stored.seconds.max(entry.seconds);
        }
        Err(at) => {
            let Quarantine { id, slots, seconds, why } = entry.clone();
            view.quarantine.insert(at, QuarantineView { id, slots, seconds, why });
        }
    }
}
