//! Records of mails that are nowhere any more, since somebody deleted a list.

use redis::cmd;

use super::{
    At, Queue, SCRIPT_LIMIT,
    inspect::TRIES,
    records::{Records, short},
    scripts,
};
use crate::{store::StoreError, telemetry::log::mask_id};

impl Queue {
    /// Ends the records that forbid the mail of this serial while their own mail is nowhere any more: it was removed by
    /// hand. A mail that is in any list, hand or place is found. A login that may not see what others have in hand is refused,
    /// as producers are.
    pub(super) async fn end_lost(&self, records: &Records, id: &str, serial: &str, at: At) -> Result<(), StoreError> {
        let (now, serial) = (at.word(), short(serial));
        for _ in 0..TRIES {
            // The keys of a script must be known beforehand; when a process came or went in between, look again.
            let mut ask = cmd("HKEYS");
            ask.arg(&self.names.processes);
            let processes: Vec<String> = self.store.query_if_permitted(&ask, SCRIPT_LIMIT).await?;
            let mut keys = records.buckets.clone();
            keys.extend(processes.iter().map(|process| self.names.claims(process)));
            let mut arguments = vec![now.as_bytes(), id.as_bytes(), serial.as_bytes(), &*records.fields];
            arguments.extend(processes.iter().map(String::as_bytes));
            let lost: Option<Vec<String>> = self.run(&scripts::LOST, &keys, &arguments).await?;
            let Some(lost) = lost else { continue };
            for id in lost {
                tracing::warn!(
                    mail.id = &*mask_id(&id),
                    "a mail that was accepted is nowhere any more; its id is free again"
                );
            }
            break;
        }
        Ok(())
    }
}
