//! A private Postfix.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    free_port,
    mta::{Limits, LogFigures, LogReader, user_id},
    wait::until,
};

/// A real Postfix of the test's own on a loopback port, with a limit of connections per client, STARTTLS and SASL. It
/// delivers mail for `example.com` into a maildir; `refused@example.com` is refused and `later@example.com` greylisted
/// for ever. It ends, and its folder goes, when this is dropped. Needs root, as Postfix does.
#[derive(Debug)]
pub struct Postfix {
    folder: TempDir,
    address: SocketAddr,
    certificate: String,
    reader: Mutex<LogReader>,
}

impl Postfix {
    /// The login that it takes, after STARTTLS: user and password.
    pub const LOGIN: (&str, &str) = ("user", "secret-of-the-test");

    /// Starts a Postfix that takes so many connections from one client, and waits until it greets.
    ///
    /// # Panics
    /// When Postfix or saslpasswd2 is not installed or does not start; the message says what to install.
    pub fn start(limit: u16) -> Self {
        let (postfix, key) = Self::prepare((Ipv4Addr::LOCALHOST, free_port()).into(), &std::env::temp_dir());
        let main = MAIN.replace("@LIMIT@", &limit.to_string());
        postfix.write_files(&main, &key);
        postfix.write_login();
        postfix.launch();
        postfix
    }

    /// Starts a Postfix that takes all mail of private networks without TLS and throws it away, and waits until it greets.
    ///
    /// # Panics
    /// When Postfix is not installed or does not start; the message says what to install.
    pub fn discarding(address: SocketAddr, limits: Limits) -> Self {
        // It waits for the disk at each mail; nothing is to be kept here.
        let shared = Path::new("/dev/shm");
        let place = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let (postfix, key) = Self::prepare(address, &place);
        let main = DISCARDING
            .replace("@LIMIT@", &limits.sessions.to_string())
            .replace("@TIMEOUT@", &limits.timeout.as_secs().max(1).to_string())
            .replace("@PAUSE@", &format!("sleep {}", limits.pause.as_secs()));
        postfix.write_files(&main, &key);
        postfix.launch();
        postfix
    }

    /// With the key of its certificate.
    fn prepare(address: SocketAddr, place: &Path) -> (Self, String) {
        let folder =
            tempfile::Builder::new().prefix("mailrelay-postfix-").tempdir_in(place).expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a folder that Postfix can enter");
        let certified = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()])
            .expect("a self-signed certificate");
        let key = certified.signing_key.serialize_pem();
        (Self { folder, address, certificate: certified.cert.pem(), reader: Mutex::default() }, key)
    }

    fn launch(&self) {
        let started = Command::new("postfix").arg("-c").arg(self.conf()).arg("start").output();
        let started = started.expect("postfix starts (Debian package postfix; `make setup` installs it)");
        assert!(started.status.success(), "postfix did not start: {started:?}\n{}", self.log());
        let greets = until(Duration::from_secs(15), || self.greets());
        assert!(greets, "postfix did not greet within 15 s:\n{}", self.log());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate to trust, in PEM, for `localhost` and `127.0.0.1`.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("mail.log")).unwrap_or_default()
    }

    /// How often it refused a connection since there were too many.
    pub fn refused_connections(&self) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.to_ascii_lowercase().contains("connection concurrency limit exceeded")).count()
    }

    /// What its log says.
    pub fn figures(&self) -> LogFigures {
        self.read().figures()
    }

    /// The Message-IDs of the mails that it took, in order.
    pub fn taken(&self) -> Vec<String> {
        self.read().taken()
    }

    fn read(&self) -> MutexGuard<'_, LogReader> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.follow(&self.path("mail.log"), LogReader::postfix);
        reader
    }

    /// The Message-IDs delivered, once for every recipient of every mail, in no order.
    pub fn delivered(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(self.path("mail/inbox/new")) else { return Vec::new() };
        let texts = files.filter_map(|file| fs::read(file.ok()?.path()).ok());
        texts
            .filter_map(|text| {
                let text = String::from_utf8_lossy(&text).into_owned();
                let mut headers = text.lines().take_while(|line| !line.is_empty());
                headers.find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("message-id").then(|| value.trim().trim_matches(['<', '>']).to_owned())
                })
            })
            .collect()
    }

    /// Stops it and starts it again on the same port, with its mail and its log.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&self) {
        self.stop();
        self.launch();
    }

    /// Stops it, with all its sessions; [`Postfix::restart`] brings it back.
    pub fn stop(&self) {
        let Ok(text) = fs::read_to_string(self.path("queue/pid/master.pid")) else { return };
        let Ok(pid) = text.trim().parse() else { return };
        let pid = Pid::from_raw(pid);
        // The master takes its children with it.
        if kill(pid, Signal::SIGTERM).is_err() {
            return;
        }
        if !until(Duration::from_secs(5), || kill(pid, None).is_err()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn conf(&self) -> PathBuf {
        self.path("conf")
    }

    fn write_files(&self, main: &str, key: &str) {
        let root = self.folder.path().display().to_string();
        let owned = [("conf/sasl", None), ("queue", None), ("data", Some("postfix")), ("mail", Some("nobody"))];
        for (name, owner) in owned {
            fs::create_dir_all(self.path(name)).expect("a folder");
            if let Some(owner) = owner {
                give(&self.path(name), owner);
            }
        }
        let nobody = user_id("nobody").unwrap_or(65534);
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let main = (COMMON.to_owned() + main)
            .replace("@ROOT@", &root)
            .replace("@HOST@", &host)
            .replace("@NOBODY@", &nobody.to_string());
        let files = [
            ("conf/main.cf", main),
            ("conf/master.cf", MASTER.replace("@HOST@", &host).replace("@PORT@", &port)),
            ("conf/sasl/smtpd.conf", SASL.replace("@ROOT@", &root)),
            ("conf/cert.pem", self.certificate.clone()),
            ("conf/key.pem", key.to_owned()),
        ];
        for (name, text) in files {
            fs::write(self.path(name), text).expect("a configuration file is written");
        }
    }

    fn write_login(&self) {
        let (user, password) = Self::LOGIN;
        let mut child = Command::new("saslpasswd2")
            .args(["-p", "-c", "-u", "postfix.test", "-f"])
            .arg(self.path("sasldb2"))
            .arg(user)
            .stdin(Stdio::piped())
            .spawn()
            .expect("saslpasswd2 starts (Debian package sasl2-bin; `make setup` installs it)");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(password.as_bytes()).expect("the password is written");
        drop(input);
        assert!(child.wait().expect("saslpasswd2 ends").success(), "saslpasswd2 failed");
        give(&self.path("sasldb2"), "postfix");
    }

    /// A whole session, so that none of it is left on the count of connections.
    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address()) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut greeting = [0; 4];
        let greeted = stream.read_exact(&mut greeting).is_ok() && &greeting == b"220 ";
        greeted && stream.write_all(b"QUIT\r\n").is_ok() && stream.read_to_end(&mut Vec::new()).is_ok()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.stop();
    }
}

fn give(path: &Path, name: &str) {
    let user = user_id(name).unwrap_or_else(|| panic!("there is no user {name}"));
    chown(path, Some(user), None).expect("a file is given away (the test runs as root)");
}

const COMMON: &str = "\
compatibility_level = 3.6
queue_directory = @ROOT@/queue
data_directory = @ROOT@/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = @ROOT@/mail.log
maillog_file_prefixes = @ROOT@
inet_interfaces = @HOST@
inet_protocols = ipv4
myhostname = postfix.test
mydestination =
# Loopback and mynetworks are exempt by default.
smtpd_client_event_limit_exceptions =
";

const MAIN: &str = "\
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = example.com
virtual_mailbox_base = @ROOT@/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:@NOBODY@
virtual_gid_maps = static:@NOBODY@
smtpd_client_connection_count_limit = @LIMIT@
smtpd_sasl_auth_enable = yes
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = postfix.test
cyrus_sasl_config_path = @ROOT@/conf/sasl
smtpd_tls_auth_only = yes
smtpd_tls_security_level = may
smtpd_tls_cert_file = @ROOT@/conf/cert.pem
smtpd_tls_key_file = @ROOT@/conf/key.pem
smtpd_recipient_restrictions =
  check_recipient_access inline:{{refused@example.com = 550 5.1.1 no such user}, {later@example.com = 450 4.7.1 Greylisted}},
  reject_unauth_destination
";

const DISCARDING: &str = "\
mynetworks = 10.0.0.0/8, 127.0.0.0/8
default_transport = discard:
smtpd_client_connection_count_limit = @LIMIT@
smtpd_timeout = @TIMEOUT@s
smtpd_end_of_data_restrictions = @PAUSE@
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
in_flow_delay = 0
";

const MASTER: &str = "\
@HOST@:@PORT@ inet n - n - 100 smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

const SASL: &str = "\
pwcheck_method: auxprop
auxprop_plugin: sasldb
mech_list: PLAIN LOGIN
sasldb_path: @ROOT@/sasldb2
";
