//! The dead-man switch (R6): a timer in the kernel that kills the process at the deadline of its lease, even
//! while the process is stopped, so that its connections end whatever becomes of it.
//!
//! The timer is POSIX's `timer_create` on `CLOCK_BOOTTIME` with SIGKILL. Its handle must stay on the thread that made it,
//! so each switch has a small thread of its own; arming waits for that thread's word that the kernel has taken it.
//!
//! SIGKILL from a process's own timer does nothing to process 1 of a PID namespace, and who knows what a sandbox does with
//! timers: [`self_check`] tries it out where the worker runs, before any connection is opened.

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{SigEvent, SigevNotify, Signal},
        time::TimeSpec,
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::ClockId,
};

use super::clock::BootTime;

/// Kills the process at the deadline unless it is armed anew. Called with the lock on the count of slots held, so both
/// must be quick and may not wait for anything but the kernel.
pub trait DeadManSwitch: Send + Sync {
    /// Kill at `deadline`. Called before a slot is counted, so before its `connect()`, and at each renewal while any is.
    /// Returns whether it is armed; if not, no slot may be counted, and an earlier deadline stays in force.
    #[must_use]
    fn arm(&self, deadline: BootTime) -> bool;
    /// No slot is counted any more.
    fn disarm(&self);
}

/// No protection: what a stopped process holds stays open past its deadline. For tests and simulations.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSwitch;

impl DeadManSwitch for NoSwitch {
    fn arm(&self, _deadline: BootTime) -> bool {
        true
    }
    fn disarm(&self) {}
}

/// Never armed, so that no slot is ever counted: for a process that found no switch to work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unprotected;

impl DeadManSwitch for Unprotected {
    fn arm(&self, _deadline: BootTime) -> bool {
        false
    }
    fn disarm(&self) {}
}

/// The kernel's timer.
#[derive(Debug)]
pub struct KernelSwitch {
    line: Mutex<Line>,
}

/// Orders to the thread that has the timer (`None`: disarm), and whether the last was carried out.
#[derive(Debug)]
struct Line {
    orders: mpsc::Sender<Option<BootTime>>,
    done: mpsc::Receiver<bool>,
}

impl KernelSwitch {
    /// A disarmed switch; its thread and timer end with it. When the system gives no thread or no timer, arming fails.
    pub fn new() -> Self {
        let (orders, order) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        let started = thread::Builder::new().name("dead-man".to_owned()).spawn(move || serve(&order, &tell));
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the dead-man switch");
        }
        Self { line: Mutex::new(Line { orders, done }) }
    }

    fn order(&self, deadline: Option<BootTime>) -> bool {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // An end of the line means that there is no thread, hence no timer.
        line.orders.send(deadline).is_ok() && line.done.recv().unwrap_or(false)
    }
}

impl Default for KernelSwitch {
    fn default() -> Self {
        Self::new()
    }
}

impl DeadManSwitch for KernelSwitch {
    fn arm(&self, deadline: BootTime) -> bool {
        self.order(Some(deadline))
    }

    fn disarm(&self) {
        // What stays armed by mistake kills a process without connections, which costs a restart.
        let _ = self.order(None);
    }
}

/// Owns the timer and does as it is told, until nobody can tell it anything any more.
fn serve(orders: &mpsc::Receiver<Option<BootTime>>, tell: &mpsc::Sender<bool>) {
    let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
    let mut timer = match Timer::new(ClockId::CLOCK_BOOTTIME, kill) {
        Ok(timer) => timer,
        Err(error) => {
            tracing::error!(%error, "no timer for the dead-man switch");
            return;
        }
    };
    for order in orders {
        // A moment that is zero disarms; one in the past kills at once, as it should.
        let at = order.map_or(Duration::ZERO, |deadline| deadline.since_boot().max(Duration::from_nanos(1)));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(at));
        let set = timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        if let Err(error) = &set {
            tracing::error!(%error, "the dead-man switch could not be set");
        }
        if tell.send(set.is_ok()).is_err() {
            return;
        }
    }
}

/// Why connections may not be opened here.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SwitchError {
    /// The kernel does not let a process kill process 1 of its own PID namespace.
    #[error(
        "this process is number 1 of its PID namespace, which no timer of its own can kill; \
         start `mailrelay worker` without --unsupervised, so that number 1 is a supervisor"
    )]
    FirstProcess,
    /// The trial process could not be started or watched.
    #[error("the dead-man switch could not be tried out: {0}")]
    NotTried(String),
    /// The trial process was not killed.
    #[error(
        "a process that armed its dead-man switch was not killed by it but ended with {0}; timers do not work here"
    )]
    NotKilled(String),
}

/// The command that makes this binary a trial process.
pub const TRIAL: &str = "try-switch";
/// How soon the trial process is to be killed.
const TRIAL_TIME: Duration = Duration::from_millis(50);
/// How long the trial process waits for that; a healthy machine may be slow.
const TRIAL_LIMIT: Duration = Duration::from_secs(5);

/// Finds out whether the switch works where this process runs: a child of the same binary arms it and must die of it.
///
/// Cancelling kills the child.
///
/// # Errors
/// Why no connection may be opened here.
pub async fn self_check() -> Result<(), SwitchError> {
    if std::process::id() == 1 {
        return Err(SwitchError::FirstProcess);
    }
    let mut trial = std::process::Command::new("/proc/self/exe");
    trial.arg0("mailrelay").arg(TRIAL).env_clear();
    trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = tokio::process::Command::from(trial).kill_on_drop(true).status();
    match tokio::time::timeout(TRIAL_LIMIT * 2, status).await {
        Ok(Ok(status)) => judge(status),
        Ok(Err(error)) => Err(SwitchError::NotTried(error.to_string())),
        Err(_) => Err(SwitchError::NotTried(format!("it did not end within {:?}", TRIAL_LIMIT * 2))),
    }
}

fn judge(status: ExitStatus) -> Result<(), SwitchError> {
    if status.signal() == Some(Signal::SIGKILL as i32) {
        return Ok(());
    }
    Err(SwitchError::NotKilled(status.to_string()))
}

/// The trial process: arms the switch and does not survive, unless the switch does not work.
pub fn trial() {
    let switch = KernelSwitch::new();
    if switch.arm(BootTime::now() + TRIAL_TIME) {
        thread::sleep(TRIAL_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_is_disarmed_or_gone_does_not_kill() {
        let switch = KernelSwitch::new();
        assert!(switch.arm(BootTime::now() + Duration::from_millis(300)));
        assert!(switch.arm(BootTime::now() + Duration::from_millis(200)), "armed anew");
        switch.disarm();
        let dropped = KernelSwitch::new();
        assert!(dropped.arm(BootTime::now() + Duration::from_millis(200)));
        drop(dropped);
        // This test fails by the death of the test process; time itself is what it is about.
        thread::sleep(Duration::from_millis(400));
    }

    #[test]
    fn only_death_by_the_signal_shows_that_the_switch_works() {
        assert_eq!(judge(ExitStatus::from_raw(Signal::SIGKILL as i32)), Ok(()));
        assert!(matches!(judge(ExitStatus::from_raw(0)), Err(SwitchError::NotKilled(_))));
        assert!(matches!(judge(ExitStatus::from_raw(Signal::SIGTERM as i32)), Err(SwitchError::NotKilled(_))));
    }
}
