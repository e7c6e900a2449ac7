//! What servers mean by the text of a reply; the codes alone do not tell.

use std::time::Duration;

use super::reply::{EnhancedCode, Reply};

/// A reply's text in lower case, and what can be read out of it.
pub(super) struct Words(String);

impl Words {
    pub fn of(text: &str) -> Self {
        Self(text.to_ascii_lowercase())
    }

    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.0.contains(word))
    }

    pub fn too_many_connections(&self) -> bool {
        let counted = self.0.split("too many").skip(1).any(|rest| {
            // "too many concurrent SMTP connections", but not "too many messages in this session".
            let noun = rest.split_whitespace().take(4).find(|word| {
                ["connection", "session", "message", "mail", "recipient", "error", "command", "login", "auth"]
                    .iter()
                    .any(|noun| word.starts_with(noun))
            });
            noun.is_some_and(|noun| noun.starts_with("connection") || noun.starts_with("session"))
        });
        counted
            || self.has(&["connection limit", "concurrent connections limit", "number of connections", "thread limit"])
    }

    pub fn too_many_messages(&self) -> bool {
        let many = self.has(&["too many message", "too many mail", "too many email", "message limit", "messages per"]);
        many && self.has(&["session", "connection"])
    }

    pub fn too_many_recipients(&self, reply: &Reply) -> bool {
        self.has(&["too many recipient"]) || matches!(reply.enhanced, Some(EnhancedCode(_, 5, 3)))
    }

    pub fn idle_timeout(&self) -> bool {
        self.has(&["timeout", "timed out", "idle"])
    }

    /// The sender's quota at this server; a mailbox over quota (x.2.2) is another matter.
    pub fn daily_quota(&self, reply: &Reply) -> bool {
        let daily = self.has(&["daily"]) && self.has(&["quota", "limit"]);
        (daily || self.has(&["sending quota", "sending limit"]))
            && !matches!(reply.enhanced, Some(EnhancedCode(_, 2, 2)))
    }

    fn pace(&self) -> bool {
        self.has(&[
            "throttl",
            "rate limit",
            "ratelimit",
            "sending rate",
            "too fast",
            "too much mail",
            "slow down",
            "rate exceeded",
        ])
    }

    pub fn throttled(&self, reply: &Reply) -> bool {
        let code = matches!(reply.enhanced, Some(EnhancedCode(4, 4, 5) | EnhancedCode(4, 7, _)));
        self.pace() || (matches!(reply.code, 450..=452) && code)
    }

    pub fn greylisted(&self, reply: &Reply) -> bool {
        let code = matches!(reply.code, 450 | 451) && matches!(reply.enhanced, Some(EnhancedCode(4, 7, 1)));
        self.has(&["greylist", "graylist", "grey-list", "gray-list"]) || (code && !self.pace())
    }

    pub fn blocked(&self) -> bool {
        self.has(&["blocked using", "blacklist", "blocklist", "block list", "black list"])
    }

    /// "in 5 minutes", "300 seconds", "00:04:59": how long the server wants us to wait, a day at most.
    pub fn delay(&self) -> Option<Duration> {
        let mut number: Option<u64> = None;
        for word in self.0.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '=')) {
            let word = word.trim_end_matches('.');
            if let Some(seconds) = clock(word) {
                return Some(Duration::from_secs(seconds.min(86_400)));
            }
            let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (head, unit) = word.split_at(digits);
            if digits > 0 {
                number = head.parse().ok();
            }
            if unit.is_empty() {
                continue;
            }
            let factor = match unit.trim_end_matches('s') {
                "second" | "sec" => Some(1),
                "" if digits > 0 => Some(1),
                "minute" | "min" => Some(60),
                "hour" | "hr" => Some(3600),
                _ => None,
            };
            if let (Some(number), Some(factor)) = (number, factor) {
                return Some(Duration::from_secs(number.saturating_mul(factor).min(86_400)));
            }
            number = None;
        }
        None
    }
}

/// `hh:mm:ss` in seconds.
fn clock(word: &str) -> Option<u64> {
    let mut parts = word.split(':').map(|part| part.parse::<u64>().ok().filter(|_| part.len() == 2));
    let (Some(Some(h)), Some(Some(m)), Some(Some(s)), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(h * 3600 + m * 60 + s)
}
