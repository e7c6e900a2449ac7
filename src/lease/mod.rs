//! Leases: sharing a connection budget so that one connection too many cannot open.

mod clock;
mod deadman;
mod evidence;
mod holder;
mod quarantine;
pub mod recovery;
mod slot;
mod state;
mod store;
mod timing;
mod wire;

pub use clock::BootTime;
pub use deadman::{DeadManSwitch, NoSwitch};
pub use evidence::{Identity, PodGuard, ProcessId, bind_pod, boot_id};
pub use holder::{Holder, Leaving};
pub use quarantine::QuarantineTimers;
pub use recovery::{Action, Evidence, Holds, Watch};
pub use slot::{Slot, SlotOptions, SlotPool, SlotStatus};
pub use state::*;
pub use store::{CALL_LIMIT, LedgerStore, pools};
pub use timing::Timing;
