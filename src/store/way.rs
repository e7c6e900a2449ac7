//! How connections to Redis are made, and what the options and their files say for it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult,
    TlsCertificates,
    aio::{AsyncStream, MultiplexedConnection, PubSub},
    io::tcp::TcpSettings,
};
use socket2::TcpKeepalive;

use super::{error::StoreError, options::StoreOptions};

/// After how long without a byte the other side is probed, how often, and how many probes may be lost.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;

/// Makes connections to a Redis that is not reached by TCP: a simulated one.
pub trait Dialer: Send + Sync {
    /// One more connection.
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn AsyncStream + Send + Sync + Unpin>>>;
}

/// How connections are made. No `Debug` here: both know the password.
pub(super) enum Way {
    Tcp { options: Box<StoreOptions>, login: Box<Mutex<Login>> },
    Dialed(Arc<dyn Dialer>),
}

/// What the options and their files said when they were last read.
#[derive(Clone)]
pub(super) struct Login {
    settings: Settings,
    client: Client,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    url: String,
    username: Option<String>,
    password: Option<String>,
    authorities: Option<Vec<u8>>,
}

impl Settings {
    /// Reads the files.
    pub fn read(options: &StoreOptions) -> Result<Self, StoreError> {
        let invalid = |what: String| StoreError::Options { what };
        let url = match &options.url {
            Some(url) => url.clone(),
            None => match (options.text_in_dir("url")?, &options.dir) {
                (Some(url), _) => url,
                (None, None) => "redis://127.0.0.1:6379".to_owned(),
                (None, Some(dir)) => {
                    return Err(invalid(format!(
                        "no file `url` in {}; add the key `url` to the Secret",
                        dir.display()
                    )));
                }
            },
        };
        let username = match &options.username {
            Some(username) => Some(username.clone()),
            None => options.text_in_dir("username")?,
        };
        let password = match &options.password_file {
            None => options.text_in_dir("password")?,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| invalid(format!("cannot read the password file {}: {error}", path.display())))?,
            ),
        };
        let password = password.map(|password| password.trim_end_matches(['\r', '\n']).to_owned());
        let ca_in_dir = options.dir.as_ref().map(|dir| dir.join("ca.crt")).filter(|path| path.exists());
        let authorities = match options.ca_file.clone().or(ca_in_dir) {
            None => None,
            Some(path) => Some(
                std::fs::read(&path)
                    .map_err(|error| invalid(format!("cannot read the CA file {}: {error}", path.display())))?,
            ),
        };
        Ok(Self { url, username, password, authorities })
    }

    pub fn into_login(self) -> Result<Login, StoreError> {
        let invalid = |what: String| StoreError::Options { what };
        // The library's message may repeat the URL, and with it a password.
        let info = self.url.as_str().into_connection_info().map_err(|_| {
            invalid("the URL is not one of Redis; write redis://host:port or rediss://host:port".into())
        })?;
        let mut login = info.redis_settings().clone().set_lib_name("mailrelay", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let info = info.set_redis_settings(login).set_tcp_settings(tcp());
        let client = match &self.authorities {
            None => Client::open(info),
            Some(pem) => {
                let root_cert = Some(pem.clone());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
        };
        let client = client.map_err(|error| invalid(error.to_string()))?;
        Ok(Login { settings: self, client })
    }
}

/// Small commands go out at once. A connection on which nothing is said for long is probed by the kernel, since who waits there
/// must notice within seconds that Redis is gone, and says nothing itself meanwhile.
fn tcp() -> TcpSettings {
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    TcpSettings::default().set_nodelay(true).set_keepalive(probes)
}

impl Login {
    /// By the login that is known now.
    fn client(login: &Mutex<Self>) -> Client {
        login.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    pub fn address(&self) -> String {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => format!("{host}:{port}"),
            other => other.to_string(),
        }
    }
}

impl Way {
    /// Reads the files again; whether something changed there. Another Redis is not gone over to: what is kept there is not
    /// what we know of this one.
    pub fn renew(&self) -> bool {
        let Self::Tcp { options, login } = self else { return false };
        let Ok(settings) = Settings::read(options) else { return false };
        let mut login = login.lock().unwrap_or_else(PoisonError::into_inner);
        if settings == login.settings {
            return false;
        }
        match settings.into_login() {
            Ok(renewed) if renewed.address() == login.address() => {
                *login = renewed;
                tracing::info!("the login for Redis changed; it is used from now on");
                true
            }
            _ => false,
        }
    }

    pub async fn connect(&self, limit: Duration, patience: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(limit));
        match self {
            Self::Tcp { login, .. } => {
                let client = Login::client(login);
                let config = config.set_connection_timeout(Some(patience));
                client.get_multiplexed_async_connection_with_config(&config).await
            }
            Self::Dialed(dialer) => {
                let stream = dialer.dial().await?;
                let login = RedisConnectionInfo::default();
                let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
                // Ends when the connection is dropped and what was asked for has been answered.
                tokio::spawn(driver);
                Ok(connection)
            }
        }
    }

    pub async fn subscribe(&self) -> RedisResult<PubSub> {
        match self {
            Self::Tcp { login, .. } => {
                let client = Login::client(login);
                client.get_async_pubsub().await
            }
            Self::Dialed(dialer) => PubSub::new(&RedisConnectionInfo::default(), dialer.dial().await?).await,
        }
    }
}
