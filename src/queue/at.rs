//! The time by which a script acts.

use crate::mail::UnixMillis;

/// The time by which a script acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Redis' own (`TIME`), asked inside the script: clocks of workers differ, and may be hours off.
    Redis,
    /// This one. For tests, which can't wait for hours.
    Fixed(UnixMillis),
}

impl At {
    /// As the scripts take it.
    pub(super) fn word(self) -> String {
        match self {
            Self::Redis => word(None),
            Self::Fixed(now) => word(Some(now)),
        }
    }
}

/// A time that may be none, as the scripts take it.
pub(super) fn word(time: Option<UnixMillis>) -> String {
    time.map_or_else(String::new, |time| time.0.to_string())
}

impl From<UnixMillis> for At {
    fn from(now: UnixMillis) -> Self {
        Self::Fixed(now)
    }
}
