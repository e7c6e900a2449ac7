//! On what terms a mail server is used: what an entry of `spec.servers` and a `MailServer` say alike, and what is meant where they say
//! nothing.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::DurationText;

/// A host name or an IP address.
pub const HOST_RULE: &str = r"self.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$') || self.matches('^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$')";

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

// The doc of what is optional in a spec is what `kubectl explain` shows of the field: the generator prefers it to the field's own.
/// How a session is encrypted: `StartTLS` unless it says otherwise. It never falls back to clear text.
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

/// How a worker proves who it is: the SASL mechanism, or `Auto` for what the server offers of what the files allow; absent for no login. Credentials are files in the worker's pod, `username`, `password` and
/// `token` in `/etc/mailrelay/credentials/<name>/`, where `<name>` is that of the relay's entry in `spec.servers`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// What the server offers of what the files allow: `XOAuth2` with a token, else PLAIN or LOGIN with a password.
    Auto,
    /// RFC 4616.
    Plain,
    /// The older two-step LOGIN.
    Login,
    /// OAuth 2.0 bearer token.
    XOAuth2,
}

pub const fn default_port() -> u16 {
    587
}
pub const fn default_max_connections() -> i32 {
    16
}
const fn default_burst() -> i32 {
    1
}
pub const fn default_max_messages() -> i32 {
    100
}
pub const fn default_session_timeout() -> DurationText {
    DurationText::from_secs(300)
}
pub const fn default_close_grace() -> DurationText {
    DurationText::from_secs(2)
}
