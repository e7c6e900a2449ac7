//! Where Redis is and how to prove who we are.

use std::path::PathBuf;

use super::error::StoreError;

/// Where Redis is and how to prove who we are. Every field can come from the environment.
#[derive(Clone, clap::Args)]
pub struct StoreOptions {
    /// Folder with the files url, username, password and ca.crt, as a mounted Secret has them; all but url may be absent
    #[arg(long = "redis-dir", env = "MAILRELAY_REDIS_DIR", global = true)]
    pub dir: Option<PathBuf>,
    /// URL of Redis: `redis://host:port/db`, or `rediss://` for TLS [default: `redis://127.0.0.1:6379`]
    #[arg(long = "redis-url", env = "MAILRELAY_REDIS_URL", global = true)]
    pub url: Option<String>,
    /// Redis user, when the URL names none
    #[arg(long = "redis-username", env = "MAILRELAY_REDIS_USERNAME", global = true)]
    pub username: Option<String>,
    /// File with the password of the Redis user
    #[arg(long = "redis-password-file", env = "MAILRELAY_REDIS_PASSWORD_FILE", global = true)]
    pub password_file: Option<PathBuf>,
    /// File with the CA certificates (PEM) that Redis' certificate is checked against
    #[arg(long = "redis-ca-file", env = "MAILRELAY_REDIS_CA_FILE", global = true)]
    pub ca_file: Option<PathBuf>,
}

impl StoreOptions {
    /// A plain URL and nothing else.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self { dir: None, url: Some(url.into()), username: None, password_file: None, ca_file: None }
    }

    /// The text of a file in the folder, when there is a folder and the file is in it.
    pub(super) fn text_in_dir(&self, name: &str) -> Result<Option<String>, StoreError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Options { what: format!("cannot read {}: {error}", path.display()) }),
        }
    }
}
