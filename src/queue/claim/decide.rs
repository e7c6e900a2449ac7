//! What is to become of a claimed entry. Pure.

use bytes::Bytes;

use super::take::Taken;
use crate::{
    mail::{Mail, Priority, UnixMillis, id_of_invalid, parse},
    queue::{DeadLetter, Entry, Header, Stage, envelope, payload::Payload},
};

/// What stands before the producer's bytes of an entry.
pub(super) enum Envelope {
    /// Nothing that tells anything.
    None,
    /// A header, to be compared with the mail's record before it is believed.
    Headed(Box<Header>),
    /// A header that is not ours: a producer wrote it.
    Forged,
    /// No header, though the entry begins as if it had one: all of it is the producer's.
    Broken,
}

impl Envelope {
    /// And where the producer's bytes begin.
    pub(super) fn of(entry: &[u8], forged: bool) -> (Self, usize) {
        let decoded = Entry::decode(entry);
        let begin = entry.len() - decoded.payload().len();
        let envelope = match decoded {
            Entry::Raw(_) | Entry::Bare(_) => Self::None,
            Entry::Sealed(..) if forged => Self::Forged,
            Entry::Sealed(header, _) => Self::Headed(header),
            Entry::Malformed(_) => Self::Broken,
        };
        (envelope, begin)
    }

    /// As the script knows it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::None => "raw",
            Self::Headed(_) => "headed",
            Self::Forged | Self::Broken => "forged",
        }
    }
}

pub(super) enum Admission {
    /// To be sent, unless it is early or expired: the script knows the time.
    Keep { header: Box<Header>, mail: Box<Mail> },
    /// Everybody in it has it.
    Duplicate(Box<Header>),
    /// With the producer's bytes.
    Dead(Box<DeadLetter>, Bytes),
}

pub(super) struct Decision {
    pub admission: Admission,
    pub spared: Vec<String>,
    pub sum: String,
}

/// What becomes of a claimed entry. `raw` are the producer's bytes, `named` is its bare id and the key that was read, `found` what lay there. The claim
/// is the mail's identity from now on: who looks at it again, for whatever reason, sees the same mail.
pub(super) fn decide(
    taken: &Taken,
    envelope: &Envelope,
    raw: &Bytes,
    named: Option<(&str, &str)>,
    found: &Payload,
    now: UnixMillis,
) -> Decision {
    let known = match envelope {
        Envelope::Headed(header) => Some(header),
        _ => None,
    };
    let priority = envelope::priority(&taken.entry);
    let dead = |reason: &str, problem: String, payload: &Bytes| {
        let letter =
            DeadLetter::new(known.map(|header| &**header), priority, reason, &problem, Some(Stage::Taken), now);
        let id = known.map(|header| header.id.clone()).or_else(|| named.map(|(id, _)| id.to_owned()));
        let id = id.or_else(|| id_of_invalid(payload));
        let letter = letter.fetched_from(named.map(|(_, key)| key.to_owned())).named(id);
        Decision {
            admission: Admission::Dead(Box::new(letter), payload.clone()),
            spared: Vec::new(),
            sum: String::new(),
        }
    };
    let payload = match (named, found) {
        (Some((_, key)), Payload::Missing) => {
            return dead("PayloadMissing", format!("payload missing: nothing lies under {key}"), raw);
        }
        (Some((_, key)), Payload::Unreadable(why)) => {
            return dead("PayloadUnreadable", format!("the payload under {key} cannot be read: {why}"), raw);
        }
        (Some(_), Payload::Text(fetched)) => fetched,
        (None, _) => raw,
    };
    let mut mail = match parse(payload.clone()) {
        Ok(mail) => mail,
        Err(error) => return dead("InvalidMail", error.to_string(), payload),
    };
    let fix = || Box::new(Header::fix(&mail, named.map(|(id, _)| id), taken.id.as_str(), taken.since));
    let header = known.cloned().unwrap_or_else(fix);
    let sum = mail.fingerprint();
    // The list that a raw mail lay in says more than its field; an envelope of ours is marked.
    if known.is_some() {
        mail.priority = priority;
    } else if taken.source != Priority::Normal {
        mail.priority = taken.source;
    }
    let mut spared = Vec::new();
    if let Some(remaining) = &header.remaining {
        let (sent, left_out) = mail.recipients.into_iter().partition(|recipient| remaining.contains(recipient));
        (mail.recipients, spared) = (sent, left_out);
    }
    if mail.recipients.is_empty() {
        return dead("InvalidMail", "to: none of the recipients still to be sent to is in the payload".into(), payload);
    }
    Decision { admission: Admission::Keep { header, mail: Box::new(mail) }, spared, sum }
}
