//! The queue: how a mail travels through Redis without being lost or sent twice.

mod arrivals;
mod audit;
mod claim;
mod compose;
mod dead;
mod envelope;
mod held;
mod inspect;
mod mail;
mod names;
mod raw;
mod recover;
mod retry;
mod scripts;
mod settle;
mod stage;
mod store;
mod time;
mod wire;

pub use arrivals::{Arrivals, Wake};
pub use audit::Audit;
pub use compose::compose;
pub use dead::{Bulk, DeadLetter, Filter};
pub use envelope::{Entry, Header, MAX_REPLY, MAX_TRIES, Refusal, Try};
pub use held::HeldMail;
pub use inspect::{Depths, InFlight, MailStatus, ProcessClaims};
pub use mail::{
    Attachment, Content, MAX_MESSAGE, MAX_PAYLOAD, MAX_RECIPIENTS, Mail, MailError, Parts, Priority, parse,
};
pub use names::QueueNames;
pub use recover::Recovery;
pub use retry::{Failure, backoff, next_step};
pub use stage::{ALONE_FROM, POISON_FROM, RecoverOptions, Resolution, Stage, StageMark, resolve};
pub use store::{
    Advance, ClaimId, Claimed, Counted, EnqueueError, EnqueueLimits, Enqueued, OperationId, Progress, Queue, RETENTION,
    SCRIPT_LIMIT, Settled, Settlement,
};
pub use time::UnixMillis;
