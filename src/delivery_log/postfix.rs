//! Postfix. Its lines name a queue id; `cleanup` tells which Message-ID that is, and `qmgr` that it is in the queue, which
//! is the moment from which the server answers for it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::finding::{Finding, bare, is_permanent};

/// One line: which program says what of which queue id.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    program: &'a str,
    queue_id: &'a str,
    text: &'a str,
}

impl<'a> Entry<'a> {
    /// `<time> <host> postfix/smtpd[123]: 4XyZ: text`, `postfix-out/submission/smtpd[123]: ...`; other lines of Postfix have
    /// no queue id.
    pub(super) fn of(line: &'a str) -> Option<Self> {
        let (before, rest) = line.split_once("]: ")?;
        let (name, process) = before.rsplit(' ').next()?.split_once('[')?;
        if !name.starts_with("postfix") {
            return None;
        }
        let program = name.rsplit_once('/')?.1;
        if program.is_empty() || !process.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (queue_id, text) = rest.split_once(": ").unwrap_or(("", rest));
        let is_id =
            !queue_id.is_empty() && queue_id != "NOQUEUE" && queue_id.bytes().all(|b| b.is_ascii_alphanumeric());
        Some(Self { program, queue_id: if is_id { queue_id } else { "" }, text })
    }
}

/// Which queue id has which message now. Queue ids are used again.
#[derive(Debug, Default)]
pub(super) struct Postfix {
    messages: BTreeMap<String, String>,
}

impl Postfix {
    pub(super) fn read(
        &mut self,
        entry: &Entry<'_>,
        wanted: &BTreeMap<String, Timestamp>,
    ) -> Option<(String, Finding)> {
        let Entry { program, queue_id, text } = *entry;
        if queue_id.is_empty() {
            return None;
        }
        if program == "cleanup"
            && let Some(id) = text.strip_prefix("message-id=").map(bare)
        {
            if !wanted.contains_key(id) {
                self.messages.remove(queue_id);
                return None;
            }
            self.messages.insert(queue_id.to_owned(), id.to_owned());
            return Some((id.to_owned(), Finding::Seen));
        }
        // Another message has got this queue id.
        if program == "smtpd" && text.starts_with("client=") || text == "removed" {
            self.messages.remove(queue_id);
            return None;
        }
        let id = self.messages.get(queue_id)?;
        Some((id.clone(), finding(program, text)?))
    }
}

fn finding(program: &str, text: &str) -> Option<Finding> {
    let action = text.split_once(':').map_or(text, |(action, _)| action);
    match (program, action) {
        ("qmgr" | "nqmgr", _) if text.starts_with("from=<") => Some(Finding::Taken),
        // What is on hold, or quietly thrown away, is told to the client as taken, but not if the client went before.
        ("cleanup", "milter-hold" | "hold" | "milter-discard" | "discard") => Some(Finding::Unclear(text.to_owned())),
        ("cleanup" | "smtpd", "milter-reject" | "reject") => {
            // `milter-reject: END-OF-MESSAGE from host[1.2.3.4]: 5.7.1 words; from=<..> to=<..> proto=ESMTP`, or
            // `reject: header Subject: x from host[1.2.3.4]; from=<..> to=<..> proto=ESMTP helo=<..>: 5.7.1 words`
            let is_reply = |words: &&str| words.starts_with(['4', '5']);
            let words = text.split("]: ").nth(1).filter(is_reply);
            let words = words.or_else(|| text.rsplit(">: ").next().filter(is_reply))?;
            let words = words.split("; from=<").next()?;
            Some(if is_permanent(words) { Finding::Refused(words.to_owned()) } else { Finding::Seen })
        }
        _ if text.contains(" status=") => Some(Finding::Taken),
        _ => None,
    }
}
