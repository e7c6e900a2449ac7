//! Programs that run to their end.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs a command with this as its input; what it printed, and how it ended.
///
/// # Panics
/// When it cannot be started.
pub fn output_of(command: &mut Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the program runs");
    // One that does not read its input may be gone by now.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}
