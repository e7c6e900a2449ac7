//! A long dead letter is brought to Redis in parts, made of the mail's payload: it is in memory at neither side more often
//! than it must be, and a slow link carries it in the end.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{DeadLetter, Queue, long::LONG, scripts};
use crate::{mail::fresh_id, store::StoreError};

/// How much of a payload goes at once; a multiple of three for base64.
const PART: usize = 3 * 128 * 1024;
/// How long parts wait for the script that makes a letter of them, in milliseconds.
const KEPT: &str = "600000";

/// A dead letter as the scripts want it.
pub(super) struct Brought {
    /// Its text, or `=` and its length when it was brought in parts.
    pub word: Vec<u8>,
    /// Where the parts lie; it goes behind the buckets of the mail's records.
    pub key: Option<String>,
}

impl Queue {
    /// A dead letter with its payload. What is long lies in Redis afterwards, for a while, until a script takes it.
    pub(super) async fn bring(&self, letter: &DeadLetter, payload: &Bytes) -> Result<Brought, StoreError> {
        if payload.len() <= LONG {
            let letter = letter.clone().with_payload(payload);
            return Ok(Brought { word: letter.encode(), key: None });
        }
        let key = self.names.letter(&fresh_id());
        let mut length = 0;
        for part in parts(letter, payload) {
            let from = length.to_string();
            let arguments: [&[u8]; 3] = [from.as_bytes(), &part, KEPT.as_bytes()];
            let () = self.run(&scripts::BRING, std::slice::from_ref(&key), &arguments).await?;
            length += part.len();
        }
        Ok(Brought { word: format!("={length}").into_bytes(), key: Some(key) })
    }

    /// What a script answers whose letter is not there: its parts were too old, or Redis lost them.
    pub(super) fn not_brought(&self) -> StoreError {
        self.garbled("a dead letter that was brought in parts was not there as a whole".into())
    }
}

/// The text of a letter, as [`DeadLetter::encode`] has it, in parts.
fn parts<'a>(letter: &DeadLetter, payload: &'a [u8]) -> impl Iterator<Item = Vec<u8>> + Send + 'a {
    let mut first = letter.encode();
    // The payload comes last.
    first.truncate(first.len() - 1);
    let text = std::str::from_utf8(payload).ok();
    first.extend_from_slice(if text.is_some() { b",\"payload\":\"" } else { b",\"payloadBase64\":\"" });
    let mut rest = payload;
    let parts = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len().min(PART);
        if text.is_some() {
            while rest.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
                end -= 1;
            }
        }
        let (part, others) = rest.split_at(end);
        rest = others;
        let Some(Ok(part)) = text.map(|_| std::str::from_utf8(part)) else {
            return Some(STANDARD.encode(part).into_bytes());
        };
        // A text always serialises, in quotes.
        let mut escaped = serde_json::to_vec(part).unwrap_or_default();
        escaped.pop();
        escaped.remove(0);
        Some(escaped)
    });
    std::iter::once(first).chain(parts).chain([b"\"}".to_vec()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Each is large.
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_letter_in_parts_is_the_letter(piece in "(?s).{1,20}", bytes in proptest::collection::vec(any::<u8>(), 0..4), repeat in 1_usize..30_000, key: bool) {
            let letter = DeadLetter { payload_key: key.then(|| "mail:x".into()), reply: "554 \"no\"".into(), ..DeadLetter::default() };
            let payload = [piece.repeat(repeat).into_bytes(), bytes].concat();
            let whole = letter.clone().with_payload(&payload);
            prop_assert!(parts(&letter, &payload).flatten().collect::<Vec<u8>>() == whole.encode());
        }
    }
}
