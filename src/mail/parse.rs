//! From the JSON that producers push to the mail it stands for.

use std::fmt;

use bytes::Bytes;
use lettre::message::Mailbox;
use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    error::MailError,
    fields::Fields,
    header::{check_folding, one_line},
    ids::is_id,
    json::{self, Text},
    limits::{MAX_MESSAGE, MAX_PAYLOAD, MAX_RECIPIENTS},
    model::{Content, Mail, Parts},
    raw::Raw,
};

/// The fields of a mail; others are ignored.
const FIELDS: [&str; 21] = [
    "attachments",
    "bcc",
    "calendar",
    "cc",
    "expiresAt",
    "from",
    "headers",
    "html",
    "id",
    "idempotencyKey",
    "notBefore",
    "priority",
    "raw",
    "replyTo",
    "returnPath",
    "subject",
    "text",
    "to",
    "traceparent",
    "unknownOutcome",
    "version",
];

/// Reads a producer's JSON. Liberal: unknown fields are ignored, `to` may be one string or a list, addresses may carry
/// display names, times may be RFC 3339 or numbers. What can't be sent as it is meant is refused, field by field.
///
/// Contents stay in the payload, which the mail shares from then on.
pub fn parse(payload: impl Into<Bytes>) -> Result<Mail, MailError> {
    let payload = json::mended(payload.into());
    if payload.len() > MAX_PAYLOAD {
        return Err(MailError::new("mail", format!("{} bytes; at most {MAX_PAYLOAD} are taken", payload.len())));
    }
    let object = json::check(&payload)
        .map_err(|error| MailError::new("mail", format!("not JSON: {error}; push an object with from, to and text")))?;
    let fields = Fields::of(&payload, object, &FIELDS)
        .ok_or_else(|| MailError::new("mail", "not a JSON object; push an object with from, to and text"))?;
    refuse_other_versions(&fields)?;
    let return_path = fields.return_path()?;
    let nobody = fields.is_empty_text("from");
    let from = if nobody { None } else { fields.mailboxes("from")?.into_iter().next() };
    // A message that is complete has its own From; an answer that must not be answered has no address for refusals.
    let reverse_path = match (&from, return_path) {
        (_, Some(path)) => path,
        (Some(from), None) => from.email.to_string(),
        (None, None) if nobody && fields.has("raw") => String::new(),
        (None, None) => return Err(MailError::new("from", "missing; give the sender's address")),
    };
    let (to, cc, bcc) = (fields.mailboxes("to")?, fields.mailboxes("cc")?, fields.mailboxes("bcc")?);
    let recipients = recipients(&[&to, &cc, &bcc])?;
    let id = fields.id()?;
    let mail = Mail {
        id,
        reverse_path,
        recipients,
        priority: fields.priority()?,
        not_before: fields.time("notBefore")?,
        expires_at: fields.time("expiresAt")?,
        idempotency_key: fields.text("idempotencyKey")?.filter(|key| !key.is_empty()),
        traceparent: fields.text("traceparent").ok().flatten().filter(|text| is_traceparent(text)),
        unknown_outcome: fields.unknown_outcome()?,
        content: content(&fields, from, to, cc)?,
    };
    if mail.idempotency_key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
        return Err(MailError::new("idempotencyKey", format!("longer than {MAX_KEY} bytes")));
    }
    Ok(mail)
}

/// The id in a payload that is no mail: of the outermost object, when it comes before the place where the JSON breaks.
/// Whoever looks after dead letters finds the mail by it.
pub(crate) fn id_of_invalid(payload: &[u8]) -> Option<String> {
    struct Outermost<'a>(&'a mut Option<String>);

    impl<'de> Visitor<'de> for Outermost<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
            while let Some(field) = fields.next_key::<String>()? {
                if field == "id" {
                    *self.0 = match fields.next_value::<Value>()? {
                        Value::String(text) => Some(text),
                        Value::Number(number) => Some(number.to_string()),
                        _ => None,
                    };
                } else {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let mut id = None;
    // What breaks after the id does not matter.
    let payload = payload.strip_prefix(json::BYTE_ORDER_MARK).unwrap_or(payload);
    let _ = serde_json::Deserializer::from_slice(payload).deserialize_map(Outermost(&mut id));
    id.filter(|id| is_id(id))
}

/// How long an idempotency key may be.
const MAX_KEY: usize = 1_024;

fn refuse_other_versions(fields: &Fields) -> Result<(), MailError> {
    let version = match fields.value("version")? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_start_matches('v').parse().ok(),
        _ => None,
    };
    match version {
        Some(version) if version >= 2.0 => {
            Err(MailError::new("version", format!("{version} is not known here; this release reads version 1")))
        }
        _ => Ok(()),
    }
}

fn recipients(lists: &[&Vec<Mailbox>]) -> Result<Vec<String>, MailError> {
    let mut recipients: Vec<String> = Vec::new();
    for mailbox in lists.iter().copied().flatten() {
        let address = mailbox.email.to_string();
        if !recipients.contains(&address) {
            recipients.push(address);
        }
    }
    match recipients.len() {
        0 => Err(MailError::new("to", "missing; give at least one recipient in to, cc or bcc")),
        1..=MAX_RECIPIENTS => Ok(recipients),
        count => {
            Err(MailError::new("to", format!("{count} recipients; split it into mails of {MAX_RECIPIENTS} at most")))
        }
    }
}

fn content(fields: &Fields, from: Option<Mailbox>, to: Vec<Mailbox>, cc: Vec<Mailbox>) -> Result<Content, MailError> {
    if let Some(raw) = fields.content("raw")? {
        return Ok(Content::Raw(Raw::read(raw)?));
    }
    let from = from.ok_or_else(|| MailError::new("from", "missing; give the sender's address"))?;
    let parts = Parts {
        from,
        to,
        cc,
        reply_to: fields.mailboxes("replyTo")?,
        subject: fields.text("subject")?.map(|subject| one_line(&subject)),
        text: fields.content("text")?,
        html: fields.content("html")?,
        calendar: fields.text("calendar")?.filter(|calendar| !calendar.trim().is_empty()),
        headers: fields.headers()?,
        attachments: fields.attachments()?,
    };
    if let Some(subject) = &parts.subject {
        check_folding("subject", subject)?;
    }
    let nothing = parts.text.is_none() && parts.html.is_none() && parts.calendar.is_none();
    // A subject may say it all.
    if nothing && parts.attachments.is_empty() && parts.subject.as_deref().unwrap_or_default().is_empty() {
        return Err(MailError::new("text", "nothing to send; give subject, text, html, attachments or raw"));
    }
    let size = parts.text.as_ref().map_or(0, Text::len)
        + parts.html.as_ref().map_or(0, Text::len)
        + parts.attachments.iter().map(|file| file.content.len() / 3 * 4).sum::<usize>();
    if size > MAX_MESSAGE {
        return Err(MailError::new("mail", format!("about {size} bytes composed; at most {MAX_MESSAGE} are sent")));
    }
    Ok(Content::Parts(Box::new(parts)))
}

fn is_traceparent(text: &str) -> bool {
    (55..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests;
