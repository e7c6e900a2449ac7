//! What lies under the id of a mail whose list held nothing else.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Queue, long::LONG, room::Share};
use crate::{
    mail::{MAX_PAYLOAD, is_id},
    store::StoreError,
};

/// The id, when the payload is nothing else: bare, or as a JSON string.
pub(super) fn bare_id(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?.trim();
    let id = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    is_id(id).then(|| id.to_owned())
}

/// What lies under the id of a mail whose list held nothing else.
pub(super) enum Payload {
    Text(Bytes),
    Missing,
    /// Why it cannot be read, and what to do.
    Unreadable(Cow<'static, str>),
}

impl Payload {
    /// Its text, if it could be read.
    pub fn text(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing | Self::Unreadable(_) => None,
        }
    }
}

impl Queue {
    /// The JSON of a mail whose list held only its id, and its room when it is long; none when there is no room for it now.
    /// What Redis will refuse the next time too is an answer, not a failure: the claim would come round for ever, and all
    /// that were taken with it.
    pub(super) async fn payload_at(&self, key: &str) -> Result<Option<(Payload, Option<Share>)>, StoreError> {
        let begin = match readable(self.text_begin(key).await)? {
            Ok(begin) if begin.is_empty() => return Ok(Some((Payload::Missing, None))),
            Ok(begin) if begin.len() < LONG => return Ok(Some((Payload::Text(begin.into()), None))),
            Ok(begin) => begin,
            Err(unreadable) => return Ok(Some((unreadable, None))),
        };
        let length = match readable(self.text_length(key).await)? {
            Ok(length) => length,
            Err(unreadable) => return Ok(Some((unreadable, None))),
        };
        if length > MAX_PAYLOAD {
            let why = format!("it has {length} bytes; at most {MAX_PAYLOAD} are taken");
            return Ok(Some((Payload::Unreadable(why.into()), None)));
        }
        let Some(share) = self.room.admit(length) else { return Ok(None) };
        let text = readable(self.text_rest(key, begin, length).await)?;
        let found = text.map_or_else(|unreadable| unreadable, |text| Payload::Text(text.into()));
        Ok(Some((found, Some(share))))
    }
}

/// An answer of Redis, or that it will never give one.
fn readable<T>(read: Result<T, StoreError>) -> Result<Result<T, Payload>, StoreError> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(StoreError::Refused { code, .. }) if let Some(why) = unreadable(&code) => {
            Ok(Err(Payload::Unreadable(why.into())))
        }
        Err(error) => Err(error),
    }
}

/// Why a payload cannot be read, when the error code stands for more than this moment. All others (`LOADING`, `NOAUTH`,
/// `CLUSTERDOWN`, `TRYAGAIN`, ...) may be over at the next try, as a slot's move may be (`ASK`).
fn unreadable(code: &str) -> Option<&'static str> {
    match code {
        "WRONGTYPE" => Some("a value of another type than a string lies there"),
        "NOPERM" => Some(
            "the Redis user of the worker may not read it: allow +getrange, +strlen and ~<payloadPrefix>*, as \
                  `mailrelay redis-acl` does",
        ),
        "MOVED" => Some("it lies on another node of Redis Cluster: give payloadPrefix the hash tag of the queue"),
        _ => None,
    }
}
