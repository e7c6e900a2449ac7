//! The names of a queue's keys. All but the dead-letter list lie in one Redis Cluster slot.

use crate::{mail::Priority, store::Names};

/// The keys of one queue. See the table in [`crate::queue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueNames {
    queue: String,
    dead_letter: String,
    payload_prefix: String,
    base: String,
    pub(super) high: String,
    pub(super) low: String,
    pub(super) arrived: String,
    pub(super) processes: String,
    pub(super) delayed: String,
    pub(super) delayed_mails: String,
    pub(super) put_off: String,
    pub(super) held: String,
    pub(super) counters: String,
    pub(super) events: String,
    pub(super) samples: String,
    pub(super) corrections: String,
}

impl QueueNames {
    /// Names for a queue and its dead-letter list, with the default payload prefix `mail:`.
    pub fn new(queue: &str, dead_letter: &str) -> Self {
        // A name that carries a hash tag already keeps it; any other becomes the tag, which hashes like the plain name.
        let base = if hash_tag(queue) == queue { format!("{{{queue}}}") } else { queue.to_owned() };
        let key = |suffix: &str| format!("{base}:{suffix}");
        Self {
            high: key("high"),
            low: key("low"),
            arrived: key("arrived"),
            processes: key("processes"),
            delayed: key("delayed"),
            delayed_mails: key("delayed:mails"),
            put_off: key("delayed:since"),
            held: key("held"),
            counters: key("counters"),
            events: key("events"),
            samples: key("samples"),
            corrections: key("corrections"),
            queue: queue.to_owned(),
            dead_letter: dead_letter.to_owned(),
            payload_prefix: "mail:".to_owned(),
            base,
        }
    }

    /// The same names with another place for the payloads of mails that wait as a bare id.
    pub fn with_payload_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.payload_prefix);
        self
    }

    /// The names that a relay's spec asks for.
    pub fn from_spec(spec: &crate::api::Queue) -> Self {
        Self::new(&spec.name, &spec.dead_letter_name).with_payload_prefix(&spec.payload_prefix)
    }

    /// The list that producers push to (normal priority).
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The list of dead letters.
    pub fn dead_letter(&self) -> &str {
        &self.dead_letter
    }

    /// The capped stream of outcomes.
    pub fn events(&self) -> &str {
        &self.events
    }

    /// The list that blocked workers move mail into.
    pub fn arrived(&self) -> &str {
        &self.arrived
    }

    /// The list of one priority.
    pub fn list(&self, priority: Priority) -> &str {
        match priority {
            Priority::High => &self.high,
            Priority::Normal => &self.queue,
            Priority::Low => &self.low,
        }
    }

    /// Whether the dead-letter list lies in the queue's Cluster slot by its tag. In Cluster mode the queue can't be
    /// drained otherwise: a mail could not move there in one script. A single node does not care.
    pub fn fits_cluster(&self) -> bool {
        hash_tag(&self.dead_letter) == hash_tag(&self.queue)
    }

    /// All internal keys that begin so behind the tag.
    pub(super) fn under(&self, begin: &str) -> Names {
        Names::Under(format!("{}:{begin}", self.base))
    }

    pub(super) fn payload(&self, id: &str) -> String {
        format!("{}{id}", self.payload_prefix)
    }

    pub(super) fn claims(&self, process: &str) -> String {
        format!("{}:claims:{process}", self.base)
    }

    pub(super) fn stages(&self, process: &str) -> String {
        format!("{}:stages:{process}", self.base)
    }

    /// What is known of a batch.
    pub(super) fn batch(&self, name: &str) -> String {
        format!("{}:batch:{name}", self.base)
    }

    /// Where the parts of a long dead letter come together.
    pub(super) fn letter(&self, number: &str) -> String {
        format!("{}:letters:{number}", self.base)
    }

    /// One of the hashes that share the records.
    pub(super) fn records(&self, bucket: u16) -> String {
        format!("{}:records:{bucket}", self.base)
    }
}

/// What Redis Cluster hashes of a key: the text inside the first `{...}` that is not empty, or the whole key.
fn hash_tag(key: &str) -> &str {
    key.split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_of_a_spec_has_the_name_of_a_key_of_a_queue() {
        let names = QueueNames::new("q", "dead");
        let lists = [Priority::High, Priority::Low].map(|priority| names.list(priority).to_owned());
        let one_each = [names.claims("p"), names.stages("p"), names.batch("b"), names.letter("1"), names.records(7)];
        let rest = [
            &names.arrived,
            &names.processes,
            &names.delayed,
            &names.delayed_mails,
            &names.held,
            &names.counters,
            &names.events,
            &names.samples,
            &names.corrections,
        ];
        for key in lists.iter().chain(&one_each).chain(rest) {
            assert!(key.parse::<crate::api::QueueName>().is_err(), "{key}");
        }
    }

    #[test]
    fn internal_keys_hash_like_the_plain_list() {
        let names = QueueNames::new("mail_queue", "mail_dead_letter_queue");
        assert_eq!(names.list(Priority::High), "{mail_queue}:high");
        assert_eq!(names.list(Priority::Normal), "mail_queue");
        for key in [&names.arrived, &names.held, &names.claims("p"), &names.records(7)] {
            assert_eq!(hash_tag(key), "mail_queue", "{key}");
        }
    }

    #[test]
    fn a_queue_named_with_a_tag_keeps_it() {
        let names = QueueNames::new("{tenant}:mail", "{tenant}:dead");
        assert_eq!(hash_tag(&names.arrived), "tenant");
        assert_eq!(names.arrived, "{tenant}:mail:arrived");
        assert!(names.fits_cluster());
    }

    #[test]
    fn a_dead_letter_list_without_the_tag_does_not_fit_a_cluster() {
        assert!(!QueueNames::new("mail_queue", "mail_dead_letter_queue").fits_cluster());
        assert!(QueueNames::new("mail_queue", "{mail_queue}:dead").fits_cluster());
    }
}
