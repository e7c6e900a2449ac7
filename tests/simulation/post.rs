//! What producers send: by the script or by plain LPUSH, under an id or a key or neither, once or again, with headers that
//! only our scripts may write, and what is no mail at all. Each recipient belongs to one mail, so that the oracles count by
//! recipient.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use crate::process::Time;

/// The domain of all recipients.
const DOMAIN: &str = "example.org";

/// By which way a mail comes into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The script that enqueues.
    Script,
    /// A plain LPUSH onto this list.
    Push(&'static str),
    /// A plain LPUSH of an id, under which the mail lies.
    Stored,
    /// A plain LPUSH of what is no mail.
    Garbage,
}

/// What a header says that a producer forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forged {
    /// Nearly all attempts are used up.
    Attempts,
    /// Processes crashed while they sent it.
    Crashes,
    /// A server refused the first recipient.
    Refused,
    /// The first recipient alone lacks it.
    Remaining,
    /// Another mail's id and Message-ID.
    Identity,
}

/// How producers are in a world. The chances are per thousand.
#[derive(Clone, Copy, Debug)]
pub struct Customs {
    /// How many recipients a mail has, at most.
    pub recipients: usize,
    /// Mails by plain LPUSH.
    pub raw: u32,
    /// Mails whose JSON lies elsewhere.
    pub stored: u32,
    /// Raw mails with a header.
    pub forged: u32,
    /// Entries that are no mail.
    pub garbage: u32,
    /// Mails with a key, or with neither id nor key.
    pub keyed: u32,
    pub nameless: u32,
    /// Mails that are sent again.
    pub repeated: u32,
}

impl Customs {
    /// One recipient, an id, and the script.
    pub const PLAIN: Self =
        Self { recipients: 1, raw: 0, stored: 0, forged: 0, garbage: 0, keyed: 0, nameless: 0, repeated: 0 };
    /// All of it.
    pub const VARIED: Self = Self {
        recipients: 3,
        raw: 500,
        stored: 60,
        forged: 150,
        garbage: 30,
        keyed: 400,
        nameless: 150,
        repeated: 200,
    };
}

/// One mail that is sent off.
#[derive(Clone, Debug)]
pub struct Post {
    pub at: Time,
    /// Of the mail; a repetition has that of the first.
    pub number: usize,
    /// Bytes of text, about.
    pub size: usize,
    pub recipients: usize,
    pub way: Way,
    pub forged: Option<Forged>,
    pub has_id: bool,
    pub has_key: bool,
}

impl Post {
    /// What is sent off when, in order; the first of each mail at the times of `arrivals`, all before `end`.
    pub fn all(seed: u64, customs: Customs, arrivals: &[Time], size: (usize, usize), end: Time) -> Vec<Self> {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut posts = Vec::new();
        for (number, at) in arrivals.iter().enumerate() {
            let mut happens = |per_mille: u32| chance.random_range(0..1_000) < per_mille;
            let (keyed, nameless, garbage) =
                (happens(customs.keyed), happens(customs.nameless), happens(customs.garbage));
            let (has_id, has_key) = (!keyed && !nameless || happens(200), keyed);
            let repeated = (has_id || has_key) && happens(customs.repeated);
            let size = chance.random_range(size.0..=size.1);
            let recipients = if garbage { 0 } else { chance.random_range(1..=customs.recipients) };
            let first = Self { at: *at, number, size, recipients, way: Way::Garbage, forged: None, has_id, has_key };
            for turn in 0..if repeated { chance.random_range(2..4) } else { 1 } {
                let at = *at + Duration::from_millis(chance.random_range(50..6_000)) * turn;
                if turn > 0 && at >= end {
                    break;
                }
                let (way, forged) = if garbage { (Way::Garbage, None) } else { customs.way(&mut chance, has_id) };
                posts.push(Self { at, way, forged, ..first.clone() });
            }
        }
        posts.sort_by_key(|post| post.at);
        posts
    }

    /// The address of a recipient of a mail.
    pub fn recipient(number: usize, of: usize) -> String {
        format!("r{number}-{of}@{DOMAIN}")
    }

    /// The number of the mail that a recipient belongs to.
    pub fn number_of(recipient: &str) -> Option<usize> {
        recipient.strip_prefix('r')?.split_once('-')?.0.parse().ok()
    }

    /// All its recipients.
    pub fn addresses(&self) -> Vec<String> {
        (0..self.recipients).map(|of| Self::recipient(self.number, of)).collect()
    }

    /// What a mail is called, when it is named.
    pub fn id(&self) -> String {
        format!("mail-{}", self.number)
    }

    /// The producer's JSON; the same each time.
    pub fn json(&self) -> Value {
        let mut mail = json!({
            "from": "app@example.com", "to": self.addresses(), "subject": "Hello",
            "text": "Hello, world\n".repeat(self.size.div_ceil(13)),
        });
        if self.has_id {
            mail["id"] = self.id().into();
        }
        if self.has_key {
            mail["idempotencyKey"] = format!("key-{}", self.number).into();
        }
        mail
    }

    /// What a plain LPUSH has of it.
    pub fn entry(&self) -> String {
        let payload = match self.way {
            Way::Script | Way::Push(_) => self.json().to_string(),
            Way::Stored => self.id(),
            Way::Garbage => "{".to_owned(),
        };
        let Some(forged) = self.forged else { return payload };
        let (refused, id) = (json!([{ "recipient": Self::recipient(self.number, 0), "reply": "550 no" }]), self.id());
        let mut header = json!({
            "id": id, "serial": format!("{:032x}", self.number), "messageId": format!("<{id}@example.com>"),
            "firstSeen": 1, "since": 1,
        });
        match forged {
            Forged::Attempts => header["attempts"] = 19.into(),
            Forged::Crashes => header["crashes"] = 2.into(),
            Forged::Refused => header["refused"] = refused,
            Forged::Remaining => header["remaining"] = json!([Self::recipient(self.number, 0)]),
            Forged::Identity => {
                let another = format!("mail-{}", self.number / 2);
                header["messageId"] = format!("<{another}@example.com>").into();
                header["id"] = another.into();
            }
        }
        format!("mailrelay/1 n {header}\n{payload}")
    }
}

impl Customs {
    fn way(self, chance: &mut SmallRng, has_id: bool) -> (Way, Option<Forged>) {
        const LISTS: [&str; 3] = ["mail_queue", "{mail_queue}:high", "{mail_queue}:low"];
        const FORGERIES: [Forged; 5] =
            [Forged::Attempts, Forged::Crashes, Forged::Refused, Forged::Remaining, Forged::Identity];
        let mut happens = |per_mille: u32| chance.random_range(0..1_000) < per_mille;
        let way = match (happens(self.stored) && has_id, happens(self.raw)) {
            (true, _) => Way::Stored,
            (false, true) => Way::Push(LISTS[chance.random_range(0..LISTS.len())]),
            (false, false) => return (Way::Script, None),
        };
        let forges = chance.random_range(0..1_000) < self.forged;
        (way, forges.then(|| FORGERIES[chance.random_range(0..FORGERIES.len())]))
    }
}
