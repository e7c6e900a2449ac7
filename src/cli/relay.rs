//! Which queue a command is about: named by a relay, by itself, or by default.

use serde::Serialize;

use super::error::CliError;
use crate::{
    api::{self, NameError, RelayRecord, record_key},
    queue::{Queue, QueueNames},
    store::{Store, StoreError, StoreOptions},
};

/// How long Redis may take to answer one question of the command line.
pub const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Which queue.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RelayArguments {
    /// Take the queue's names and limits from this relay, as the controller published them: NAMESPACE/NAME
    #[arg(long, global = true, value_name = "NAMESPACE/NAME", conflicts_with_all = ["queue", "dead_letter", "payload_prefix"])]
    relay: Option<String>,
    /// The list that mail waits in [default: `mail_queue`]
    #[arg(long, global = true, value_name = "LIST")]
    queue: Option<String>,
    /// The list that dead letters are parked in [default: `mail_dead_letter_queue`]
    #[arg(long, global = true, value_name = "LIST")]
    dead_letter: Option<String>,
    /// Where the JSON of a mail lies when the list holds only its id [default: `mail:`]
    #[arg(long, global = true, value_name = "PREFIX")]
    payload_prefix: Option<String>,
}

/// The queue a command is about.
pub struct Target {
    /// The connection.
    pub store: Store,
    /// The queue.
    pub queue: Queue,
    /// Names and limits.
    pub spec: api::Queue,
    /// The relay's record, when one was named.
    pub record: Option<RelayRecord>,
}

/// The names, for JSON results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// The list that mail waits in.
    pub queue: String,
    /// The list of dead letters.
    pub dead_letter: String,
}

impl RelayArguments {
    /// Namespace and name of the relay, when one was named.
    pub fn names(&self) -> Option<(&str, &str)> {
        self.relay.as_deref().and_then(|relay| relay.split_once('/'))
    }

    /// Finds out which queue is meant; asks Redis only when a relay was named.
    pub async fn target(&self, options: &StoreOptions) -> Result<Target, CliError> {
        let store = Store::new(options)?;
        let record = match &self.relay {
            Some(relay) => Some(record(&store, relay).await?),
            None => None,
        };
        let spec = match &record {
            Some(record) => record.spec.queue.clone(),
            None => self.named()?,
        };
        let queue = Queue::new(store.clone(), QueueNames::from_spec(&spec));
        Ok(Target { store, queue, spec, record })
    }

    fn named(&self) -> Result<api::Queue, CliError> {
        named(self.queue.as_deref(), self.dead_letter.as_deref(), self.payload_prefix.as_deref())
    }
}

/// A queue by its names; what is not given is as in a spec that does not say it.
pub fn named(
    queue: Option<&str>,
    dead_letter: Option<&str>,
    payload_prefix: Option<&str>,
) -> Result<api::Queue, CliError> {
    let wrong = |error: NameError| CliError::Usage(error.to_string());
    let mut spec = api::Queue::default();
    if let Some(name) = queue {
        spec.name = name.parse().map_err(wrong)?;
    }
    if let Some(name) = dead_letter {
        spec.dead_letter_name = name.parse().map_err(wrong)?;
    }
    if let Some(prefix) = payload_prefix {
        spec.payload_prefix = prefix.parse().map_err(wrong)?;
    }
    Ok(spec)
}

impl Target {
    /// The names, for JSON results.
    pub fn named(&self) -> Named {
        Named { queue: self.spec.name.to_string(), dead_letter: self.spec.dead_letter_name.to_string() }
    }
}

/// Reads the record that the controller published for a relay.
pub async fn record(store: &Store, relay: &str) -> Result<RelayRecord, CliError> {
    let Some((namespace, name)) =
        relay.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    else {
        return Err(CliError::Usage(format!("--relay {relay}: write NAMESPACE/NAME")));
    };
    let text: Option<Vec<u8>> = store.query(redis::cmd("GET").arg(record_key(namespace, name)), ANSWER_LIMIT).await?;
    let Some(text) = text else {
        return Err(CliError::Failed(format!(
            "no record of relay {relay} in Redis at {}: check the name with `kubectl get mailrelay -n {namespace}` and that the controller runs",
            store.address()
        )));
    };
    RelayRecord::read(&text).map_err(|error| {
        CliError::from(StoreError::Garbled {
            address: store.address().to_owned(),
            detail: format!("the record of relay {relay} cannot be read: {error}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_not_given_are_the_defaults() {
        let named = |queue: &str| RelayArguments { queue: Some(queue.into()), ..RelayArguments::default() }.named();
        let spec = named("other").expect("a name");
        assert_eq!((&*spec.name, &*spec.dead_letter_name), ("other", "mail_dead_letter_queue"));
        assert!(matches!(named("mailrelay:{mx}:ledger"), Err(CliError::Usage(_))), "no key of ours is a queue");
    }
}
