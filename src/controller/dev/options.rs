//! What `mailrelay dev` is started with.

use std::path::PathBuf;

use crate::store::StoreOptions;

/// What is to be run.
#[derive(Clone)]
pub struct DevOptions {
    /// Where Redis is.
    pub store: StoreOptions,
    /// The files with the objects.
    pub files: Vec<PathBuf>,
    /// Where all mail goes instead of to the servers of the files.
    pub to: Option<(String, u16)>,
    /// How many workers to run for each relay.
    pub workers: usize,
    /// Folder with a folder of login files for each server, for these workers.
    pub credentials: Option<PathBuf>,
}
