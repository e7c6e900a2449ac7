//! The ledger as a pure machine: exactly what the scripts do, without Redis. `tests/ledger` holds both to each other.

mod ledger;
mod request;
mod view;

pub use ledger::Ledger;
pub use request::{
    ClearReply, CondemnReply, Granted, InitReply, InitRequest, LeaveReply, Missing, OpenReply, OpenRequest, Policy,
    PolicyReply, Quarantine, ReapReply, SyncReply, SyncRequest, Wait,
};
pub use view::{HolderView, LedgerState, LedgerView, QuarantineView, Snapshot};
