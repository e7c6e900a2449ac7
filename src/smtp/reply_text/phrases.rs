//! The phrases that servers use, by what they speak of.

mod limits;
mod mails;
mod senders;

use super::topic::Topic;
use limits::LIMITS;
use mails::MAILS;
use senders::SENDERS;

/// All that speak of a topic.
pub(super) fn of(topic: Topic) -> impl Iterator<Item = &'static str> {
    let all = [LIMITS, SENDERS, MAILS].into_iter().flatten();
    all.filter(move |(of, _)| *of == topic).flat_map(|(_, phrases)| phrases.iter().copied())
}
