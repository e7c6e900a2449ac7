//! The scripts: one for each move, each atomic, all keys in `KEYS`, one Cluster slot.

use std::sync::LazyLock;

use redis::{FromRedisValue, Script};

use super::{
    Queue, RETENTION,
    bodies::{LONG, limit},
};
use crate::store::StoreError;

/// A script that still runs at maxmemory, since it drains.
macro_rules! draining {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                "#!lua flags=allow-oom\n",
                include_str!("lua/prelude.lua"),
                include_str!(concat!("lua/", $file))
            ))
        })
    };
}

/// A script that changes nothing.
macro_rules! looking {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                "#!lua flags=no-writes\n",
                include_str!("lua/prelude.lua"),
                include_str!(concat!("lua/", $file))
            ))
        })
    };
}

pub(super) static ENQUEUE: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!("#!lua\n", include_str!("lua/prelude.lua"), include_str!("lua/enqueue.lua"))));
pub(super) static TAKE: LazyLock<Script> = draining!("take.lua");
pub(super) static ADMIT: LazyLock<Script> = draining!("admit.lua");
pub(super) static ADVANCE: LazyLock<Script> = draining!("advance.lua");
pub(super) static SETTLE: LazyLock<Script> = draining!("settle.lua");
pub(super) static RECOVER: LazyLock<Script> = draining!("recover.lua");
pub(super) static PROMOTE: LazyLock<Script> = draining!("promote.lua");
pub(super) static RELEASE: LazyLock<Script> = draining!("release.lua");
pub(super) static DEAD: LazyLock<Script> = draining!("dead.lua");
pub(super) static LOST: LazyLock<Script> = draining!("lost.lua");
pub(super) static LETTERS: LazyLock<Script> = looking!("letters.lua");
pub(super) static HEADS: LazyLock<Script> = looking!("heads.lua");
pub(super) static PART: LazyLock<Script> = looking!("part.lua");
pub(super) static DEPTHS: LazyLock<Script> = draining!("depths.lua");

impl Queue {
    /// Runs a script with the keys every script knows and `keys` after them. Long arguments have longer, and go by a
    /// connection of their own.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        self.run_long(script, keys, arguments, 0).await
    }

    /// The same for an answer of up to so many bytes.
    pub(super) async fn run_long<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
        answer: usize,
    ) -> Result<T, StoreError> {
        let names = &self.names;
        let mut all = vec![
            names.counters.as_str(),
            names.events(),
            names.queue(),
            &names.high,
            &names.low,
            names.arrived(),
            &names.delayed,
            &names.delayed_mails,
            &names.held,
            &names.processes,
            names.dead_letter(),
        ];
        all.extend(keys.iter().map(String::as_str));
        let bytes = answer + arguments.iter().map(|argument| argument.len()).sum::<usize>();
        let store = if bytes > LONG { self.store.for_bodies() } else { self.store.clone() };
        store.invoke(script, &all, arguments, limit(bytes)).await
    }

    /// The records of a mail: its own, and that of its idempotency key.
    pub(super) fn records(&self, id: &str, key: Option<&str>) -> Vec<String> {
        let mut records = Vec::new();
        if !id.is_empty() {
            records.push(self.names.mail(id));
            records.extend(key.map(|key| self.names.key(key)));
        }
        records
    }
}

/// How long a final record is kept, as the scripts take it: milliseconds.
pub(super) fn retention() -> String {
    RETENTION.as_millis().to_string()
}
