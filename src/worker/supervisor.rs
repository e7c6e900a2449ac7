//! The process that keeps a worker running.
//!
//! The kernel does not let a process kill PID 1 of its own container, so a worker that must die (a timer that fires at
//! its lease's end, lease R6; a panic; the OOM killer) must not be PID 1. PID 1 is this: it opens no connection,
//! starts the same binary as the worker, hands SIGTERM and SIGINT on, collects the processes that end, and starts the
//! worker again at once when it dies. It outlives the worker, so it is also the witness of how the dead one's connections
//! end ([`super::Witness`]).

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    pin::pin,
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    connection_file::ConnectionFile,
    kernel_sockets,
    memory::{self, OUT_OF_MEMORY},
    witness::Witness,
};
use crate::lease::{BootTime, Timing};

/// Tells the child that it is the worker itself.
pub const UNSUPERVISED_FLAG: &str = "--unsupervised";
/// Exit code of a command line that makes no sense: starting again cannot help.
const WRONG_USAGE: i32 = 2;

/// When a worker that keeps dying is started again: at once, unless it died often in a short time.
#[derive(Debug)]
struct Restarts {
    recent: VecDeque<Instant>,
}

impl Restarts {
    const WINDOW: Duration = Duration::from_secs(10);
    const AT_ONCE: usize = 5;
    const PAUSE: Duration = Duration::from_secs(1);

    fn new() -> Self {
        Self { recent: VecDeque::new() }
    }

    /// Counts one death at `now`; how long to wait before the next start.
    fn delay(&mut self, now: Instant) -> Duration {
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| now.duration_since(*first) > Self::WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() > Self::AT_ONCE { Self::PAUSE } else { Duration::ZERO }
    }
}

/// How often the kernel is asked about the connections of a dead worker.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The connections of dead workers, until the kernel proves that the server has ended them.
struct Inquest {
    file: ConnectionFile,
    /// What workers inherit.
    descriptor: OwnedFd,
    witness: Witness,
    settle: Duration,
}

impl Inquest {
    fn open() -> io::Result<Self> {
        let (file, descriptor) = ConnectionFile::create()?;
        Ok(Self { file, descriptor, witness: Witness::default(), settle: Timing::default().settle })
    }

    /// The worker has died, and the next one is not started yet.
    fn begin(&mut self) {
        let now = BootTime::now();
        match self.file.bury(now) {
            Ok(left) => left.into_iter().for_each(|(entry, ends)| self.witness.watch(entry, ends)),
            Err(error) => tracing::warn!(%error, "the dead worker's connections are not known; they are withheld"),
        }
        self.look();
    }

    /// Strikes out what the kernel proves. Where it can't be asked nothing is proven, and nothing is forgotten.
    fn look(&mut self) {
        let now = BootTime::now();
        let looked = kernel_sockets::connections().and_then(|kernel| Ok((kernel, self.file.in_use()?)));
        let proven = match looked {
            Ok((kernel, used)) => self.witness.look(&kernel, &used, self.settle, now),
            Err(error) => {
                tracing::debug!(%error, "cannot look for the connections of the dead worker");
                return;
            }
        };
        for entry in proven {
            if let Err(error) = self.file.strike(entry) {
                tracing::debug!(%error, "the end of a connection could not be written down");
            }
        }
    }

    /// Resolves when it is time for another look; never while there is nothing to look for.
    async fn due(&self) {
        if self.witness.is_idle() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why the supervisor gave up.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A signal handler could not be installed, or the child could not be started.
    #[error("cannot start the worker process: {0}")]
    Start(#[source] io::Error),
}

/// Whether this process should supervise rather than work: it is PID 1, or it was asked to.
pub fn is_wanted(asked: bool) -> bool {
    asked || std::process::id() == 1
}

/// Runs the worker as a child until a signal ends it; the exit code to end with (128 + n for signal n).
///
/// `arguments` are those of this process without its name.
pub async fn supervise(arguments: Vec<OsString>) -> Result<u8, SupervisorError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(SupervisorError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SupervisorError::Start)?;
    // Registered before the first start, so that no end is missed.
    let mut ended = signal(SignalKind::child()).map_err(SupervisorError::Start)?;
    let mut restarts = Restarts::new();
    let mut inquest = Inquest::open().map_err(SupervisorError::Start)?;
    let mut out_of_memory = false;
    loop {
        let kills = memory::kills();
        let child = start(&arguments, &inquest.descriptor, out_of_memory).map_err(SupervisorError::Start)?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut stopping = false;
        let end = loop {
            tokio::select! {
                _ = terminate.recv() => { stopping = true; forward(pid, Signal::SIGTERM); }
                _ = interrupt.recv() => { stopping = true; forward(pid, Signal::SIGINT); }
                _ = ended.recv() => if let Some(end) = collect(pid) { break end },
                () = inquest.due() => inquest.look(),
            }
        };
        inquest.begin();
        let code = exit_code(end);
        if stopping || code == WRONG_USAGE {
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
        // The kernel counts before it kills.
        out_of_memory = code == 128 + Signal::SIGKILL as i32 && memory::kills() > kills;
        let delay = restarts.delay(Instant::now());
        tracing::error!(
            worker.pid = pid.as_raw(),
            worker.exit_code = code,
            worker.out_of_memory = out_of_memory,
            restart.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "the worker process ended; it is started again"
        );
        let mut pause = pin!(tokio::time::sleep(delay));
        loop {
            tokio::select! {
                () = &mut pause => break,
                _ = terminate.recv() => return Ok(0),
                _ = interrupt.recv() => return Ok(0),
                () = inquest.due() => inquest.look(),
            }
        }
    }
}

fn start(arguments: &[OsString], connections: &OwnedFd, out_of_memory: bool) -> io::Result<Child> {
    let (name, number) = ConnectionFile::environment(connections);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("mailrelay").args(arguments).arg(UNSUPERVISED_FLAG).env(name, number);
    if out_of_memory {
        // What it left behind is judged by that.
        command.env(OUT_OF_MEMORY, "1");
    }
    command.spawn()
}

/// The child may have ended a moment ago: then its end is on its way to us, and there is nobody to tell.
fn forward(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}

/// Collects every process that ended, ours and those that were left to PID 1; the end of `worker`, when it is among them.
fn collect(worker: Pid) -> Option<WaitStatus> {
    let mut end = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            // Nobody else ended, or nobody is left (ECHILD).
            Ok(WaitStatus::StillAlive) | Err(_) => return end,
            Ok(status) if status.pid() == Some(worker) => end = Some(status),
            Ok(_) => {}
        }
    }
}

fn exit_code(end: WaitStatus) -> i32 {
    match end {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 1,
    }
}

/// For the child: end when the supervisor ends, however that happens. Outside a container nothing else would.
pub fn end_with_parent() {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_dies_now_and_then_is_started_at_once() {
        let mut restarts = Restarts::new();
        let start = Instant::now();
        for death in 0..20 {
            assert_eq!(restarts.delay(start + Duration::from_secs(3 * death)), Duration::ZERO);
        }
    }

    #[test]
    fn a_worker_that_dies_in_a_loop_is_started_once_a_second() {
        let mut restarts = Restarts::new();
        let start = Instant::now();
        let delays: Vec<_> = (0..7).map(|death| restarts.delay(start + Duration::from_millis(death))).collect();
        assert_eq!(delays[..5], [Duration::ZERO; 5]);
        assert_eq!(delays[5..], [Restarts::PAUSE; 2]);
    }

    #[test]
    fn a_signal_shows_in_the_exit_code_as_shells_have_it() {
        let pid = Pid::from_raw(1);
        assert_eq!(exit_code(WaitStatus::Signaled(pid, Signal::SIGKILL, false)), 137);
        assert_eq!(exit_code(WaitStatus::Exited(pid, 0)), 0);
    }
}
