//! `mailrelay controller`

use std::process::ExitCode;

use super::{
    error::CliError,
    runtime::{raise_file_limit, runtime},
};
use crate::controller::{self, ControllerOptions};

/// Runs the controller until a signal ends it, or until it stops being the leader.
pub fn run(options: ControllerOptions) -> Result<ExitCode, CliError> {
    raise_file_limit();
    runtime(tokio::runtime::Builder::new_multi_thread())?
        .block_on(controller::run(options))
        .map_err(|error| CliError::Failed(chain(&error)))?;
    Ok(ExitCode::SUCCESS)
}

/// An error and what caused it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let detail = error.to_string();
        if !text.contains(&detail) {
            text.push_str(": ");
            text.push_str(&detail);
        }
        cause = error.source();
    }
    text
}
