//! A simulated process: a tokio runtime of its own whose clock stands still until the world lets it run on.
//!
//! The world steps every process through the same short windows of virtual time. Inside a window tokio's paused clock hops
//! from timer to timer. What a process does not get to do because it was stopped, it does when it goes on, its clocks
//! having gone ahead, as after SIGCONT. Killing it drops the runtime, and with it all tasks and sockets.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mailrelay::{
    lease::{BootTime, DeadManSwitch},
    system,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    task::JoinHandle,
    time::Instant,
};

/// Since the world began.
pub type Time = Duration;

/// What the wall clocks say when the world begins: 2026-11-21T00:00:00Z.
const EPOCH: Duration = Duration::from_secs(1_795_219_200);
/// How long every machine has been up when the world begins.
pub const UPTIME: Duration = Duration::from_secs(1_000);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
    static WORLD: Cell<Time> = const { Cell::new(Time::ZERO) };
}

/// Now: the time of the process that runs, else the world's.
pub fn now() -> Time {
    CURRENT.with_borrow(|current| current.as_ref().map_or_else(|| WORLD.get(), |process| process.now()))
}

/// The process that runs.
pub fn current() -> Option<Arc<Process>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Sets the world's time.
pub fn set_world(time: Time) {
    WORLD.set(time);
}

/// The clocks of whoever runs.
struct Clocks;

impl system::Source for Clocks {
    fn boot_clock(&self) -> Duration {
        UPTIME + now()
    }

    fn wall_clock(&self) -> SystemTime {
        let skew = current().map_or(0, |process| process.skew_ms.load(Ordering::Relaxed));
        let wall = UNIX_EPOCH + EPOCH + now();
        let by = Duration::from_millis(skew.unsigned_abs());
        if skew < 0 { wall - by } else { wall + by }
    }

    fn fill(&self, bytes: &mut [u8]) {
        match current() {
            Some(process) => process.chance.lock().expect("no panic inside").fill_bytes(bytes),
            None => panic!("chance outside of any process"),
        }
    }
}

/// Makes this thread a world.
pub fn begin_world() {
    set_world(Time::ZERO);
    system::simulate(Some(Rc::new(Clocks)));
}

/// Makes it an ordinary thread again.
pub fn end_world() {
    system::simulate(None);
}

/// What is known of a process from outside.
#[derive(Debug)]
pub struct Process {
    /// For people.
    pub name: String,
    /// Its network place.
    pub place: u32,
    born: Time,
    base: Instant,
    skew_ms: Arc<AtomicI64>,
    chance: Mutex<SmallRng>,
    /// When the dead-man switch kills it.
    deadline: Mutex<Option<Time>>,
    rearmed: Notify,
}

impl Process {
    fn now(&self) -> Time {
        // Outside of its runtime its clock cannot be read.
        if tokio::runtime::Handle::try_current().is_err() {
            return WORLD.get();
        }
        self.born + Instant::now().duration_since(self.base)
    }

    fn deadline(&self) -> Option<Time> {
        *self.deadline.lock().expect("no panic inside")
    }
}

/// The kernel's timer of a process.
#[derive(Debug)]
pub struct Switch(pub Arc<Process>);

impl DeadManSwitch for Switch {
    fn arm(&self, deadline: BootTime) -> bool {
        *self.0.deadline.lock().expect("no panic inside") = Some(deadline.since_boot().saturating_sub(UPTIME));
        self.0.rearmed.notify_one();
        true
    }

    fn disarm(&self) {
        *self.0.deadline.lock().expect("no panic inside") = None;
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on.
    Lives,
    /// Its main task came to its end.
    Ended,
    /// Its dead-man switch killed it.
    Shot,
}

/// A process that runs, or is stopped.
pub struct Running {
    /// What is known of it.
    pub process: Arc<Process>,
    runtime: Option<Runtime>,
    main: JoinHandle<()>,
    /// SIGSTOP.
    pub stopped: bool,
}

impl Running {
    /// Starts a process whose main task is what `main` makes; `seed` decides its chance, tokio's included.
    pub fn start<F>(
        name: &str,
        place: u32,
        skew_ms: &Arc<AtomicI64>,
        seed: u64,
        main: impl FnOnce(Arc<Process>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
        let runtime = builder.build().expect("a runtime");
        let base = runtime.block_on(async { Instant::now() });
        let process = Arc::new(Process {
            name: name.to_owned(),
            place,
            born: WORLD.get(),
            base,
            skew_ms: Arc::clone(skew_ms),
            chance: Mutex::new(SmallRng::seed_from_u64(seed)),
            deadline: Mutex::new(None),
            rearmed: Notify::new(),
        });
        let entered = Entered::new(&process);
        let main = {
            let _inside = runtime.enter();
            tokio::spawn(main(Arc::clone(&process)))
        };
        drop(entered);
        Self { process, runtime: Some(runtime), main, stopped: false }
    }

    /// Lets it run until the world's time is `until`, unless it is stopped.
    pub fn step(&mut self, until: Time) -> Step {
        let process = Arc::clone(&self.process);
        let Some(runtime) = &self.runtime else { return Step::Ended };
        if self.stopped {
            return if process.deadline().is_some_and(|deadline| deadline <= until) { Step::Shot } else { Step::Lives };
        }
        let entered = Entered::new(&process);
        let start = WORLD.get();
        runtime.block_on(async {
            // It was stopped: time has passed for it at once.
            let behind = start.saturating_sub(process.now());
            if !behind.is_zero() {
                tokio::time::advance(behind).await;
            }
            loop {
                let end = process.deadline().map_or(until, |deadline| deadline.min(until));
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(process.base + end.saturating_sub(process.born)) => break,
                    () = process.rearmed.notified() => {}
                }
            }
        });
        drop(entered);
        if process.deadline().is_some_and(|deadline| deadline <= until) {
            return Step::Shot;
        }
        if self.main.is_finished() { Step::Ended } else { Step::Lives }
    }

    /// Whether its dead-man switch has gone off.
    pub fn is_doomed(&self, at: Time) -> bool {
        self.process.deadline().is_some_and(|deadline| deadline <= at)
    }

    /// Does something as if this process did it.
    pub fn within<R>(&self, action: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(&self.process);
        match &self.runtime {
            Some(runtime) => runtime.block_on(async { action() }),
            None => action(),
        }
    }

    fn end(&mut self) {
        let entered = Entered::new(&self.process);
        self.runtime = None;
        drop(entered);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// While it lives, a process is the current one.
struct Entered(Option<Arc<Process>>);

impl Entered {
    fn new(process: &Arc<Process>) -> Self {
        Self(CURRENT.with_borrow_mut(|current| current.replace(Arc::clone(process))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| *current = self.0.take());
    }
}
