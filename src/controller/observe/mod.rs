//! Step 1, I/O: what the API server says of relays, mail servers and pods, and what Redis says of itself.

mod backoff;
mod evidence;
mod liveness;
mod pod_watch;
mod pods;
mod safety;
mod topology;
mod watches;

pub use evidence::Pods;
pub use liveness::Liveness;
pub use pods::PodFacts;
pub use safety::{Safety, StoreFacts, ask, judge, watch_safety};
pub use topology::Topology;
pub use watches::{GuardedRelay, GuardedServer, Observed, is_same_guarded};
