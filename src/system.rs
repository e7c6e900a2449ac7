//! Clocks, chance and file descriptors: the one place where this program asks its surroundings for any of them.
//!
//! A simulation runs many processes on one thread, each with clocks of its own and all with chance from one seed
//! (`tests/simulation`): it gives the thread a [`Source`]. Without one, as always in production, the kernel answers.
//! What only waits, or measures how long something took, uses tokio's clock, which tests can stop.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    rc::Rc,
    time::{Duration, SystemTime},
};

use nix::{
    libc,
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use rand::{Rng, RngExt, TryRng};
use tokio::signal::unix::{SignalKind, signal};

/// Clocks and random numbers of a simulated process.
pub trait Source {
    /// Since the boot of the machine, suspend included.
    fn boot_clock(&self) -> Duration;
    /// What people would set a watch by; it may jump.
    fn wall_clock(&self) -> SystemTime;
    /// Random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

thread_local! {
    static SOURCE: RefCell<Option<Rc<dyn Source>>> = const { RefCell::new(None) };
}

/// Asks `source` from now on, on this thread only; `None`: the kernel again. For simulations.
pub fn simulate(source: Option<Rc<dyn Source>>) {
    SOURCE.with(|current| *current.borrow_mut() = source);
}

fn simulated() -> Option<Rc<dyn Source>> {
    // A destructor that runs while the thread ends finds no source.
    SOURCE.try_with(|source| source.borrow().clone()).ok().flatten()
}

/// Resolves when this process is asked to end, by SIGTERM or SIGINT. To be called inside a tokio runtime.
pub fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// `CLOCK_BOOTTIME`: since the machine's boot, suspend included.
///
/// # Panics
/// Never on Linux 2.6.39 or later, which all have this clock.
pub fn boot_clock() -> Duration {
    match simulated() {
        Some(source) => source.boot_clock(),
        None => clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39").into(),
    }
}

/// `CLOCK_REALTIME`: good for retries and for people, never for leases.
pub fn wall_clock() -> SystemTime {
    simulated().map_or_else(SystemTime::now, |source| source.wall_clock())
}

/// [`wall_clock`] as Kubernetes writes it.
pub fn timestamp() -> jiff::Timestamp {
    jiff::Timestamp::try_from(wall_clock()).unwrap_or_default()
}

/// A random number from 0 to 1.
pub fn fraction() -> f64 {
    rng().random()
}

/// The random number generator: the thread's own, or the simulation's.
pub fn rng() -> impl Rng {
    Generator
}

/// So many random bytes.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rng().fill_bytes(&mut bytes);
    bytes
}

/// Allows this process, and those that it starts from now on, as many open files as the system lets it have. Many systems
/// give 1,024 unless asked, which suits programs that use `select`.
pub fn raise_file_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Whether no file descriptor was left, to this process or to the whole machine: no fault of whatever was to be opened.
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

struct Generator;

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match simulated() {
            Some(source) => source.fill(bytes),
            None => rand::rng().fill_bytes(bytes),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    struct Fixed;

    impl Source for Fixed {
        fn boot_clock(&self) -> Duration {
            Duration::from_secs(7)
        }
        fn wall_clock(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(9)
        }
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0xa5);
        }
    }

    #[test]
    fn a_source_answers_on_its_thread_only_and_until_it_is_taken_away() {
        simulate(Some(Rc::new(Fixed)));
        assert_eq!((boot_clock(), wall_clock()), (Duration::from_secs(7), UNIX_EPOCH + Duration::from_secs(9)));
        assert_eq!((rng().next_u32(), random_bytes::<3>()), (0xa5a5_a5a5, [0xa5; 3]));
        let elsewhere = std::thread::spawn(|| (boot_clock(), random_bytes::<16>()));
        let (boot, random) = elsewhere.join().expect("the other thread");
        assert!(boot != Duration::from_secs(7) && random != [0xa5; 16]);
        simulate(None);
        assert!(wall_clock() > UNIX_EPOCH + Duration::from_secs(9));
        assert_ne!(random_bytes::<16>(), random_bytes::<16>());
    }
}
