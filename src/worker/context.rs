//! What all tasks of a worker share.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Admission,
    credentials::CredentialsFolder,
    current_queue::CurrentQueue,
    deadline::Deadlines,
    deaths::DeathWatch,
    fleet::Fleet,
    follow::{Followed, Refused},
    host::{Guard, Host},
    requests::Intake,
    settle::Settler,
};
use crate::{
    lease::{Identity, ProcessId},
    queue::Room,
    store::Store,
    telemetry::metrics::WorkerMetrics,
};

/// What all tasks of a worker share.
pub struct Context {
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Redis.
    pub store: Store,
    /// The relay in force.
    pub relay: Followed,
    /// Why the record that is there is not in force.
    pub refused: Refused,
    /// Name of the relay.
    pub relay_name: String,
    /// This run of the worker.
    pub process: ProcessId,
    /// Who we are, for the leases.
    pub identity: Identity,
    /// Where sessions ask for mail.
    pub intake: Intake,
    /// The task that answers them.
    pub intake_task: TaskTracker,
    /// Proof that no other process of this pod is a worker, kept until this one ends.
    pub only_worker: OnceLock<Guard>,
    /// The servers and their sessions.
    pub fleet: Fleet,
    /// Where outcomes go.
    pub settler: Settler,
    /// Whether too much mail dies.
    pub deaths: DeathWatch,
    /// Login files.
    pub files: CredentialsFolder,
    /// Figures.
    pub metrics: WorkerMetrics,
    /// The queue that mail is taken from.
    pub queue: CurrentQueue,
    /// Memory for the mails in hand.
    pub room: Room,
    /// How long a mail may stay at one stage.
    pub deadlines: Deadlines,
    /// Our name in EHLO.
    pub helo: String,
    /// How long a session without work is kept.
    pub idle: Duration,
    /// Ends when no new mail may be started.
    pub stop: CancellationToken,
    /// Ends when sessions that still live must be given up as they are.
    pub out_of_time: CancellationToken,
    /// Told when a mail may be due at once.
    pub promote: Notify,
    /// Which mails may be sent beside others.
    pub admission: Admission,
}

/// Our name for EHLO when none was given: the pod's host name.
pub fn default_helo() -> String {
    let name = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = name.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if is_name { name.to_owned() } else { "localhost".to_owned() }
}
