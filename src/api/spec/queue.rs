//! `spec.queue`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{DurationText, KeyPrefix, QueueName, Retention};

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
