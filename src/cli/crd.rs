//! `mailrelay crd`

use std::process::ExitCode;

use super::{error::CliError, output::print};

/// Prints the custom resource definitions, as one YAML stream.
pub fn run() -> Result<ExitCode, CliError> {
    let definitions = crate::api::definitions()
        .map_err(|error| CliError::Failed(format!("cannot write the custom resource definitions: {error}")))?;
    let each: Vec<&str> = definitions.iter().map(|definition| definition.yaml.trim_end()).collect();
    print(&format!("{}\n", each.join("\n---\n")))?;
    Ok(ExitCode::SUCCESS)
}
