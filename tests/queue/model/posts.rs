//! What producers send: mails of their own and mails again, others under the same id or key, headers that only scripts may
//! write, and what is no mail.

use rand::{RngExt, rngs::StdRng};
use serde_json::json;

/// A mail; each recipient belongs to one.
#[derive(Clone, Debug)]
pub struct Made {
    pub id: Option<String>,
    pub key: Option<String>,
    pub recipients: Vec<String>,
    /// Which of the queues it was sent to first; one that is sent again goes there too.
    pub queue: usize,
    /// Whether another mail has its id or key.
    pub is_other: bool,
    /// Whether the queue has taken it for certain.
    pub accepted: bool,
}

impl Made {
    /// The next one; some take the id or key of one before.
    pub fn next(all: &[Self], queue: usize, random: &mut StdRng) -> Self {
        let number = all.len();
        let recipients = (0..random.random_range(1..4)).map(|of| format!("r{number}-{of}@example.org")).collect();
        let mut made = Self {
            id: random.random_bool(0.6).then(|| format!("id-{number}")),
            key: random.random_bool(0.4).then(|| format!("key-{number}")),
            recipients,
            queue,
            is_other: false,
            accepted: false,
        };
        let like = if number == 0 { 0 } else { random.random_range(0..number) };
        if let Some(like) = all.get(like).filter(|_| random.random_bool(0.1)) {
            if like.id.is_some() && random.random_bool(0.5) {
                (made.id, made.is_other) = (like.id.clone(), true);
            } else if like.key.is_some() {
                (made.key, made.is_other) = (like.key.clone(), true);
            }
        }
        made
    }

    /// Whether the queue can tell it from others.
    pub fn is_named(&self) -> bool {
        self.id.is_some() || self.key.is_some()
    }

    /// The producer's JSON. `mark` tells this entry from all others, and nothing of the mail.
    pub fn json(&self, mark: u64) -> String {
        let mut mail = json!({ "from": "a@example.com", "to": self.recipients, "text": self.recipients[0] });
        for (name, text) in [("id", &self.id), ("idempotencyKey", &self.key)] {
            if let Some(text) = text {
                mail[name] = text.as_str().into();
            }
        }
        mail["mark"] = format!("mark-{mark}-").into();
        mail.to_string()
    }

    /// The same behind a header that a producer forged.
    pub fn forged(&self, mark: u64, random: &mut StdRng) -> String {
        let first = &self.recipients[0];
        let id = self.id.clone().unwrap_or_else(|| "forged".into());
        let mut header = json!({
            "id": id, "serial": format!("{mark:032x}"), "messageId": format!("<{id}@example.com>"), "firstSeen": 1,
            "since": 1,
        });
        match random.random_range(0..4) {
            0 => header["crashes"] = 3.into(),
            1 => header["refused"] = json!([{ "recipient": first, "reply": "550 no" }]),
            2 => header["remaining"] = json!([first]),
            _ => header["remaining"] = json!(["victim@example.org"]),
        }
        format!("mailrelay/1 n {header}\n{}", self.json(mark))
    }
}

/// The mark of an entry.
pub fn mark(entry: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(entry);
    let at = text.rfind("mark-")?;
    Some(text[at..].split('-').take(2).collect::<Vec<_>>().join("-"))
}
