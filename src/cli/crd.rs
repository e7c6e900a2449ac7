//! `mailrelay crd`

use std::process::ExitCode;

use super::{CliError, output::print};

/// Prints the CustomResourceDefinition.
pub fn run() -> Result<ExitCode, CliError> {
    print(&crate::api::crd_yaml())?;
    Ok(ExitCode::SUCCESS)
}
