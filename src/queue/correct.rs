//! A person accepts that the conservation sum is wrong by a number that is known, so that the next difference is news.

use redis::cmd;
use serde::{Deserialize, Serialize};

use super::{
    At, Queue, SCRIPT_LIMIT,
    inspect::{AUDIT, TRIES},
    scripts,
};
use crate::{mail::UnixMillis, store::StoreError};

/// A difference that somebody accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Correction {
    /// When, by Redis' clock.
    pub at: UnixMillis,
    /// Who, as they said themselves.
    pub by: String,
    /// By how much the sum was wrong.
    pub difference: i64,
    /// How many counted mails should have waited, when fewer or more did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<i64>,
}

/// What became of an acceptance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// The audit starts from here.
    Accepted(Correction),
    /// The difference is this one by now, and was not accepted.
    Differs(i64),
    /// There is nothing to accept: no difference, and no counter that is wrong.
    Nothing,
}

impl Queue {
    /// Accepts that `difference` mails are missing, or too many when it is negative, and that as many counted mails wait as
    /// lie there. It is written down with `by`.
    pub async fn audit_accept(&self, difference: i64, by: &str, at: impl Into<At>) -> Result<Acceptance, StoreError> {
        let at = at.into();
        for _ in 0..TRIES {
            let survey = self.survey(AUDIT).await?;
            let audit = survey.audit();
            let counter = |name: &str| survey.counters.get(name).copied().unwrap_or(0);
            let known = counter("counted");
            // More that look counted than were may be forged, unless the counters are gone.
            let is_sound = |seen: &i64| *seen < known || (*seen > known && audit.since.is_none());
            let seen = survey.recounted.and_then(|found| i64::try_from(found).ok()).filter(is_sound);
            if audit.difference != difference {
                return Ok(Acceptance::Differs(audit.difference));
            }
            if difference == 0 && seen.is_none() && audit.since.is_some() {
                return Ok(Acceptance::Nothing);
            }
            let now = self.time(at).await?;
            let should_wait = seen.map(|_| known);
            // Those that are counted from now on were on both sides of the sum.
            let more = seen.map_or(0, |seen| seen.saturating_sub(known).max(0)).saturating_sub(difference);
            let correction = Correction { at: now, by: by.to_owned(), difference, counted: should_wait };
            // A plain struct always serialises.
            let text = serde_json::to_vec(&correction).unwrap_or_default();
            let words = [counter("corrections"), more, known].map(|number| number.to_string());
            let (seen, now) = (seen.map(|seen| seen.to_string()).unwrap_or_default(), now.0.to_string());
            let mut arguments: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            arguments.extend([seen.as_bytes(), now.as_bytes(), &text]);
            let keys = [self.names.corrections.clone()];
            let answer: String = self.run(&scripts::ACCEPT, &keys, &arguments).await?;
            if answer == "done" {
                tracing::warn!(difference, by, "a difference of the audit was accepted");
                return Ok(Acceptance::Accepted(correction));
            }
        }
        Err(self.garbled(format!("the counters changed {TRIES} times while they were looked at; try again")))
    }

    /// The differences that were accepted, newest first: the last `limit`, of 100 that are kept.
    pub async fn audit_corrections(&self, limit: usize) -> Result<Vec<Correction>, StoreError> {
        let mut ask = cmd("LRANGE");
        ask.arg(&self.names.corrections).arg(0).arg(limit.saturating_sub(1));
        let found: Vec<Vec<u8>> = self.store.query(&ask, SCRIPT_LIMIT).await?;
        Ok(found.iter().map(|text| serde_json::from_slice(text).unwrap_or_default()).collect())
    }
}
