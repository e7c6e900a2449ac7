//! Durations as people write them in YAML: `30s`, `5m`, `1h30m`, `250ms`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// As Gateway API writes them (GEP-2257). What is read is a little more: objects and records of before may have more digits.
const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A duration written as a sum of `<integer><ms|s|m|h>` terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DurationText(Duration);

/// Why a text is not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a duration: {0:?}; write a sum of integers with a unit, such as 30s, 5m or 1h30m")]
pub struct ParseDurationError(String);

impl DurationText {
    /// Wraps a duration; fractions of a millisecond are dropped when it is written.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// A whole number of seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The duration in milliseconds, saturating.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for DurationText {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDurationError(text.to_owned());
        let mut total = Duration::ZERO;
        let mut rest = text;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number: u64 = rest[..digits].parse().map_err(|_| error())?;
            let tail = &rest[digits..];
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let milliseconds = match &tail[..unit_end] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(error()),
            };
            let term = number.checked_mul(milliseconds).ok_or_else(error)?;
            total = total.checked_add(Duration::from_millis(term)).ok_or_else(error)?;
            rest = &tail[unit_end..];
        }
        Ok(Self(total))
    }
}

impl TryFrom<String> for DurationText {
    type Error = ParseDurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DurationText> for String {
    fn from(duration: DurationText) -> Self {
        duration.to_string()
    }
}

impl From<DurationText> for Duration {
    fn from(duration: DurationText) -> Self {
        duration.0
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_millis();
        if total == 0 {
            return f.write_str("0s");
        }
        let (hours, minutes) = (total / 3_600_000, total / 60_000 % 60);
        let (seconds, milliseconds) = (total / 1_000 % 60, total % 1_000);
        for (number, unit) in [(hours, "h"), (minutes, "m"), (seconds, "s"), (milliseconds, "ms")] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_add_up() {
        assert_eq!("1h30m".parse(), Ok(DurationText::from_secs(5_400)));
        assert_eq!("250ms".parse(), Ok(DurationText::new(Duration::from_millis(250))));
        assert_eq!("0s".parse(), Ok(DurationText::from_secs(0)));
    }

    #[test]
    fn what_has_no_unit_or_an_unknown_one_is_refused() {
        for text in ["", "5", "5d", "m", "-1s", "1.5s", "5 s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(text.parse::<DurationText>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn printing_and_parsing_are_inverse() {
        for milliseconds in [0, 1, 999, 1_000, 61_001, 3_600_000, 90_061_001] {
            let duration = DurationText::new(Duration::from_millis(milliseconds));
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
