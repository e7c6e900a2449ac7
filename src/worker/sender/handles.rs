//! What all sessions of a worker work with.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    lease::ProcessId,
    smtp::Network,
    telemetry::metrics::WorkerMetrics,
    worker::{
        admission::Admission, credentials::CredentialsFolder, deadline::Deadlines, deaths::DeathWatch, fleet::Fleet,
        requests::Intake, settle::Settler,
    },
};

/// What all sessions work with.
pub struct Handles {
    /// This run of the worker.
    pub process: ProcessId,
    /// The way to the mail servers.
    pub network: Arc<dyn Network>,
    /// Our name in EHLO.
    pub helo: String,
    /// Login files.
    pub files: Arc<CredentialsFolder>,
    /// Where they ask for mail.
    pub intake: Intake,
    /// The servers and their sessions.
    pub fleet: Fleet,
    /// Where outcomes go.
    pub settler: Settler,
    /// Whether too much mail dies.
    pub deaths: DeathWatch,
    /// Which mails may be sent beside others.
    pub admission: Admission,
    /// How long a mail may stay at one stage.
    pub deadlines: Deadlines,
    /// How long a session without work is kept.
    pub idle: Duration,
    /// Told when a mail may be due at once.
    pub promote: Arc<Notify>,
    /// Figures.
    pub metrics: WorkerMetrics,
    /// Ends when no new mail may be started.
    pub stop: CancellationToken,
    /// Ends when sessions that still live must be given up as they are.
    pub out_of_time: CancellationToken,
}
