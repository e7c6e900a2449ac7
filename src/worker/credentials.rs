//! The files of a server in the worker's pod: login, extra CA, and the hosts they may be sent to.
//!
//! `<root>/<server>/{username,password,token,ca.crt,allowed-hosts}`, as a mounted Secret has them. They are read when a
//! session is opened, so a rotated Secret is in use from the next session on.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    api::{Auth, Reason, Server, Tls, entry_of},
    smtp::{Credentials, TlsRoots},
    system::is_out_of_files,
};

/// The files of one server; each may be absent.
#[derive(Default, Hash)]
struct Files {
    username: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    token: Option<Vec<u8>>,
    ca: Option<Vec<u8>>,
    allowed_hosts: Option<Vec<u8>>,
}

/// What a session with a server needs from files.
#[derive(Debug)]
pub struct Access {
    /// Absent when the server asks for no login.
    pub credentials: Option<Credentials>,
    /// Whom to trust.
    pub roots: TlsRoots,
}

/// Why a session must not even be tried. The messages name files, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The server wants a login, and the files are not there.
    #[error("no {} for server {server}: mount the Secret's keys at {}", missing, folder.display())]
    Missing {
        /// The server's name in the spec.
        server: String,
        /// Which file.
        missing: &'static str,
        /// Where it should be.
        folder: PathBuf,
    },
    /// The record names a host that the credentials are not for.
    #[error("host {host} is not in {}: it does not get the credentials of server {server}", file.display())]
    HostNotAllowed {
        /// The server's name in the spec.
        server: String,
        /// The host.
        host: String,
        /// The list of hosts.
        file: PathBuf,
    },
    /// A file makes no sense.
    #[error("cannot use {}: {detail}", file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// Why.
        detail: String,
    },
    /// The system does not let us read a file, now.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl CredentialsError {
    /// The reason for the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreadable { source, .. } if is_out_of_files(source) => Reason::OutOfFileDescriptors,
            Self::Missing { .. } | Self::Unusable { .. } | Self::Unreadable { .. } => Reason::SecretMissing,
            Self::HostNotAllowed { .. } => Reason::HostNotAllowed,
        }
    }

    /// Whether it may be over soon though the files stay as they are: no file descriptor was left, say.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }
}

/// Reads the files of servers, and keeps the parsed authorities while their file stays the same.
#[derive(Debug)]
pub struct CredentialsFolder {
    root: PathBuf,
    roots: Mutex<Vec<(Option<Vec<u8>>, TlsRoots)>>,
}

impl CredentialsFolder {
    /// Nothing is read yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), roots: Mutex::default() }
    }

    /// What a session with this server needs. Reads small local files.
    pub fn access(&self, server: &Server) -> Result<Access, CredentialsError> {
        let folder = self.root.join(server.entry());
        let files = read(&folder)?;
        if let Some(list) = &files.allowed_hosts
            && !is_listed(list, &server.host)
        {
            return Err(CredentialsError::HostNotAllowed {
                server: server.name.clone(),
                host: server.host.to_string(),
                file: folder.join("allowed-hosts"),
            });
        }
        let credentials = match server.auth {
            None => None,
            Some(auth) => Some(login(server, auth, &files, &folder)?),
        };
        // Without TLS nobody is trusted, and reading the platform's store is slow.
        let roots = if server.tls == Tls::None {
            TlsRoots::nobody().map_err(|error| untrusted(&folder, error))?
        } else {
            self.trusted(files.ca, &folder)?
        };
        Ok(Access { credentials, roots })
    }

    /// A number that changes when any file of the server changes; `None` when they cannot be read.
    pub fn fingerprint(&self, server: &str) -> Option<u64> {
        let files = read(&self.root.join(entry_of(server))).ok()?;
        let mut hasher = DefaultHasher::new();
        files.hash(&mut hasher);
        Some(hasher.finish())
    }

    fn trusted(&self, ca: Option<Vec<u8>>, folder: &Path) -> Result<TlsRoots, CredentialsError> {
        let mut known = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, roots)) = known.iter().find(|(key, _)| *key == ca) {
            return Ok(roots.clone());
        }
        let roots = TlsRoots::platform(ca.as_deref()).map_err(|error| untrusted(folder, error))?;
        // A handful of servers; a rotated CA leaves its predecessor behind, so the list is kept short.
        known.truncate(15);
        known.insert(0, (ca, roots.clone()));
        Ok(roots)
    }
}

fn untrusted(folder: &Path, error: io::Error) -> CredentialsError {
    let file = folder.join("ca.crt");
    match error.kind() {
        io::ErrorKind::InvalidData => CredentialsError::Unusable { file, detail: error.to_string() },
        _ => CredentialsError::Unreadable { file, source: error },
    }
}

fn login(server: &Server, auth: Auth, files: &Files, folder: &Path) -> Result<Credentials, CredentialsError> {
    let text = |file: &Option<Vec<u8>>, missing: &'static str| match file {
        None => Err(CredentialsError::Missing { server: server.name.clone(), missing, folder: folder.to_owned() }),
        Some(bytes) => String::from_utf8(bytes.clone())
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|_| CredentialsError::Unusable { file: folder.join(missing), detail: "it is not UTF-8".into() }),
    };
    let username = text(&files.username, "username")?;
    let (password, token) = match auth {
        Auth::Plain | Auth::Login => (Some(text(&files.password, "password")?), None),
        Auth::XOAuth2 => (None, Some(text(&files.token, "token")?)),
        // A token alone is enough, and so is a password.
        Auth::Auto => {
            let token = files.token.is_some().then(|| text(&files.token, "token")).transpose()?;
            let needs_password = files.password.is_some() || token.is_none();
            (needs_password.then(|| text(&files.password, "password or token")).transpose()?, token)
        }
    };
    Ok(Credentials { username, password, token })
}

fn read(folder: &Path) -> Result<Files, CredentialsError> {
    let file = |name: &str| {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialsError::Unreadable { file: path, source }),
        }
    };
    Ok(Files {
        username: file("username")?,
        password: file("password")?,
        token: file("token")?,
        ca: file("ca.crt")?,
        allowed_hosts: file("allowed-hosts")?,
    })
}

/// One host a line; `#` starts a comment; upper and lower case and a trailing dot make no difference.
fn is_listed(list: &[u8], host: &str) -> bool {
    let plain = |host: &str| host.trim().trim_end_matches('.').to_ascii_lowercase();
    let host = plain(host);
    String::from_utf8_lossy(list).lines().any(|line| {
        let listed = plain(line.split('#').next().unwrap_or_default());
        !listed.is_empty() && listed == host
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use super::*;

    fn server(auth: Option<&str>) -> Server {
        let auth = auth.map(|auth| format!(r#","auth":"{auth}""#)).unwrap_or_default();
        serde_json::from_str(&format!(r#"{{"name":"primary","host":"smtp.example.com"{auth}}}"#)).unwrap()
    }

    fn folder() -> (tempfile::TempDir, CredentialsFolder, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let files = root.path().join("primary");
        std::fs::create_dir(&files).unwrap();
        let folder = CredentialsFolder::new(root.path());
        (root, folder, files)
    }

    #[test]
    fn a_login_is_read_without_the_line_end_that_editors_add() {
        let (_root, folder, files) = folder();
        std::fs::write(files.join("username"), "app\n").unwrap();
        std::fs::write(files.join("password"), "s3cret\r\n").unwrap();
        let access = folder.access(&server(Some("Plain"))).unwrap();
        assert!(
            access.credentials
                == Some(Credentials { username: "app".into(), password: Some("s3cret".into()), token: None })
        );
    }

    #[test]
    fn with_auto_either_secret_is_enough_and_none_is_not() {
        let (_root, folder, files) = folder();
        let login = || folder.access(&server(Some("Auto"))).map(|access| access.credentials.unwrap());
        std::fs::write(files.join("username"), "app").unwrap();
        assert!(login().unwrap_err().to_string().contains("no password or token for server primary"));
        std::fs::write(files.join("token"), "t").unwrap();
        let of = |password: Option<&str>| Credentials {
            username: "app".into(),
            password: password.map(str::to_owned),
            token: Some("t".into()),
        };
        assert!(login().unwrap() == of(None));
        std::fs::write(files.join("password"), "p").unwrap();
        assert!(login().unwrap() == of(Some("p")));
    }

    #[test]
    fn a_missing_file_is_named_with_its_folder() {
        let (_root, folder, files) = folder();
        std::fs::write(files.join("username"), "app").unwrap();
        let error = folder.access(&server(Some("Login"))).unwrap_err();
        assert_eq!(error.reason(), Reason::SecretMissing);
        assert!(error.to_string().contains("no password for server primary"), "{error}");
        assert!(error.to_string().contains(files.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_reason_to_wait_for_another_file() {
        let (_root, folder, files) = folder();
        std::fs::create_dir(files.join("username")).unwrap();
        let error = folder.access(&server(Some("Plain"))).unwrap_err();
        assert!(error.may_pass(), "{error}");
        std::fs::remove_dir(files.join("username")).unwrap();
        let error = folder.access(&server(Some("Plain"))).unwrap_err();
        assert!(!error.may_pass(), "{error}");
    }

    #[test]
    fn want_of_file_descriptors_is_not_a_missing_secret() {
        let error = |number| CredentialsError::Unreadable {
            file: "username".into(),
            source: io::Error::from_raw_os_error(number),
        };
        for number in [nix::libc::EMFILE, nix::libc::ENFILE] {
            assert_eq!(error(number).reason(), Reason::OutOfFileDescriptors);
            assert!(error(number).may_pass() && error(number).to_string().contains("Too many open files"));
        }
        assert_eq!(error(nix::libc::EACCES).reason(), Reason::SecretMissing);
    }

    #[test]
    fn credentials_go_to_listed_hosts_only() {
        let (_root, folder, files) = folder();
        std::fs::write(files.join("allowed-hosts"), "# ours\nSMTP.example.com. # main\n").unwrap();
        assert!(folder.access(&server(None)).is_ok());
        std::fs::write(files.join("allowed-hosts"), "smtp.example.org\n").unwrap();
        assert_eq!(folder.access(&server(None)).unwrap_err().reason(), Reason::HostNotAllowed);
    }

    #[test]
    fn the_fingerprint_changes_with_any_file() {
        let (_root, folder, files) = folder();
        let before = folder.fingerprint("primary");
        std::fs::write(files.join("token"), "t").unwrap();
        assert_ne!(folder.fingerprint("primary"), before);
    }

    #[test]
    fn a_broken_ca_file_is_named() {
        let (_root, folder, files) = folder();
        std::fs::write(files.join("ca.crt"), "nonsense").unwrap();
        let error = folder.access(&server(None)).unwrap_err();
        assert!(error.to_string().contains("ca.crt"), "{error}");
    }
}
