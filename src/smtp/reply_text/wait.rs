//! How long a server wants us to wait, read from the text of its reply.

use std::time::Duration;

/// The longest wait that is believed, in seconds.
const LONGEST: u64 = 86_400;
/// How far from a number after "in" a word may stand that says to come back.
const REACH: usize = 6;
/// Words that say to come back.
const CUES: [&str; 7] = ["again", "back", "retry", "later", "wait", "resend", "retrying"];
/// Words that announce a wait besides; without a number they say nothing.
const HINTS: [&str; 7] = ["greylist", "graylist", "greylisted", "graylisted", "greylisting", "graylisting", "delay"];
/// Before a number: a window, not a wait.
const WINDOWS: [&str; 10] = ["per", "every", "each", "last", "past", "within", "of", "than", "at", "since"];
/// After a unit: the same.
const LIMITS: [&str; 6] = ["limit", "limits", "window", "period", "quota", "interval"];
/// Before a time in the form of a clock: it is a wait.
const BEFORE_CLOCK: [&str; 5] = ["in", "after", "wait", "for", "retry"];
/// After one: it is a time of day.
const ZONES: [&str; 7] = ["utc", "gmt", "am", "pm", "cet", "est", "pst"];

/// Reads it from a text in lower case.
pub(super) fn read(text: &str) -> Option<Duration> {
    let separates = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '=' | '!' | '~');
    let words: Vec<&str> =
        text.split(separates).map(|word| word.trim_end_matches(['.', ':'])).filter(|word| !word.is_empty()).collect();
    let has = |list: &[&str], word: &str| list.contains(&word);
    let is_cue = |word: &&str| has(&CUES, word);
    let hinted = words.iter().any(|word| is_cue(word) || has(&HINTS, word));
    if !hinted {
        return None;
    }
    let seconds = (0..words.len()).find_map(|at| {
        let before = at.checked_sub(1).map_or("", |before| words[before]);
        let next = |places: usize| words.get(at + places).copied().unwrap_or_default();
        if let Some(seconds) = clock(words[at]) {
            return (has(&BEFORE_CLOCK, before) && !has(&ZONES, next(1))).then_some(seconds);
        }
        let (number, unit, after) = quantity(words[at], next(1), next(2))?;
        if has(&WINDOWS, before) || has(&LIMITS, after) {
            return None;
        }
        let near = &words[at.saturating_sub(REACH)..(at + REACH).min(words.len())];
        (before != "in" || near.iter().any(is_cue)).then(|| number.saturating_mul(unit))
    });
    seconds.map(|seconds| Duration::from_secs(seconds.min(LONGEST)))
}

/// "5 minutes", "5min": the number, the unit in seconds, and the word after both.
fn quantity<'a>(word: &str, next: &'a str, second: &'a str) -> Option<(u64, u64, &'a str)> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = word.split_at(digits);
    let number = number.parse().ok()?;
    let (unit, after) = if rest.is_empty() { (next, second) } else { (rest, next) };
    let factor = match unit.trim_start_matches('-') {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        _ => return None,
    };
    Some((number, factor, after))
}

/// `hh:mm:ss` in seconds.
fn clock(word: &str) -> Option<u64> {
    let mut parts = word.split(':').map(|part| part.parse::<u64>().ok().filter(|_| part.len() == 2));
    let (Some(Some(h)), Some(Some(m)), Some(Some(s)), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(h * 3_600 + m * 60 + s)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_wait_is_read_only_where_there_is_one() {
        for (text, seconds) in [
            ("try again in 5 minutes", Some(300)),
            ("please come back in 00:04:59", Some(299)),
            ("retry after 00:05:00", Some(300)),
            ("in 300 seconds, please try again", Some(300)),
            ("(retry after 90 sec)", Some(90)),
            ("wait=30s", Some(30)),
            ("greylisted for 300 seconds.", Some(300)),
            ("greylisted, 300 seconds", Some(300)),
            ("try again in 100 hours", Some(86_400)),
            // Times of day, dates, windows, counts.
            ("busy, logged at 23:59:58 utc, try again later", None),
            ("maintenance until 04:30:00, retry later", None),
            ("try again later, 2026-11-29 08:25:00", None),
            ("limit of 100 mails per 24 hours reached, try again later", None),
            ("more than 30 messages in the last 60 minutes, try later", None),
            ("30 messages in 60 seconds", None),
            ("in 5 minutes", None),
            ("your 24 hour limit is reached, try again later", None),
            ("2 recipients refused, try again", None),
            ("4.7.1 later", None),
            ("from 192.0.2.1 at 3 points, retry", None),
            ("", None),
        ] {
            assert_eq!(read(text).map(|delay| delay.as_secs()), seconds, "{text}");
        }
    }
}
