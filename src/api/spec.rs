//! What a user asks for: `MailRelay.spec`, with the defaults and the rules that the API server enforces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BudgetName, DurationText, Host, KeyPrefix, MailRelayStatus, QueueName, Retention, address::canonical};

/// A mail relay: mail servers with a connection budget each, the worker pods that share it, and the queue they drain.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mailrelay.dev",
    version = "v1alpha1",
    kind = "MailRelay",
    plural = "mailrelays",
    shortname = "mr",
    category = "all",
    namespaced,
    status = "MailRelayStatus",
    derive = "PartialEq",
    cel,
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: pods name their relay in a label"),
    doc = "A mail relay: mail servers with a connection budget each, the worker pods that share it, and the queue they drain.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Budget",
        type_ = "integer",
        json_path = ".status.budget.effective",
        description = "connections that may be open at once, over all servers"
    ),
    printcolumn(
        name = "Open",
        type_ = "integer",
        json_path = ".status.budget.open",
        description = "connections open now"
    ),
    printcolumn(
        name = "Workers",
        type_ = "integer",
        json_path = ".status.readyWorkers",
        description = "worker pods that hold a share"
    ),
    printcolumn(
        name = "Queued",
        type_ = "integer",
        json_path = ".status.queue.pending",
        description = "mails waiting to be sent"
    ),
    printcolumn(
        name = "Dead",
        type_ = "integer",
        json_path = ".status.queue.deadLetters",
        description = "mails in the dead-letter queue"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Servers", type_ = "string", json_path = ".status.serversSummary", priority = 1),
    printcolumn(name = "Delayed", type_ = "integer", json_path = ".status.queue.delayed", priority = 1),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.queue.held", priority = 1),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.queue.oldestSince", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MailRelaySpec {
    /// The mail servers that work is spread over.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub servers: Vec<Server>,

    /// Which pods are workers of this relay.
    #[serde(default)]
    pub workers: Workers,

    /// The Redis lists that mail waits in.
    #[serde(default)]
    pub queue: Queue,

    /// When a mail that a server put off is tried again.
    #[serde(default)]
    pub retry: Retry,

    /// When a server that keeps failing is left alone for a while.
    #[serde(default)]
    pub breaker: Breaker,

    /// What becomes of a mail whose final answer was lost: Hold parks it for a person, Resend sends it again with the same Message-ID.
    #[serde(default)]
    pub unknown_outcome: UnknownOutcome,

    /// Stop sending, keep accepting.
    #[serde(default)]
    pub suspend: bool,
}

/// One mail server and the budget that everything naming it shares.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("!has(self.auth) || self.tls != 'None'").message("auth needs tls: credentials never travel in clear text"))]
pub struct Server {
    /// A name for this server, unique in the relay.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// A host name or an IP address, without scheme, port or trailing dot.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$') || self.matches('^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$')").message("host must be a host name or an IP address, without scheme, port or trailing dot"))]
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

/// Which pods are workers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {}))]
#[x_kube(cel)]
pub struct Workers {
    /// The pods' labels. Default: `mailrelay.dev/relay` with the relay's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)").message("selector must not be empty: it would select every pod of the namespace; leave it out to select by the label mailrelay.dev/relay"))]
    pub selector: Option<LabelSelector>,
    /// The name of the worker's container in those pods.
    #[serde(default = "default_container")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub container: String,
}

/// The Redis lists that mail waits in, and when to raise an alarm.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {}))]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("self.name != self.deadLetterName").message("queue.name and queue.deadLetterName must differ"))]
#[x_kube(validation = Rule::new("!self.name.startsWith(self.payloadPrefix) && !self.deadLetterName.startsWith(self.payloadPrefix)").message("queue.name and queue.deadLetterName must not begin with queue.payloadPrefix: an id could name the list"))]
#[x_kube(validation = Rule::new("!self.name.startsWith('mailrelay:') && !self.deadLetterName.startsWith('mailrelay:') && !self.payloadPrefix.startsWith('mailrelay:') && !'mailrelay:'.startsWith(self.payloadPrefix)").message("keys that begin with mailrelay: are mailrelay's own: choose other names in queue"))]
#[x_kube(validation = Rule::new(r"!self.deadLetterName.matches('^[{].*[}]:(high|low|arrived|processes|delayed|held|counters|events|samples|corrections|claims|stages|batch|letters|records)(:.*)?$')").message("queue.deadLetterName is a key of the queue in its braces; choose another word after them, such as dead"))]
#[x_kube(validation = Rule::new(r"!self.payloadPrefix.startsWith('{') || (self.payloadPrefix.matches('^[{].*[}]:[^:]+:') && !self.payloadPrefix.matches('^[{].*[}]:(high|low|arrived|processes|delayed|held|counters|events|samples|corrections|claims|stages|batch|letters|records):'))").message("after the braces of queue.payloadPrefix must come a word and a colon, such as body:, and none of the words of the queue's own keys"))]
pub struct Queue {
    /// The list that producers push to.
    #[serde(default = "default_queue_name")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_.:-]+$"))]
    pub name: QueueName,
    /// Where mail that needs a person is parked.
    #[serde(default = "default_dead_letter_name")]
    #[schemars(length(min = 1, max = 160), regex(pattern = "^([{][A-Za-z0-9_.:-]+[}]:)?[A-Za-z0-9_.:-]+$"))]
    pub dead_letter_name: QueueName,
    /// Where the JSON of a mail lies when the list holds only its id.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^([{][A-Za-z0-9_.:-]+[}]:)?[A-Za-z0-9_.:-]+$"))]
    pub payload_prefix: KeyPrefix,
    /// How many mails may wait; more are refused by the enqueue script.
    #[serde(default = "default_max_length")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_length: i64,
    /// `QueueDepthHigh` becomes True when more mails wait.
    #[serde(default = "default_depth_threshold")]
    #[schemars(range(min = 0, max = 100_000_000))]
    pub depth_threshold: i64,
    /// `MailDelayed` becomes True when the oldest mail has waited longer.
    #[serde(default = "default_oldest_threshold")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message("oldestThreshold must be from 1s to 8760h"))]
    pub oldest_threshold: DurationText,
    /// An Event tells of it when more mails of workers that ended are cleaned up within ten minutes, or a tenth of that whose outcome is unknown.
    #[serde(default = "default_recovery_threshold")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub recovery_threshold: i64,
    /// How many outcomes the stream of events keeps, about.
    #[serde(default = "default_events_length")]
    #[schemars(range(min = 100, max = 100_000_000))]
    pub events_length: i64,
    /// How long dead letters are kept: Forever, or a duration after which they are discarded, counted, and told of in an Event.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == 'Forever' || (duration(self) >= duration('1m') && duration(self) <= duration('87600h'))").message("deadLetterRetention must be Forever or from 1m to 87600h"))]
    pub dead_letter_retention: Retention,
    /// How long it is remembered what became of a mail: so long a second mail with its id or idempotency key is refused.
    #[serde(default = "default_record_retention")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('720h')").message("recordRetention must be from 1m to 720h"))]
    pub record_retention: DurationText,
}

/// When a mail is tried again: `initialBackoff * 2^n`, at most `maxBackoff`, plus up to `jitterPercent`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {}))]
#[x_kube(cel)]
#[x_kube(validation = Rule::new("duration(self.maxBackoff) >= duration(self.initialBackoff)").message("retry.maxBackoff must not be shorter than retry.initialBackoff"))]
pub struct Retry {
    /// How often a mail that the server put off is tried again before it goes to the dead letters.
    #[serde(default = "default_max_retries")]
    #[schemars(range(min = 0, max = 100))]
    pub max_retries: i32,
    /// The wait before the first retry.
    #[serde(default = "default_initial_backoff")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('24h')").message("initialBackoff must be from 10ms to 24h"))]
    pub initial_backoff: DurationText,
    /// The longest wait.
    #[serde(default = "default_max_backoff")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('168h')").message("maxBackoff must be from 10ms to 168h"))]
    pub max_backoff: DurationText,
    /// How much longer, at random, a wait may be, in percent.
    #[serde(default = "default_jitter_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: i32,
    /// A mail that has waited longer than this, since it was queued or since its `notBefore`, goes to the dead letters when its
    /// next try fails, whatever the reason.
    #[serde(default = "default_max_age")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('8760h')").message("maxAge must be from 1m to 8760h"))]
    pub max_age: DurationText,
    /// Rest when most of the last 20 different mails went to the dead letters, and ask with one mail at a time until a server
    /// takes one.
    #[serde(default = "default_dead_letter_guard")]
    pub dead_letter_guard: bool,
}

/// When a server that keeps failing is left alone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {}))]
#[x_kube(cel)]
pub struct Breaker {
    /// After how many failures in a row.
    #[serde(default = "default_consecutive_failures")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub consecutive_failures: i32,
    /// For how long, before one probe.
    #[serde(default = "default_pause")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('24h')").message("pause must be from 100ms to 24h"))]
    pub pause: DurationText,
}

/// What becomes of a mail whose final answer was lost.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownOutcome {
    /// Park it for a person.
    #[default]
    Hold,
    /// Send it again with the same Message-ID.
    Resend,
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

impl Default for Workers {
    fn default() -> Self {
        Self { selector: None, container: default_container() }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            name: default_queue_name(),
            dead_letter_name: default_dead_letter_name(),
            payload_prefix: KeyPrefix::default(),
            max_length: default_max_length(),
            depth_threshold: default_depth_threshold(),
            oldest_threshold: default_oldest_threshold(),
            recovery_threshold: default_recovery_threshold(),
            events_length: default_events_length(),
            dead_letter_retention: Retention::default(),
            record_retention: default_record_retention(),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: default_max_retries(),
            initial_backoff: default_initial_backoff(),
            max_backoff: default_max_backoff(),
            jitter_percent: default_jitter_percent(),
            max_age: default_max_age(),
            dead_letter_guard: default_dead_letter_guard(),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { consecutive_failures: default_consecutive_failures(), pause: default_pause() }
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
fn default_container() -> String {
    "mailrelay".into()
}
fn default_queue_name() -> QueueName {
    QueueName::default_queue()
}
fn default_dead_letter_name() -> QueueName {
    QueueName::default_dead_letters()
}
const fn default_max_length() -> i64 {
    100_000
}
const fn default_depth_threshold() -> i64 {
    1_000
}
const fn default_oldest_threshold() -> DurationText {
    DurationText::from_secs(300)
}
const fn default_recovery_threshold() -> i64 {
    100
}
const fn default_events_length() -> i64 {
    10_000
}
const fn default_record_retention() -> DurationText {
    DurationText::from_secs(24 * 3_600)
}
const fn default_max_retries() -> i32 {
    3
}
const fn default_initial_backoff() -> DurationText {
    DurationText::from_secs(1)
}
const fn default_max_backoff() -> DurationText {
    DurationText::from_secs(60)
}
const fn default_jitter_percent() -> i32 {
    20
}
const fn default_max_age() -> DurationText {
    DurationText::from_secs(120 * 3_600)
}
const fn default_dead_letter_guard() -> bool {
    true
}
const fn default_consecutive_failures() -> i32 {
    100
}
const fn default_pause() -> DurationText {
    DurationText::from_secs(30)
}
