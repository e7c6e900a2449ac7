//! What servers mean by the text of a reply; the codes alone do not tell. The phrases are data: a topic for each, found
//! where they stand as whole words.

mod phrases;
mod topic;
mod wait;

use std::time::Duration;

use super::reply::{EnhancedCode, Reply};
use topic::Topic::{Client, Helo, List, Login, Ourselves, Relay, Sender};

pub(super) use topic::Topic;

/// A reply's text in lower case, and what can be read out of it.
pub(super) struct ReplyText(String);

impl ReplyText {
    pub fn of(text: &str) -> Self {
        Self(text.to_ascii_lowercase())
    }

    /// Whether one of the topic's phrases is in the text.
    pub fn speaks_of(&self, topic: Topic) -> bool {
        let found = |phrase: &str| phrase.split('&').all(|part| holds(&self.0, part.trim()));
        phrases::of(topic).any(found) || (topic == Topic::Connections && self.counts_connections())
    }

    /// "too many concurrent SMTP connections", but not "too many messages in this session".
    fn counts_connections(&self) -> bool {
        const NOUNS: [&str; 12] = [
            "connection",
            "session",
            "message",
            "mail",
            "email",
            "e-mail",
            "recipient",
            "error",
            "command",
            "login",
            "auth",
            "transaction",
        ];
        self.0.split("too many").skip(1).any(|rest| {
            let noun = rest.split_whitespace().take(4).find(|word| NOUNS.iter().any(|noun| word.starts_with(noun)));
            noun.is_some_and(|noun| noun.starts_with("connection") || noun.starts_with("session"))
        })
    }

    /// Whether the text names our side: in words, or by an address in brackets.
    pub fn names_us(&self) -> bool {
        let address = |text: &str| text.parse::<core::net::IpAddr>().is_ok();
        let token = |c: char| c.is_whitespace() || "[]()<>,;\"'".contains(c);
        self.speaks_of(Ourselves) || self.0.split(token).any(|word| address(word.trim_end_matches(['.', ':'])))
    }

    /// Rspamd's own words for greylisting at the end of a message.
    pub fn is_rspamds(&self) -> bool {
        self.0.trim_end_matches('.') == "4.7.1 try again later"
    }

    /// For how long the limit that is spoken of holds at most; a quarter of an hour when it is not said.
    pub fn window(&self) -> Duration {
        let named = |phrases: &[&str]| phrases.iter().any(|phrase| holds(&self.0, phrase));
        Duration::from_secs(match () {
            () if named(&["per second", "a second"]) => 1,
            () if named(&["per minute", "a minute"]) => 60,
            () if named(&["per hour", "an hour", "hourly", "hour"]) => 3_600,
            () if named(&["daily", "per day", "a day", "24 hours", "24 hour", "24-hour", "today"]) => 86_400,
            () if named(&["monthly", "per month", "a month"]) => 86_400,
            () => 900,
        })
    }

    /// "try again in 5 minutes", "300 seconds", "retry after 00:04:59": how long the server wants us to wait, a day at
    /// most. Times of day, dates and windows ("100 per 24 hours") are no waits.
    pub fn delay(&self) -> Option<Duration> {
        wait::read(&self.0)
    }
}

/// Whether a phrase stands in a text as whole words, or at least begins as one when it ends with a star.
fn holds(text: &str, phrase: &str) -> bool {
    let (phrase, open) = phrase.strip_suffix('*').map_or((phrase, false), |stem| (stem, true));
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.match_indices(phrase).any(|(at, found)| {
        let bytes = text.as_bytes();
        let (before, after) = (bytes[..at].last(), bytes.get(at + found.len()));
        !is_word(before) && (open || !is_word(after))
    })
}

/// The topics of a refusal that judges us, in the order in which they are looked for: what names its culprit exactly comes
/// before what may stand beside it ("your hostname" is no list that names "your host").
pub(super) fn accusation(text: &ReplyText, reply: &Reply) -> Option<Topic> {
    match reply.enhanced {
        Some(EnhancedCode(_, 7, 20..=24 | 26 | 27 | 60 | 509 | 515) | EnhancedCode(_, 1, 7 | 8)) => {
            return Some(Sender);
        }
        Some(EnhancedCode(_, 7, 25)) => return Some(Client),
        Some(EnhancedCode(_, 7, 54 | 64)) => return Some(Relay),
        Some(EnhancedCode(_, 7, 57)) => return Some(Login),
        Some(EnhancedCode(_, 7, 606..=649 | 705 | 708 | 750)) => return Some(List),
        _ => {}
    }
    if matches!(reply.code, 530 | 534 | 535 | 538) {
        return Some(Login);
    }
    [Helo, Login, Relay, Client, Sender].into_iter().find(|topic| text.speaks_of(*topic))
}
