//! What all tasks of a worker share.

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    credentials::CredentialsFolder,
    deadline::Deadlines,
    fleet::Fleet,
    follow::{Followed, Refused},
    guard::DeathGuard,
    host::{Guard, Host},
    outcome::{Conclusion, Policy},
    settle::Settler,
    wishes::Intake,
};
use crate::{
    lease::{Identity, ProcessId},
    queue::{Queue, Room, Settlement, TOO_OLD},
    store::Store,
    telemetry::metrics::WorkerMetrics,
};

/// More than sessions can ever be.
const EVERYBODY: u32 = 1 << 20;

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
    pub guard: Mutex<DeathGuard>,
    /// Login files.
    pub files: CredentialsFolder,
    /// Figures.
    pub metrics: WorkerMetrics,
    /// The queue that mail is taken from, once known; clones share what is known of lost claims.
    pub queue: Mutex<Option<Queue>>,
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
    /// One permit for each mail being sent; all of them for a mail that must be sent alone.
    pub admission: Arc<Semaphore>,
}

impl Context {
    /// A semaphore for [`Context::admission`].
    pub fn admission() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(EVERYBODY as usize))
    }

    /// Waits until a mail may be sent: with others, or with nothing beside it.
    pub async fn admit(&self, alone: bool) -> Option<OwnedSemaphorePermit> {
        let permits = if alone { EVERYBODY } else { 1 };
        // The semaphore is never closed.
        Arc::clone(&self.admission).acquire_many_owned(permits).await.ok()
    }

    /// Notes how a mail ended; should too much mail die, all servers rest. What is left of a mail that others have is none.
    pub fn watch_deaths(&self, recipient: &str, Conclusion { settlement, per_recipient, .. }: &Conclusion) {
        let Policy { retry, .. } = self.settler.policy();
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let was_taken = matches!(settlement, Settlement::Delivered { .. }) || !per_recipient.accepted.is_empty();
        let rest = match settlement {
            _ if !retry.dead_letter_guard => {
                *guard = DeathGuard::default();
                None
            }
            _ if was_taken => {
                guard.taken();
                None
            }
            // Time killed it, not a server.
            Settlement::Dead { reason, .. } if reason != TOO_OLD => guard.died(recipient),
            _ => None,
        };
        drop(guard);
        if let (Some(rest), Settlement::Dead { reply, .. }) = (rest, settlement) {
            let rested = self.fleet.servers().iter().filter(|server| server.rest_from_deaths(rest, reply)).count();
            if rested > 0 {
                self.guard.lock().unwrap_or_else(PoisonError::into_inner).rested();
            }
        }
    }

    /// The queue that mail is taken from, once known.
    pub fn queue(&self) -> Option<Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which queue mail is taken from now.
    pub fn set_queue(&self, queue: Queue) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
    }
}

/// Our name for EHLO when none was given: the pod's host name.
pub fn default_helo() -> String {
    let name = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = name.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if is_name { name.to_owned() } else { "localhost".to_owned() }
}
