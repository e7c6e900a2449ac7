//! How fast many letters are decided on, and what is told meanwhile.

use std::{
    io::{IsTerminal as _, Write as _},
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use super::{bulk::summary, error::CliError};
use crate::queue::Bulk;

/// So many in a time; none is as fast as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<(NonZeroU32, Duration)>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Self(None));
        }
        let error = || format!("not a rate: {text:?}; write a number and /s, /m or /h, such as 100/s, or max");
        let (number, unit) = text.split_once('/').ok_or_else(error)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return Err(error()),
        };
        Ok(Self(Some((number.parse().map_err(|_| error())?, Duration::from_secs(seconds)))))
    }
}

/// At most so much of a second's worth goes at once after a wait.
const BURST: f64 = 0.1;

/// How many may go by a rate. Times are arguments.
#[derive(Debug)]
struct Allowance {
    /// Letters a second.
    rate: f64,
    saved: f64,
    at: Duration,
    done: u64,
}

impl Allowance {
    fn new(number: NonZeroU32, time: Duration) -> Self {
        Self { rate: f64::from(number.get()) / time.as_secs_f64(), saved: 1.0, at: Duration::ZERO, done: 0 }
    }

    /// How many may go `now`, when `done` went until now, or how long until one may.
    fn ask(&mut self, now: Duration, done: u64) -> Result<usize, Duration> {
        let most = (self.rate * BURST).max(1.0);
        let since = now.saturating_sub(self.at).as_secs_f64();
        // Batches are small: the difference is exact.
        let spent = u32::try_from(done.saturating_sub(self.done)).map_or(f64::MAX, f64::from);
        self.saved = (self.saved - spent + since * self.rate).min(most);
        (self.at, self.done) = (now, done);
        if self.saved < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.saved) / self.rate).max(Duration::from_millis(1)));
        }
        let mut whole = 1;
        while f64::from(whole) + 1.0 <= self.saved {
            whole += 1;
        }
        Ok(usize::try_from(whole).unwrap_or(usize::MAX))
    }
}

/// Holds a bulk decision to its rate, tells on standard error how far it is, and hears Ctrl-C.
pub struct Pace {
    allowance: Option<Allowance>,
    began: Instant,
    told: Instant,
    verb: &'static str,
    last: Bulk,
    interrupt: Signal,
    stopped: bool,
    terminal: bool,
}

impl Pace {
    /// Begins now.
    pub fn new(rate: Rate, verb: &'static str) -> Result<Self, CliError> {
        let interrupt = signal(SignalKind::interrupt())
            .map_err(|error| CliError::Failed(format!("cannot listen for Ctrl-C: {error}")))?;
        let (began, terminal) = (Instant::now(), std::io::stderr().is_terminal());
        let allowance = rate.0.map(|(number, time)| Allowance::new(number, time));
        Ok(Self { allowance, began, told: began, verb, last: Bulk::default(), interrupt, stopped: false, terminal })
    }

    /// Waits until one more may go; how many may then, 0 after Ctrl-C.
    pub async fn next(&mut self, done: Bulk) -> usize {
        self.last = done;
        loop {
            self.tell();
            let now = self.began.elapsed();
            let asked = self.allowance.as_mut().map_or(Ok(usize::MAX), |allowance| allowance.ask(now, done.done));
            let wait = asked.err().unwrap_or_default();
            tokio::select! {
                biased;
                _ = self.interrupt.recv() => self.stopped = true,
                () = tokio::time::sleep(wait) => {}
            }
            match asked {
                _ if self.stopped => return 0,
                Ok(number) => return number,
                Err(_) => {}
            }
        }
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// How far it is.
    pub fn told(&self) -> String {
        format!("{} until then", summary(self.last, self.verb))
    }

    /// On a terminal one line that changes, elsewhere one now and then.
    fn tell(&mut self) {
        let every = if self.terminal { Duration::from_secs(1) } else { Duration::from_secs(10) };
        if self.told.elapsed() < every {
            return;
        }
        self.told = Instant::now();
        let line = format!("{} in {} s", summary(self.last, self.verb), self.began.elapsed().as_secs());
        // Nobody may be there to read it.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    /// Takes the line from the terminal.
    pub fn clear(&self) {
        if self.terminal && self.told != self.began {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_by_second_minute_or_hour() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.0.map(|(n, time)| (n.get(), time.as_secs())));
        assert_eq!(rate("100/s"), Ok(Some((100, 1))));
        assert_eq!(rate("6/m"), Ok(Some((6, 60))));
        assert_eq!(rate("max"), Ok(None));
        for text in ["", "0/s", "-1/s", "100", "100/d", "x/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_time_has_more_than_the_rate_allows() {
        for (rate, seconds, expected) in
            [("100/s", 10, 1_000..=1_011), ("6/m", 60, 6..=7), ("5000/s", 2, 9_900..=10_501)]
        {
            let Ok(Rate(Some((number, time)))) = rate.parse() else { panic!("a rate") };
            let mut allowance = Allowance::new(number, time);
            let (mut now, mut done) = (Duration::ZERO, 0);
            while now < Duration::from_secs(seconds) {
                match allowance.ask(now, done) {
                    Ok(number) => done += number as u64,
                    Err(wait) => now += wait,
                }
            }
            assert!(expected.contains(&done), "{rate}: {done} in {seconds} s");
        }
    }

    #[test]
    fn what_was_saved_in_a_long_wait_is_no_burst() {
        let mut allowance = Allowance::new(NonZeroU32::new(100).expect("a number"), Duration::from_secs(1));
        assert_eq!(allowance.ask(Duration::from_secs(60), 0), Ok(10));
        assert!(allowance.ask(Duration::from_secs(60), 10).is_err());
    }
}
