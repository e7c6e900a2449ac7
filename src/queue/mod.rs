//! The queue: how a mail travels through Redis without being lost or sent twice.

mod arrivals;
mod audit;
mod compose;
mod dead;
mod envelope;
mod inspect;
mod mail;
mod names;
mod recover;
mod retry;
mod stage;
mod store;
mod time;

pub use arrivals::{Arrivals, Wake};
pub use audit::Audit;
pub use compose::compose;
pub use dead::{Bulk, DeadLetter, Filter, HeldMail};
pub use envelope::{Entry, Header, MAX_REPLY, MAX_TRIES, Refusal, Try};
pub use inspect::{Depths, InFlight, MailStatus, ProcessClaims};
pub use mail::{
    Attachment, Content, MAX_MESSAGE, MAX_PAYLOAD, MAX_RECIPIENTS, Mail, MailError, Parts, Priority, parse,
};
pub use names::QueueNames;
pub use recover::Recovery;
pub use retry::{Failure, backoff, next_step};
pub use stage::{ALONE_FROM, POISON_FROM, RecoverOptions, Resolution, Stage, StageMark, resolve};
pub use store::{
    Advance, ClaimId, Claimed, Counted, EnqueueError, EnqueueLimits, Enqueued, OperationId, Progress, Queue,
    SCRIPT_LIMIT, Settled, Settlement,
};
pub use time::UnixMillis;
