//! `spec.servers`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Auth, BudgetName, DurationText, Host, RateLimit, Server, Tls,
    terms::{
        HOST_RULE, default_close_grace, default_max_connections, default_max_messages, default_port,
        default_session_timeout,
    },
};

/// A mail server of the relay: one that the platform owns, named in `serverRef`, or one of this namespace, by its `host`.
// No defaults in the schema: what is filled in could not be told from what somebody wrote beside a serverRef.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("has(self.serverRef) != has(self.host)").message("a server needs either serverRef, which names a MailServer, or host"))]
#[x_kube(validation = Rule::new("!has(self.serverRef) || !(has(self.port) || has(self.budgetName) || has(self.tls) || has(self.tlsServerName) || has(self.maxConnections) || has(self.rateLimits) || has(self.auth) || has(self.heloName) || has(self.maxMessagesPerConnection) || has(self.sessionTimeout) || has(self.closeGrace))").message("beside serverRef only name and suspend may be set: everything else is what the MailServer says; remove it here, or set it there"))]
#[x_kube(validation = Rule::new("!has(self.auth) || !has(self.tls) || self.tls != 'None'").message("auth needs tls: credentials never travel in clear text"))]
#[x_kube(validation = Rule::new("!has(self.tlsServerName) || !has(self.tls) || self.tls != 'None'").message("tlsServerName needs tls: without it nobody looks at a certificate"))]
pub struct ServerEntry {
    /// A name for this server, unique in the relay. The worker finds its credentials under it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The `MailServer` that says everything about this server; it has to allow the relay's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_ref: Option<ServerRef>,

    /// A host name or an IP address, without scheme, port or trailing dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("host must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub host: Option<Host>,

    /// The budget this server draws on; servers with the same name share one. Default: the host in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.:]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('mailserver:')").message("budgets whose names begin with mailserver: are those of MailServers: name the MailServer in serverRef, or choose another budgetName"))]
    pub budget_name: Option<BudgetName>,

    /// The port of the server. Default: 587.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<u16>,

    /// How the session is encrypted. It never falls back to clear text. Default: `StartTLS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// The name in the server's certificate, where that is not `host`: a server that is reached by an internal name or an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("tlsServerName must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub tls_server_name: Option<Host>,

    /// How many connections the server takes at once, from everyone who names it together. Default: 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_connections: Option<i32>,

    /// How many mails, or recipients, the server takes in a time, from everyone who names it together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub rate_limits: Vec<RateLimit>,

    /// How the worker proves who it is. Credentials are files in the worker: `/etc/mailrelay/credentials/<name>/{username,password,token}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// The name that the worker gives in EHLO; default: its `--helo`, or the pod's name. Many servers refuse one without a dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("heloName must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub helo_name: Option<Host>,

    /// After how many mails a session is closed and a new one opened. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_messages_per_connection: Option<i32>,

    /// How long the server keeps a session of which it hears nothing more (in Postfix `smtpd_timeout`). A slot whose end nobody saw
    /// is withheld for so long and 30 seconds more; of relays that share a budget, the longest counts. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("sessionTimeout must be from 1s to 24h"))]
    pub session_timeout: Option<DurationText>,

    /// How long the server may take to end its side after we have ended ours; of relays that share a budget, the longest counts. Default: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('5m')").message("closeGrace must be from 100ms to 5m"))]
    pub close_grace: Option<DurationText>,

    /// Send nothing through this server: its sessions end after their mail, and its mail goes to the other servers or waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

/// The `MailServer` that says everything about this server; it has to allow the relay's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServerRef {
    /// Its `metadata.name`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

impl ServerEntry {
    /// The server as workers use it, if the entry itself says what it is.
    pub fn inline(&self) -> Option<Server> {
        Some(Server {
            name: self.name.clone(),
            host: self.host.clone()?,
            budget_name: self.budget_name.clone(),
            port: self.port.unwrap_or_else(default_port),
            tls: self.tls.unwrap_or_default(),
            tls_server_name: self.tls_server_name.clone(),
            max_connections: self.max_connections.unwrap_or_else(default_max_connections),
            rate_limits: self.rate_limits.clone(),
            auth: self.auth,
            helo_name: self.helo_name.clone(),
            max_messages_per_connection: self.max_messages_per_connection.unwrap_or_else(default_max_messages),
            session_timeout: self.session_timeout.unwrap_or_else(default_session_timeout),
            close_grace: self.close_grace.unwrap_or_else(default_close_grace),
            suspend: self.suspend,
        })
    }
}
