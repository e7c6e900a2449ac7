//! A mail server as workers use it, whoever said what it is.

use serde::{Deserialize, Serialize};

use super::{
    Auth, BudgetName, DurationText, Host, RateLimit, Tls,
    address::{address, canonical},
    terms::{
        default_close_grace, default_max_connections, default_max_messages, default_port, default_session_timeout,
    },
};

/// One address of a mail server, on what terms it is used, and the budget that it draws on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The name in `spec.servers`; of a `MailServer` with several endpoints, that of each but the first is followed by a dot and its
    /// number.
    pub name: String,
    /// A host name or an IP address.
    pub host: Host,
    /// The budget, if it is not named like the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_name: Option<BudgetName>,
    /// The port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// How the session is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// The name in the server's certificate, where that is not `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<Host>,
    /// How many connections it takes at once.
    #[serde(default = "default_max_connections")]
    pub max_connections: i32,
    /// What it takes in a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
    /// How the worker proves who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The name that the worker gives in EHLO, where it is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helo_name: Option<Host>,
    /// After how many mails a session is closed.
    #[serde(default = "default_max_messages")]
    pub max_messages_per_connection: i32,
    /// How long it keeps a session of which it hears nothing more.
    #[serde(default = "default_session_timeout")]
    pub session_timeout: DurationText,
    /// How long it may take to end its side after we have ended ours.
    #[serde(default = "default_close_grace")]
    pub close_grace: DurationText,
    /// Nothing is sent through it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

impl Server {
    /// The pool this server draws its slots from: `budgetName`, or the host as [`Server::address`] writes it.
    pub fn pool(&self) -> String {
        self.budget_name.as_ref().map_or_else(|| canonical(&self.host), ToString::to_string)
    }

    /// `host:port`, the same for each way to write one address: two servers with one address are one mail server.
    pub fn address(&self) -> String {
        address(&self.host, self.port)
    }

    /// The name of the entry of `spec.servers` that it is of: its credentials lie under it.
    pub fn entry(&self) -> &str {
        entry_of(&self.name)
    }
}

/// The entry of `spec.servers` that the server of this name is of.
pub fn entry_of(server: &str) -> &str {
    server.split('.').next().unwrap_or(server)
}
