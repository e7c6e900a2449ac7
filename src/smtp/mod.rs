//! SMTP: one mail transaction at a time over a kept session.
//!
//! [`Session::open`] makes a session that is ready for mail, [`Session::transact`] offers one mail and says for every
//! recipient what the reply table ([`judge`]) made of the server's answers, [`Session::close`] ends the session and
//! says whether the server has closed its side: only then is it sure that the server no longer counts it.
//!
//! The replies are read by a small parser of our own, not by `lettre`'s connection: that one fuses greeting and EHLO
//! in one step, keeps neither PIPELINING, SIZE nor CHUNKING from the EHLO reply, keeps what it had read in clear text
//! across STARTTLS, sends BDAT content only as text, and gives no access to the socket, which is needed to see the
//! server's end of a session. `lettre` builds the messages ([`crate::mail`]).

mod connect;
mod ending;
mod fault;
mod heard;
mod network;
mod offers;
mod open;
mod reply;
mod reply_reader;
mod reply_text;
mod send;
mod session;
mod stream;
mod table;
mod tls;
mod transaction;
mod transport;

pub use connect::{Credentials, Endpoint, StepLimits};
pub use ending::{Closed, Lingering};
pub use network::{Bytes, Connected, Connection, Dial, Handle, Network, Tcp};
pub use offers::Offers;
pub use open::OpenError;
pub use reply::{
    Class, Disposition, EnhancedCode, Event, PauseReason, Reply, Resend, ServerSignal, Situation, Step, Verdict, Why,
};
pub use session::{Chunking, Features, Session};
pub use table::judge;
pub use tls::TlsRoots;
pub use transaction::{Commit, MailData, MailOutcome, RecipientOutcome, Transaction, TransactionError};
