//! `mailrelay crd`

use std::process::ExitCode;

use super::{error::CliError, output::print};

/// Prints the custom resource definition.
pub fn run() -> Result<ExitCode, CliError> {
    let yaml = crate::api::crd_yaml()
        .map_err(|error| CliError::Failed(format!("cannot write the custom resource definition: {error}")))?;
    print(&yaml)?;
    Ok(ExitCode::SUCCESS)
}
