//! Step 5: what is shown: statuses, finalizers and Events of relays and mail servers.

mod activity;
mod compose;
mod conditions;
mod debts;
mod facts;
mod finalizers;
mod mail_server;
mod mail_servers;
mod measure;
mod measured;
pub mod mirror;
mod note;
mod notes;
mod recorder;
mod relays;
mod shown;
mod slots;
mod unreadable;
mod writer;

pub use activity::{Activity, show_new, watch_activity};
pub use mail_servers::MailServers;
pub use measure::queue_of;
pub use note::{Action, News, Note};
pub use recorder::EventRecorder;
pub use relays::Relays;
pub use writer::StatusWriter;
