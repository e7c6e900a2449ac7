//! How long something is kept: for ever, or for a time.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{DurationText, ParseDurationError};

const FOREVER: &str = "Forever";

/// `Forever`, or a duration as [`DurationText`] writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Retention {
    /// Until a person decides.
    #[default]
    Forever,
    /// No longer than this.
    For(DurationText),
}

impl FromStr for Retention {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == FOREVER { Ok(Self::Forever) } else { text.parse().map(Self::For) }
    }
}

impl TryFrom<String> for Retention {
    type Error = ParseDurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Retention> for String {
    fn from(retention: Retention) -> Self {
        retention.to_string()
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str(FOREVER),
            Self::For(duration) => duration.fmt(f),
        }
    }
}

impl JsonSchema for Retention {
    fn schema_name() -> Cow<'static, str> {
        "Retention".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(Forever|([0-9]{1,5}(h|m|s|ms)){1,4})$", "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_word_or_a_duration() {
        for text in ["Forever", "720h", "1h30m"] {
            assert_eq!(text.parse::<Retention>().map(|retention| retention.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "forever", "5d"] {
            assert!(text.parse::<Retention>().is_err(), "{text:?}");
        }
    }
}
