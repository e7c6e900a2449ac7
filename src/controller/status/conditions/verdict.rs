//! What is said of one condition.

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

#[expect(clippy::unnecessary_wraps, reason = "every judge ends with it")]
pub fn say(status: bool, reason: impl Into<String>, message: impl Into<String>) -> Option<Verdict> {
    Some(Verdict { status: if status { "True" } else { "False" }, reason: reason.into(), message: message.into() })
}

/// That nobody can say.
pub fn unknown(reason: &str, message: String) -> Verdict {
    Verdict { status: "Unknown", reason: reason.to_owned(), message }
}
