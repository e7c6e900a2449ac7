//! `spec.servers`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{BudgetName, DurationText, Host, address::canonical};

/// A host name or an IP address.
const HOST_RULE: &str = r"self.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$') || self.matches('^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$')";

/// One mail server and the budget that everything naming it shares.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("!has(self.auth) || self.tls != 'None'").message("auth needs tls: credentials never travel in clear text"))]
#[x_kube(validation = Rule::new("!has(self.tlsServerName) || self.tls != 'None'").message("tlsServerName needs tls: without it nobody looks at a certificate"))]
pub struct Server {
    /// A name for this server, unique in the relay.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// A host name or an IP address, without scheme, port or trailing dot.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("host must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub host: Host,

    /// The budget this server draws on; servers with the same name share one. Default: the host in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.:]*[a-z0-9])?$"))]
    pub budget_name: Option<BudgetName>,

    /// The port of the server.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: u16,

    /// How the session is encrypted. It never falls back to clear text.
    #[serde(default)]
    pub tls: Tls,

    /// The name in the server's certificate, where that is not `host`: a server that is reached by an internal name or an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("tlsServerName must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub tls_server_name: Option<Host>,

    /// How many connections the server takes at once, from everyone who names it together.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_connections: i32,

    /// How many mails, or recipients, the server takes in a time, from everyone who names it together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub rate_limits: Vec<RateLimit>,

    /// How the worker proves who it is. Credentials are files in the worker: `/etc/mailrelay/credentials/<server>/{username,password,token}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// After how many mails a session is closed and a new one opened.
    #[serde(default = "default_max_messages")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_messages_per_connection: i32,

    /// How long the server keeps a session of which it hears nothing more (in Postfix `smtpd_timeout`). A slot whose end nobody saw
    /// is withheld for so long and 30 seconds more; of relays that share a budget, the longest counts.
    #[serde(default = "default_session_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("sessionTimeout must be from 1s to 24h"))]
    pub session_timeout: DurationText,

    /// How long the server may take to end its side after we have ended ours; of relays that share a budget, the longest counts.
    #[serde(default = "default_close_grace")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('5m')").message("closeGrace must be from 100ms to 5m"))]
    pub close_grace: DurationText,

    /// Send nothing through this server: its sessions end after their mail, and its mail goes to the other servers or waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// At most `count` in each `interval`, evenly, with `burst` of them at once.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct RateLimit {
    /// What is counted.
    #[serde(default)]
    pub unit: Unit,
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: i32,
    /// In what time.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("interval must be from 1s to 24h"))]
    pub interval: DurationText,
    /// How many of them at once, after a time with less: in no `interval` are more than `count + burst` used.
    #[serde(default = "default_burst")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: i32,
}

/// What a rate limit counts.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unit {
    /// Each mail, however many it is for.
    #[default]
    Message,
    /// Each recipient of each mail.
    Recipient,
}

/// How a session is encrypted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tls {
    /// STARTTLS before anything else; the session ends if the server does not offer it.
    #[default]
    #[serde(rename = "StartTLS")]
    StartTls,
    /// TLS from the first byte, as on port 465.
    Implicit,
    /// Clear text.
    None,
}

/// A SASL mechanism.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// RFC 4616.
    Plain,
    /// The older two-step LOGIN.
    Login,
    /// OAuth 2.0 bearer token.
    XOAuth2,
}

impl Server {
    /// The pool this server draws its slots from: `budgetName`, or the host as [`Server::address`] writes it.
    pub fn pool(&self) -> String {
        self.budget_name.as_ref().map_or_else(|| canonical(&self.host), ToString::to_string)
    }

    /// `host:port`, the same for each way to write one address: two servers with one address are one mail server.
    pub fn address(&self) -> String {
        let host = canonical(&self.host);
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }
}

const fn default_port() -> u16 {
    587
}
const fn default_max_connections() -> i32 {
    16
}
const fn default_burst() -> i32 {
    1
}
const fn default_max_messages() -> i32 {
    100
}
const fn default_session_timeout() -> DurationText {
    DurationText::from_secs(300)
}
const fn default_close_grace() -> DurationText {
    DurationText::from_secs(2)
}
