//! `spec.retry` and `spec.breaker`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::DurationText;

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
