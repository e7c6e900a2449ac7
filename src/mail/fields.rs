//! Reading single fields of a producer's JSON, liberally.

use std::collections::BTreeMap;

use bytes::Bytes;
use lettre::message::Mailbox;
use serde_json::Value;

use crate::api::UnknownOutcome;

use super::{
    address,
    encoded::Encoded,
    error::MailError,
    header::{check_header, header_value, one_line},
    ids::is_id,
    json::{self, Text},
    model::{Attachment, Priority},
    time::UnixMillis,
};

/// How long the JSON of a field may be that is no content: 100 recipients with long names, each character escaped.
const MAX_FIELD: usize = 512 * 1024;

/// How many files one mail may have.
const MAX_FILES: usize = 1_000;

/// The fields of an object, where they lie in the payload.
pub(super) struct Fields<'a> {
    payload: &'a Bytes,
    found: BTreeMap<&'static str, &'a str>,
}

impl<'a> Fields<'a> {
    /// Those of these names; none when it is no object. `object` is a part of the payload, and was checked.
    pub fn of(payload: &'a Bytes, object: &'a str, names: &[&'static str]) -> Option<Self> {
        let known = |name: &str| names.iter().copied().find(|known| *known == name);
        let found = json::members(object).filter_map(|(name, value)| Some((known(&name)?, value))).collect();
        object.starts_with('{').then_some(Self { payload, found })
    }

    /// The value of a field that is no content; absent and null are the same.
    pub fn value(&self, field: &str) -> Result<Value, MailError> {
        let Some(text) = self.found.get(field) else { return Ok(Value::Null) };
        if text.len() > MAX_FIELD {
            return Err(MailError::new(field, format!("longer than {MAX_FIELD} bytes; shorten it")));
        }
        json::small(text).map_err(|error| MailError::new(field, format!("not JSON: {error}")))
    }

    /// Whether it is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.found.get(field).is_some_and(|value| *value != "null")
    }

    /// Whether it is there, and says nothing on purpose.
    pub fn is_empty_text(&self, field: &str) -> bool {
        self.found.get(field).is_some_and(|value| matches!(*value, "\"\"" | "\"<>\""))
    }

    /// A text, or a number as text.
    pub fn text(&self, field: &str) -> Result<Option<String>, MailError> {
        match self.value(field)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            Value::Number(number) => Ok(Some(number.to_string())),
            _ => Err(MailError::new(field, "not a text; write a JSON string")),
        }
    }

    /// The same for content, which stays where it is.
    pub fn content(&self, field: &str) -> Result<Option<Text>, MailError> {
        match self.found.get(field) {
            Some(string) if string.starts_with('"') => {
                let text = Text::read(self.payload, string);
                text.map(Some).ok_or_else(|| MailError::new(field, "not JSON: an escape stands for half a character"))
            }
            _ => Ok(self.text(field)?.map(Text::of)),
        }
    }

    pub fn id(&self) -> Result<Option<String>, MailError> {
        match self.text("id")?.filter(|id| !id.is_empty()) {
            Some(id) if !is_id(&id) => {
                Err(MailError::new("id", "use at most 200 letters, digits and . _ : @ + = / - , or leave it out"))
            }
            id => Ok(id),
        }
    }

    pub fn priority(&self) -> Result<Priority, MailError> {
        match self.text("priority")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "normal" | "3") => Ok(Priority::Normal),
            // As X-Priority, Priority and Precedence have them.
            Some("high" | "urgent" | "1" | "2") => Ok(Priority::High),
            Some("low" | "non-urgent" | "bulk" | "4" | "5") => Ok(Priority::Low),
            Some(_) => Err(MailError::new("priority", "write high, normal or low")),
        }
    }

    /// As the relay's field of this name.
    pub fn unknown_outcome(&self) -> Result<Option<UnknownOutcome>, MailError> {
        match self.text("unknownOutcome")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("") => Ok(None),
            Some("hold") => Ok(Some(UnknownOutcome::Hold)),
            Some("resend") => Ok(Some(UnknownOutcome::Resend)),
            Some(_) => Err(MailError::new("unknownOutcome", "write Hold or Resend, or leave it to the relay")),
        }
    }

    /// RFC 3339, or a number: milliseconds since 1970 when it is that large, otherwise seconds.
    pub fn time(&self, field: &str) -> Result<Option<UnixMillis>, MailError> {
        let problem =
            || MailError::new(field, "not a time; write RFC 3339 such as 2026-11-21T08:30:00Z, or seconds since 1970");
        let Some(text) = self.text(field)? else { return Ok(None) };
        let text = text.trim();
        if let Ok(number) = text.parse::<f64>() {
            if !(0.0..=1e15).contains(&number) {
                return Err(problem());
            }
            let milliseconds = if number >= 1e11 { number } else { number * 1_000.0 };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
            return Ok(Some(UnixMillis(milliseconds as u64)));
        }
        let stamp: jiff::Timestamp = text.parse().map_err(|_| problem())?;
        Ok(Some(UnixMillis(u64::try_from(stamp.as_millisecond()).map_err(|_| problem())?)))
    }

    /// One address or a list; each a text with or without a display name, or an object with `name` and `address`.
    pub fn mailboxes(&self, field: &str) -> Result<Vec<Mailbox>, MailError> {
        match self.value(field)? {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => {
                let mut mailboxes = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    mailboxes.extend(item_mailboxes(&format!("{field}[{index}]"), item)?);
                }
                Ok(mailboxes)
            }
            item => item_mailboxes(field, &item),
        }
    }

    /// Where refusals go, when that is not the sender: empty is nowhere.
    pub fn return_path(&self) -> Result<Option<String>, MailError> {
        let Some(text) = self.text("returnPath")? else { return Ok(None) };
        let text = text.trim();
        let bare = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text).trim();
        if bare.is_empty() {
            return Ok(Some(String::new()));
        }
        Ok(Some(address::address_of("returnPath", bare)?.to_string()))
    }

    /// Custom headers, in the object's order; a list of values is as many headers.
    pub fn headers(&self) -> Result<Vec<(String, String)>, MailError> {
        let object = match self.value("headers")? {
            Value::Null => return Ok(Vec::new()),
            Value::Object(object) => object,
            _ => return Err(MailError::new("headers", "not an object; write {\"X-Name\": \"value\"}")),
        };
        let mut headers = Vec::new();
        for (name, value) in object {
            check_header(&name)?;
            match value {
                Value::Null => {}
                Value::Array(values) => {
                    for (at, value) in values.into_iter().enumerate() {
                        let value = header_value(&format!("headers.{name}[{at}]"), value)?;
                        headers.push((name.clone(), value));
                    }
                }
                value => {
                    let value = header_value(&format!("headers.{name}"), value)?;
                    headers.push((name, value));
                }
            }
        }
        Ok(headers)
    }

    pub fn attachments(&self) -> Result<Vec<Attachment>, MailError> {
        let list = match self.found.get("attachments") {
            None | Some(&"null") => return Ok(Vec::new()),
            Some(list) if list.starts_with('[') => list,
            Some(_) => return Err(MailError::new("attachments", "not a list")),
        };
        if json::items(list).nth(MAX_FILES).is_some() {
            return Err(MailError::new(
                "attachments",
                format!("more than {MAX_FILES}; send fewer, or an archive of them"),
            ));
        }
        let files = json::items(list).enumerate();
        files.map(|(index, file)| attachment(&format!("attachments[{index}]"), self.payload, file)).collect()
    }
}

fn attachment(field: &str, payload: &Bytes, item: &str) -> Result<Attachment, MailError> {
    let file = Fields::of(payload, item, &["filename", "contentType", "content", "cid"]);
    let file = file.ok_or_else(|| MailError::new(field, "not an object"))?;
    let within = |error: MailError| MailError::new(format!("{field}.{}", error.field), error.problem);
    let filename = one_line(&file.text("filename").map_err(within)?.unwrap_or_else(|| "attachment".into()));
    if filename.len() > 255 {
        return Err(MailError::new(format!("{field}.filename"), "longer than 255 bytes"));
    }
    let content_type = file.text("contentType").map_err(within)?.unwrap_or_else(|| "application/octet-stream".into());
    // A multipart or message type needs a structure that base64 of opaque bytes is not.
    let lower = content_type.to_ascii_lowercase();
    let opaque = !lower.starts_with("multipart/") && !lower.starts_with("message/");
    if !opaque || content_type.len() > 200 || !content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(MailError::new(format!("{field}.contentType"), "write a media type such as application/pdf"));
    }
    lettre::message::header::ContentType::parse(&content_type)
        .map_err(|_| MailError::new(format!("{field}.contentType"), "write a media type such as application/pdf"))?;
    let content = file
        .content("content")
        .map_err(within)?
        .ok_or_else(|| MailError::new(format!("{field}.content"), "missing; give the file in base64"))?;
    let cid = file.text("cid").map_err(within)?.filter(|cid| !cid.is_empty());
    if cid.as_deref().is_some_and(|cid| !is_content_id(cid)) {
        return Err(MailError::new(
            format!("{field}.cid"),
            "use at most 200 printable ASCII characters without spaces, quotes and angle brackets",
        ));
    }
    Ok(Attachment { filename, content_type, content: Encoded::read(&format!("{field}.content"), content)?, cid })
}

fn is_content_id(cid: &str) -> bool {
    cid.len() <= 200 && cid.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"\\(),;".contains(&byte))
}

fn item_mailboxes(field: &str, item: &Value) -> Result<Vec<Mailbox>, MailError> {
    match item {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => address::mailboxes(field, text),
        Value::Object(object) => {
            let text = |name: &str| object.get(name).and_then(Value::as_str);
            let address = text("address").or_else(|| text("email")).ok_or_else(|| {
                MailError::new(field, "an object without address; write {\"name\": .., \"address\": ..}")
            })?;
            Ok(vec![address::named(field, text("name"), address)?])
        }
        _ => Err(MailError::new(field, "not an address; write user@example.com or Name <user@example.com>")),
    }
}
