//! The scripts: one for each move, each atomic, all keys in `KEYS`, one Cluster slot.

use std::{str::FromStr, sync::LazyLock, time::Duration};

use redis::{FromRedisValue, Script};

use super::{
    Queue,
    long::{LONG, limit, on_disk},
};
use crate::store::StoreError;

/// A script with what all share in front of it. Its flags, if any: `allow-oom` still runs at maxmemory, since it drains;
/// `no-writes` changes nothing.
macro_rules! script {
    ($file:literal $(, $flags:literal)?) => {
        LazyLock::new(|| {
            Script::new(concat!(
                "#!lua", $(" flags=", $flags,)? "\n",
                include_str!("lua/prelude.lua"),
                include_str!(concat!("lua/", $file))
            ))
        })
    };
}

pub(super) static ENQUEUE: LazyLock<Script> = script!("enqueue.lua");

pub(super) static TAKE: LazyLock<Script> = script!("take.lua", "allow-oom");

pub(super) static ADMIT: LazyLock<Script> = script!("admit.lua", "allow-oom");

pub(super) static ADVANCE: LazyLock<Script> = script!("advance.lua", "allow-oom");

pub(super) static SETTLE: LazyLock<Script> = script!("settle.lua", "allow-oom");

pub(super) static RECOVER: LazyLock<Script> = script!("recover.lua", "allow-oom");

pub(super) static PROMOTE: LazyLock<Script> = script!("promote.lua", "allow-oom");

pub(super) static RELEASE: LazyLock<Script> = script!("release.lua", "allow-oom");

pub(super) static DEAD: LazyLock<Script> = script!("dead.lua", "allow-oom");

pub(super) static BRING: LazyLock<Script> = script!("bring.lua", "allow-oom");

pub(super) static REST: LazyLock<Script> = script!("rest.lua", "allow-oom");

pub(super) static LOST: LazyLock<Script> = script!("lost.lua", "allow-oom");

pub(super) static ACCEPT: LazyLock<Script> = script!("accept.lua", "allow-oom");

pub(super) static LETTERS: LazyLock<Script> = script!("letters.lua", "no-writes");

pub(super) static HEADS: LazyLock<Script> = script!("heads.lua", "no-writes");

pub(super) static PART: LazyLock<Script> = script!("part.lua", "no-writes");

pub(super) static DEPTHS: LazyLock<Script> = script!("depths.lua", "allow-oom");

/// A number as scripts answer it among other words.
pub(super) fn number<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

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

    /// The same for a script that moves entries of so many bytes: Redis writes them to its disk before it answers.
    pub(super) async fn run_moving<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
        moved: usize,
    ) -> Result<T, StoreError> {
        let bytes = arguments.iter().map(|argument| argument.len()).sum();
        self.run_within(script, keys, arguments, bytes, limit(bytes) + on_disk(moved)).await
    }

    /// The same for an answer of up to so many bytes.
    pub(super) async fn run_long<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
        answer: usize,
    ) -> Result<T, StoreError> {
        let bytes = answer + arguments.iter().map(|argument| argument.len()).sum::<usize>();
        self.run_within(script, keys, arguments, bytes, limit(bytes)).await
    }

    /// `bytes` go over the link, either way.
    async fn run_within<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
        bytes: usize,
        limit: Duration,
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
            &names.put_off,
        ];
        all.extend(keys.iter().map(String::as_str));
        let store = if bytes > LONG { self.store.for_bodies() } else { self.store.clone() };
        store.invoke(script, &all, arguments, limit).await
    }
}
