//! `mailrelay worker`

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use super::{
    error::CliError,
    runtime::{raise_file_limit, runtime},
};
use crate::{
    api::DurationText,
    store::StoreOptions,
    worker::{self, WorkerOptions, supervisor},
};

/// How the worker is set up; in a pod, the environment says all of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Name of the relay to work for
    #[arg(long, env = "MAILRELAY_NAME", value_name = "NAME")]
    relay: String,
    /// Namespace of the relay and of this pod
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,
    /// Name of this pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    /// UID of this pod
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pod_uid: String,
    /// Folder with SERVER/{username,password,token,ca.crt,allowed-hosts}
    #[arg(long, env = "MAILRELAY_CREDENTIALS_DIR", value_name = "PATH", default_value = "/etc/mailrelay/credentials")]
    credentials_dir: PathBuf,
    /// Where /livez, /readyz and /metrics are served: all addresses, at a port that applications do not use
    #[arg(long, env = "MAILRELAY_HTTP", value_name = "ADDRESS", default_value = "[::]:9425")]
    http: SocketAddr,
    /// How long mails that are being sent may take to finish after SIGTERM; less than the pod's grace period
    #[arg(long, env = "MAILRELAY_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "25s")]
    drain_timeout: DurationText,
    /// How long a session without work is kept open, so that the next mail needs no new one
    #[arg(long, env = "MAILRELAY_IDLE_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    idle_timeout: DurationText,
    /// How long a mail transaction may take until its message is complete (a large one longer: 16 KiB a second are enough),
    /// and from there until the server has answered. Then the mail goes back to the queue, or its outcome is unknown
    #[arg(long, env = "MAILRELAY_TRANSACTION_TIMEOUT", value_name = "DURATION", default_value = "20m")]
    transaction_timeout: DurationText,
    /// The name to give in EHLO [default: the host name of the pod]
    #[arg(long, env = "MAILRELAY_HELO", value_name = "NAME")]
    helo: Option<String>,
    /// Run the worker as a child that is started again when it dies; always so as process 1
    #[arg(long)]
    supervise: bool,
    /// End when the process ends that started this one, however that happens
    #[arg(long, hide = true)]
    end_with_parent: bool,
    /// Be the child
    #[arg(long, hide = true, conflicts_with = "supervise")]
    unsupervised: bool,
}

/// Runs the worker, or the supervisor of one.
pub fn run(arguments: Arguments, store: StoreOptions) -> Result<ExitCode, CliError> {
    raise_file_limit();
    if arguments.unsupervised || arguments.end_with_parent {
        supervisor::end_with_parent();
    }
    if supervisor::is_wanted(arguments.supervise) && !arguments.unsupervised {
        return supervise();
    }
    let runtime = runtime(tokio::runtime::Builder::new_multi_thread())?;
    let outcome = runtime.block_on(worker::run(arguments.options(store)));
    // Tasks that wait for nobody must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome.map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

fn supervise() -> Result<ExitCode, CliError> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--supervise").collect();
    // One thread: the child is told to end with the thread that started it.
    let code = runtime(tokio::runtime::Builder::new_current_thread())?
        .block_on(supervisor::supervise(arguments))
        .map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(ExitCode::from(code))
}

impl Arguments {
    fn options(self, store: StoreOptions) -> WorkerOptions {
        WorkerOptions {
            store,
            namespace: self.namespace,
            relay: self.relay,
            pod: self.pod_name,
            pod_uid: self.pod_uid,
            credentials: self.credentials_dir,
            http: self.http,
            drain: self.drain_timeout.get(),
            idle: self.idle_timeout.get(),
            transaction: self.transaction_timeout.get(),
            helo: self.helo,
        }
    }
}
