//! `mailrelay controller`

use std::process::ExitCode;

use super::{
    error::{CliError, chain},
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
