//! What a process costs the machine.

use std::{fs, time::Duration};

/// Processor time that a process and its threads used so far, user and system.
///
/// # Panics
/// When it does not run.
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // A tick is 10 ms, whatever the kernel's own is.
    Duration::from_millis(ticks * 10)
}
