//! The `MailServer` resource: what a platform knows of a mail server, and the budget that it owns. Namespaces borrow from it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Auth, BudgetName, Condition, DurationText, Host, LeaseStatus, RateLimit, Server, Tls,
    address::address,
    terms::{
        HOST_RULE, default_close_grace, default_max_connections, default_max_messages, default_port,
        default_session_timeout,
    },
};

/// What the names of their budgets begin with: no relay can name one otherwise than by `serverRef`.
const BUDGETS: &str = "mailserver:";

/// A mail server that the platform owns: where it is, on what terms it is used, how many connections it takes, and which namespaces may
/// borrow them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mailrelay.dev",
    version = "v1alpha1",
    kind = "MailServer",
    plural = "mailservers",
    category = "mail",
    status = "MailServerStatus",
    derive = "PartialEq",
    cel,
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters"),
    doc = "A mail server that the platform owns: where it is, on what terms it is used, how many connections it takes, and which namespaces may borrow them.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Budget",
        type_ = "integer",
        json_path = ".status.budget.effective",
        description = "connections that may be open at once"
    ),
    printcolumn(
        name = "Open",
        type_ = "integer",
        json_path = ".status.budget.open",
        description = "connections open now"
    ),
    printcolumn(
        name = "Relays",
        type_ = "integer",
        json_path = ".status.relayCount",
        description = "relays that borrow from it"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("!has(self.auth) || self.tls != 'None'").message("auth needs tls: credentials never travel in clear text"))]
#[x_kube(validation = Rule::new("!has(self.tlsServerName) || self.tls != 'None'").message("tlsServerName needs tls: without it nobody looks at a certificate"))]
pub struct MailServerSpec {
    /// Where the server is reached. All of them are one server: they share the budget.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host", "port"]))]
    pub endpoints: Vec<Endpoint>,

    /// Whose connections the server counts together: everyone's, or those of each login, so that every relay has a budget of its own, and
    /// needs a login that no other relay uses.
    #[serde(default)]
    pub counted_by: CountedBy,

    /// How the session is encrypted. It never falls back to clear text.
    #[serde(default)]
    pub tls: Tls,

    /// The name in the server's certificate, where that is not the endpoint's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("tlsServerName must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub tls_server_name: Option<Host>,

    /// How many connections the server takes at once.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_connections: i32,

    /// How many mails, or recipients, the server takes in a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub rate_limits: Vec<RateLimit>,

    /// How a worker proves who it is, with credentials of its own namespace: files `/etc/mailrelay/credentials/<name>/{username,password,token}`,
    /// where `<name>` is that of the relay's entry in `spec.servers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// The name that the worker gives in EHLO; default: its `--helo`, or the pod's name. Many servers refuse one without a dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("heloName must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub helo_name: Option<Host>,

    /// After how many mails a session is closed and a new one opened.
    #[serde(default = "default_max_messages")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_messages_per_connection: i32,

    /// How long the server keeps a session of which it hears nothing more (in Postfix `smtpd_timeout`). A slot whose end nobody saw
    /// is withheld for so long and 30 seconds more.
    #[serde(default = "default_session_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("sessionTimeout must be from 1s to 24h"))]
    pub session_timeout: DurationText,

    /// How long the server may take to end its side after we have ended ours.
    #[serde(default = "default_close_grace")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('5m')").message("closeGrace must be from 100ms to 5m"))]
    pub close_grace: DurationText,

    /// How those who borrow share the connections while all of them have mail to send.
    #[serde(default)]
    pub sharing: Sharing,

    /// The labels of the namespaces whose relays may borrow. Absent: none; an empty selector: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<LabelSelector>,
}

/// An address of the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct Endpoint {
    /// A host name or an IP address, without scheme, port or trailing dot.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(HOST_RULE).message("host must be a host name or an IP address, without scheme, port or trailing dot"))]
    pub host: Host,
    /// The port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: u16,
}

/// Whose connections a server counts together.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CountedBy {
    /// Everyone's: one budget for all who use it.
    #[default]
    Server,
    /// Those of one login: each relay has one that no other relay uses, and a budget of its own.
    Account,
}

/// How those who borrow share the connections. Whatever the policy: the share of a relay that has nothing to send is lent to the
/// others, and comes back, within one mail's time, when it has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {}))]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("!has(self.weights) || size(self.weights) == 0 || self.policy == 'Weighted'").message("sharing.weights needs sharing.policy Weighted"))]
#[x_kube(validation = Rule::new("!has(self.weights) || self.weights.all(of, self.weights[of] >= 1 && self.weights[of] <= 1000)").message("each of sharing.weights must be from 1 to 1000"))]
pub struct Sharing {
    /// By what they are shared.
    #[serde(default)]
    pub policy: SharingPolicy,
    /// The weights of namespaces; one that is not named has 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub weights: BTreeMap<String, i32>,
}

/// By what connections are shared.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SharingPolicy {
    /// Each pod has the same.
    #[default]
    Equal,
    /// Each namespace has a part by its weight, and one connection at least; within it each pod has the same.
    Weighted,
}

/// The state of a server as the leading controller last saw it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MailServerStatus {
    /// The generation of the spec that this status tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, `SlotsQuarantined` and the others.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Its connections; where the server counts by account, those of all accounts together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<ServerBudgetStatus>,
    /// How many relays borrow from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_count: Option<i32>,
    /// The first 64 relays that borrow from it.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace", "name"]))]
    pub relays: Vec<BorrowerStatus>,
    /// Who holds, or may hold, connections of its budgets. A new leader starts from it when Redis has lost a ledger.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["budgetName"]))]
    pub leases: Vec<LeaseStatus>,
}

/// Connections of a server.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerBudgetStatus {
    /// As the spec says.
    pub total: i32,
    /// As in force now.
    pub effective: i32,
    /// Leased to workers.
    pub leased: i32,
    /// Open now, as the workers last reported.
    pub open: i32,
    /// Withheld, since the server may still count their connections.
    pub quarantined: i32,
}

/// A relay that borrows from a server.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BorrowerStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many of its pods share the budget.
    pub workers: i32,
    /// Slots that are theirs.
    pub share: i32,
    /// Connections that they have open.
    pub open: i32,
}

impl MailServerSpec {
    /// The servers that a relay's entry of this name stands for, one for each endpoint, all on one budget.
    pub fn servers(&self, entry: &str, budget: &BudgetName, suspend: bool) -> Vec<Server> {
        let server = |(number, endpoint): (usize, &Endpoint)| Server {
            name: if number == 0 { entry.to_owned() } else { format!("{entry}.{}", number + 1) },
            host: endpoint.host.clone(),
            budget_name: Some(budget.clone()),
            port: endpoint.port,
            tls: self.tls,
            tls_server_name: self.tls_server_name.clone(),
            max_connections: self.max_connections,
            rate_limits: self.rate_limits.clone(),
            auth: self.auth,
            helo_name: self.helo_name.clone(),
            max_messages_per_connection: self.max_messages_per_connection,
            session_timeout: self.session_timeout,
            close_grace: self.close_grace,
            suspend,
        };
        self.endpoints.iter().enumerate().map(server).collect()
    }

    /// Its addresses, each written in one way ([`Server::address`]).
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.endpoints.iter().map(|endpoint| address(&endpoint.host, endpoint.port))
    }
}

impl BudgetName {
    /// The budget that all share who borrow from the `MailServer` of this name.
    pub fn of_server(server: &str) -> Self {
        Self::unchecked(format!("{BUDGETS}{server}"))
    }

    /// The budget of one relay at the `MailServer` of this name, which counts by account.
    pub fn of_account(server: &str, namespace: &str, relay: &str) -> Self {
        Self::unchecked(format!("{BUDGETS}{server}:{namespace}:{relay}"))
    }
}

/// The `MailServer` whose budget this is, if it is one's.
pub fn server_of(budget: &str) -> Option<&str> {
    budget.strip_prefix(BUDGETS)?.split(':').next()
}

/// Whether the server counts what this budget is for by itself: two such budgets may be for one address.
pub fn is_by_account(budget: &str) -> bool {
    budget.strip_prefix(BUDGETS).is_some_and(|rest| rest.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_of_servers_are_names_of_budgets_and_say_whose_they_are() {
        for (budget, by_account) in [
            (BudgetName::of_server("corporate"), false),
            (BudgetName::of_account("corporate", "team-a", "mail.bulk"), true),
        ] {
            assert_eq!(budget.parse(), Ok(budget.clone()));
            assert_eq!((server_of(&budget), is_by_account(&budget)), (Some("corporate"), by_account));
        }
        for other in ["mx", "2001:db8::25", "mailserver"] {
            assert_eq!((server_of(other), is_by_account(other)), (None, false));
        }
    }

    #[test]
    fn every_endpoint_is_a_server_of_its_entry_and_of_one_budget() {
        let spec: MailServerSpec = serde_json::from_value(serde_json::json!({
            "endpoints": [{ "host": "a.example.com" }, { "host": "B.example.com", "port": 25 }],
        }))
        .expect("a spec");
        let servers = spec.servers("primary", &BudgetName::of_server("corporate"), false);
        let each: Vec<_> = servers.iter().map(|s| (&*s.name, s.entry(), s.address(), s.pool())).collect();
        let budget = || "mailserver:corporate".to_owned();
        assert_eq!(
            each,
            [
                ("primary", "primary", "a.example.com:587".to_owned(), budget()),
                ("primary.2", "primary", "b.example.com:25".to_owned(), budget()),
            ]
        );
        assert!(spec.addresses().eq(servers.iter().map(Server::address)));
    }
}
