//! Leases: sharing a connection budget so that one connection too many cannot open.
//!
//! Each pool (one server's budget) has ONE ledger, a HASH in Redis that only scripts change, each atomically. The ledger
//! enforces the sum: `claims of all holders + quarantine <= budget`, whatever the shares are. The leading controller only
//! writes the shares ([`Policy`]) and takes out who is dead; a controller that is dead, doubled or stale makes shares
//! unfair, never too many.
//!
//! With the holders the ledger keeps what they come to, so that SYNC reads its own record and the totals, however many
//! processes there are. No total is taken at its word: it says of which version it is, and when the ledger has another one,
//! since an older release changed it or a script failed half-way, it is counted anew; so it is with every POLICY.
//!
//! A worker process registers an *incarnation* and renews it by SYNC every second and at once on any change; one without work
//! rests: it claims nothing, has no lease that could end, and is heard at long intervals ([`SlotPool::rest`]). What it holds
//! it may use until the *deadline*, the moment of sending plus the lease length on the boot clock. A slot counts from
//! before `connect()` until the server's EOF was read, or until it was put into *quarantine*: slots that nobody may use for
//! a while, since the server may still count their session.
//!
//! That a process is dead proves that no new connection comes from it. It does not prove that the server knows: what the
//! process wrote and its FIN wait in its kernel, die with the pod's network, or were never sent. So a slot is free early only
//! by proof about its very connection: its EOF and the acknowledgement of ours, or what the kernel of the same network
//! namespace shows of it to the supervisor ([`ConnectionTable`]). Everything else withholds it for [`Timing::hold`].
//!
//! A ledger is in force only on the node and in the replication history that it was made in (its *fence*), and only for
//! those who know its *token*. After a loss the leader makes a new one (INIT), workers re-assert what they hold, nothing
//! grows; after the reclaim time it is opened (OPEN), and by then whoever did not re-assert has passed its deadline.
//!
//! # Where the rules are
//!
//! | rule | says | lives in |
//! |---|---|---|
//! | R1 | limit falls to `need` before a SYNC, rises only from the answer to the latest | [`Holder::request`], [`Holder::answer`] |
//! | R2 | deadline from sending, on [`BootTime`] | [`Holder::answer`], [`BootTime`] |
//! | R3 | at the deadline nothing; a new incarnation when all old slots are accounted for | [`Holder::tick`], [`Holder::request`] |
//! | R4 | counted from before `connect()` to EOF or quarantine | [`Holder::count`], [`Slot`] |
//! | R5 | death: (a) [`bind_pod`], [`ConnectionTable`], [`Inheritance`], registration in `scripts/sync.lua`; (b), (c) | [`Watch::actions`], `scripts/reap.lua` |
//! | R6 | dead-man switch, armed while a socket may be open | [`KernelSwitch`], [`SlotPool`], [`self_check`] |
//! | R7 | fence and token on every command; a version and a twin, so that an older copy of the ledger is noticed | `scripts/prelude.lua`, [`LedgerStore::condemn`] |
//! | R8 | recovery, early by roll call; what outlives the ledger | [`Watch::actions`], [`Watch::list`], [`Mirror`], `scripts/init.lua`, `scripts/open.lua` |
//! | R9 | epoch: compared in INIT, OPEN, POLICY; the `ConfigMap` is the controller's | `scripts/policy.lua`, [`InitReply`] |
//! | R10 | unclean ends: `sessionTimeout` and a margin, unless proven later; "too many connections" | [`Slot::withhold`], [`Withheld::prove`], [`Timing::hold`], [`QuarantineTimers`], [`TOO_MANY`] |
//!
//! [`Ledger`] is the same machine as the scripts, without Redis: `tests/ledger` compares every answer, state and total, and
//! `tests/simulation` runs whole workers and controllers against each other under loss, delay, crashes and wipes.
//! Times and their inequalities: [`Timing`]. Who may call what and when: [`LedgerStore`].

pub mod access;
mod clock;
mod connections;
mod deadman;
mod evidence;
mod holder;
mod pool;
mod quarantine;
mod recovery;
mod shared;
mod slot;
mod state;
mod status;
mod store;
mod task;
mod timing;
mod twins;
mod wire;

pub use clock::BootTime;
pub use connections::{ConnectionTable, Entry, Left, Note, Predecessor};
pub use deadman::{DeadManSwitch, KernelSwitch, NoSwitch, SwitchError, TRIAL, Unprotected, self_check, trial};
pub use evidence::{Identity, Numbers, PodGuard, ProcessId, bind_pod, boot_id};
pub use holder::{Holder, Inheritance, Leaving};
pub use pool::{SlotOptions, SlotPool};
pub use quarantine::QuarantineTimers;
pub use recovery::{Action, Evidence, Incarnation, Mirror, MirroredHolder, MirroredQuarantine, OldPrimary, Watch};
pub use slot::{Slot, Withheld};
pub use state::{
    ClearReply, CondemnReply, Granted, HolderView, InitReply, InitRequest, LeaveReply, Ledger, LedgerState, LedgerView,
    Missing, OpenReply, OpenRequest, Policy, PolicyReply, Quarantine, QuarantineView, ReapReply, Snapshot, SyncReply,
    SyncRequest, Wait,
};
pub use status::SlotStatus;
pub use store::{CALL_LIMIT, CARRIED, LedgerStore, SaturationRecord, TOO_MANY, pools};
pub use timing::Timing;
pub use twins::Twins;
