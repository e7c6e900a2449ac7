//! What the programs run on.

use super::error::CliError;

/// For the programs that run for long. Without it they have what they were started with.
pub fn raise_file_limit() {
    if let Err(error) = crate::system::raise_file_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

pub fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, CliError> {
    builder.enable_all().build().map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))
}
