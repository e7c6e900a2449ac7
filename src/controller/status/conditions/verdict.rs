//! What is said of one condition.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{Condition, is_documented};

/// The reason of `SlotsQuarantined` when a pod holds slots that the API server does not know any more.
pub const HELD_BY_VANISHED: &str = "HeldByVanishedPod";

/// The reasons of `Ready` when nothing is sent since someone wants it so.
pub const SCALED_TO_ZERO: &str = "ScaledToZero";
pub const SUSPENDED: &str = "Suspended";

/// How many pods a message names.
pub const NAMED: usize = 4;

/// What one function says of a condition.
pub struct Verdict {
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

impl Verdict {
    /// The condition of this kind; its transition time is kept from `old` where its status is the same.
    pub fn condition(self, kind: &str, generation: i64, old: &[Condition], now: Timestamp) -> Condition {
        // A newer worker may say what is not known here.
        debug_assert!(!cfg!(test) || is_documented(kind, &self.reason), "{kind}: {} is explained nowhere", self.reason);
        let unchanged = old.iter().find(|old| old.type_ == kind && old.status == self.status);
        let now = || Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        Condition {
            type_: kind.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason,
            message: self.message,
            observed_generation: Some(generation),
            last_transition_time: unchanged.map_or_else(now, |unchanged| unchanged.last_transition_time.clone()),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every judge ends with it")]
pub fn say(status: bool, reason: impl Into<String>, message: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { status: if status { "True" } else { "False" }, reason: reason.into(), message: message.into() })
}

/// That nobody can say.
pub fn unknown(reason: &str, message: String) -> Verdict {
    Verdict { status: "Unknown", reason: reason.to_owned(), message }
}
