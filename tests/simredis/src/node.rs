//! The data of one Redis process and what it says of itself; no connections and no scripts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    commands::{self, Command},
    config::Config,
    failure::{Failure, OUT_OF_MEMORY, READ_ONLY, failure, fixed},
    keyspace::{Keyspace, List, Value},
    resp::Reply,
};

/// Milliseconds since 1970 by the wall clock of this Redis.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One connection, in the order in which they came.
pub(crate) type ClientId = u64;

/// Which of its sides a list is taken from or put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Left,
    Right,
}

/// A client that waits for an element.
pub(crate) struct Waiter {
    pub(crate) client: ClientId,
    pub(crate) source: Bytes,
    pub(crate) target: Bytes,
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// What a running script may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScriptRights {
    pub(crate) may_write: bool,
    /// Writes that need memory are refused.
    pub(crate) out_of_memory: bool,
}

pub(crate) struct Node {
    pub(crate) keys: Keyspace,
    pub(crate) config: Config,
    pub(crate) run_id: String,
    pub(crate) replication_id: String,
    /// Of the primary before a promotion.
    pub(crate) former_replication_id: String,
    pub(crate) is_replica: bool,
    /// Replicas that are attached to this one.
    pub(crate) replicas: u32,
    /// Commands that the user may not call, such as `config|get`.
    pub(crate) denied: BTreeSet<String>,
    pub(crate) wall: WallClock,
    /// The time of the command that runs.
    pub(crate) now: Instant,
    /// When the process started, by the wall clock.
    pub(crate) started: u64,
    pub(crate) channels: BTreeMap<Bytes, BTreeMap<ClientId, mpsc::UnboundedSender<Reply>>>,
    pub(crate) waiters: Vec<Waiter>,
    /// Lists that got elements since waiters were looked at.
    pub(crate) grown: VecDeque<Bytes>,
    pub(crate) clients: BTreeSet<ClientId>,
    pub(crate) next_client: ClientId,
}

impl Node {
    /// Sets the clock for one command, and forgets what expired.
    pub(crate) fn begin(&mut self) {
        self.now = Instant::now();
        self.keys.expire(self.now);
    }

    pub(crate) fn is_out_of_memory(&self) -> bool {
        // About what an empty Redis uses.
        const EMPTY: u64 = 1_000_000;
        let limit = self.config.max_memory();
        limit > 0 && EMPTY + self.keys.bytes() as u64 > limit
    }

    /// Whether a command may run now, asked by a client.
    pub(crate) fn admits(&self, writes: bool, needs_memory: bool) -> Result<(), Failure> {
        if needs_memory && self.is_out_of_memory() {
            return Err(OUT_OF_MEMORY);
        }
        if writes && self.is_replica {
            return Err(READ_ONLY);
        }
        Ok(())
    }

    /// Runs one command of a script.
    pub(crate) fn call(&mut self, words: &[Bytes], rights: ScriptRights) -> Result<Reply, Failure> {
        let Some(command) = commands::find(&words[0]) else {
            return Err(fixed("ERR Unknown Redis command called from script"));
        };
        if !command.takes(words.len()) {
            return Err(fixed("ERR Wrong number of args calling Redis command from script"));
        }
        let commands::Run::Data(run) = command.run else {
            return Err(fixed("ERR This Redis command is not allowed from script"));
        };
        if self.denied.contains(command.name) {
            return Err(fixed("ERR The user executing the script can't run this command or subcommand"));
        }
        if command.writes {
            if !rights.may_write {
                return Err(fixed("ERR Write commands are not allowed from read-only scripts."));
            }
            if self.is_replica {
                return Err(READ_ONLY);
            }
        }
        if command.needs_memory && rights.out_of_memory {
            return Err(OUT_OF_MEMORY);
        }
        run(self, words)
    }

    /// An error when the user may not call the command.
    pub(crate) fn permits(&self, command: &Command, words: &[Bytes]) -> Result<(), Failure> {
        if self.denied.is_empty() {
            return Ok(());
        }
        let sub = words.get(1).map_or_else(String::new, |word| String::from_utf8_lossy(word).to_lowercase());
        let whole = format!("{}|{sub}", command.name);
        if self.denied.contains(command.name) {
            return Err(failure(format!("NOPERM this user has no permissions to run the '{}' command", command.name)));
        }
        if self.denied.contains(&whole) {
            return Err(failure(format!("NOPERM this user has no permissions to run the '{whole}' command")));
        }
        Ok(())
    }

    pub(crate) fn publish(&mut self, channel: &Bytes, message: &Bytes) -> usize {
        let Some(listeners) = self.channels.get(channel) else { return 0 };
        let push = Reply::bulks([Bytes::from_static(b"message"), channel.clone(), message.clone()]);
        // A listener whose connection is going is removed by it.
        listeners.values().filter(|listener| listener.send(push.clone()).is_ok()).count()
    }

    /// Adds elements to a list, one after the other; its length afterwards.
    pub(crate) fn push(&mut self, key: &Bytes, end: End, elements: &[Bytes]) -> Result<usize, Failure> {
        let length = self.keys.edit(key, |list: &mut List| {
            for element in elements {
                put(list, end, element.clone());
            }
            list.len()
        })?;
        self.has_grown(key);
        Ok(length)
    }

    /// Remembers to look whether someone waits for what this key holds now.
    pub(crate) fn has_grown(&mut self, key: &Bytes) {
        if self.waiters.iter().any(|waiter| waiter.source == *key) {
            self.grown.push_back(key.clone());
        }
    }

    pub(crate) fn pop(&mut self, key: &Bytes, end: End) -> Result<Option<Bytes>, Failure> {
        if self.keys.read::<List>(key)?.is_none() {
            return Ok(None);
        }
        self.keys.edit(key, |list: &mut List| take(list, end))
    }

    /// LMOVE: nothing when the source is empty; an error, and no change, when either is no list.
    pub(crate) fn shift(
        &mut self,
        source: &Bytes,
        target: &Bytes,
        from: End,
        to: End,
    ) -> Result<Option<Bytes>, Failure> {
        if self.keys.read::<List>(source)?.is_none() {
            return Ok(None);
        }
        self.keys.read::<List>(target)?;
        if source == target {
            // In place: a list of one element is never empty, and keeps its expiry.
            let element = self.keys.edit(source, |list: &mut List| {
                let element = take(list, from);
                if let Some(element) = &element {
                    put(list, to, element.clone());
                }
                element
            })?;
            self.has_grown(source);
            return Ok(element);
        }
        let Some(element) = self.pop(source, from)? else { return Ok(None) };
        self.push(target, to, std::slice::from_ref(&element))?;
        Ok(Some(element))
    }

    /// Gives what came to those who wait for it, the first first. To be called after each command and each script.
    pub(crate) fn serve_waiters(&mut self) {
        while let Some(key) = self.grown.pop_front() {
            while matches!(self.keys.get(&key), Some(Value::List(_)))
                && let Some(at) = self.waiters.iter().position(|waiter| waiter.source == key)
            {
                let waiter = self.waiters.remove(at);
                let reply = match self.shift(&waiter.source, &waiter.target, waiter.from, waiter.to) {
                    Ok(Some(element)) => Reply::Bulk(element),
                    Ok(None) => Reply::Nil,
                    Err(failure) => failure.into(),
                };
                // Its task may be about to end; the element lies in the target all the same, as with a real one.
                let _ = waiter.reply.send(reply);
            }
        }
    }

    /// Ends all waits with an error, as a change of the role does.
    pub(crate) fn dismiss_waiters(&mut self) {
        for waiter in self.waiters.drain(..) {
            let text = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
            let _ = waiter.reply.send(fixed(text).into());
        }
    }

    /// Forgets a connection.
    pub(crate) fn forget(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.waiters.retain(|waiter| waiter.client != client);
        self.channels.retain(|_, listeners| {
            listeners.remove(&client);
            !listeners.is_empty()
        });
    }

    /// What INFO says: all sections, or those that are named.
    pub(crate) fn info(&self, sections: &[Bytes]) -> String {
        let wanted: BTreeSet<String> =
            sections.iter().map(|section| String::from_utf8_lossy(section).to_lowercase()).collect();
        let titles = ["Server", "Clients", "Memory", "Persistence", "Replication", "Keyspace"];
        let titles = titles.iter().filter(|title| wanted.is_empty() || wanted.contains(&title.to_lowercase()));
        let parts = titles.map(|title| {
            let fields = match *title {
                "Server" => self.info_server(),
                "Clients" => self.info_clients(),
                "Memory" => self.info_memory(),
                "Persistence" => self.info_persistence(),
                "Replication" => self.info_replication(),
                _ => self.info_keyspace(),
            };
            format!("# {title}\r\n{fields}")
        });
        parts.collect::<Vec<_>>().join("\r\n")
    }

    fn info_server(&self) -> String {
        let wall = (self.wall)();
        let uptime = wall.saturating_sub(self.started) / 1000;
        format!(
            "redis_version:7.0.15\r\nredis_mode:standalone\r\narch_bits:64\r\nrun_id:{}\r\nserver_time_usec:{}\r\n\
             uptime_in_seconds:{uptime}\r\n",
            self.run_id,
            wall * 1000
        )
    }

    fn info_clients(&self) -> String {
        format!("connected_clients:{}\r\nblocked_clients:{}\r\n", self.clients.len(), self.waiters.len())
    }

    fn info_memory(&self) -> String {
        format!(
            "maxmemory:{}\r\nmaxmemory_policy:{}\r\n",
            self.config.max_memory(),
            self.config.get("maxmemory-policy")
        )
    }

    fn info_persistence(&self) -> String {
        let aof = u8::from(self.config.get("appendonly") == "yes");
        format!(
            "loading:0\r\nrdb_last_bgsave_status:{}\r\naof_enabled:{aof}\r\naof_last_write_status:{}\r\n",
            self.config.rdb_status, self.config.aof_status
        )
    }

    fn info_replication(&self) -> String {
        let role = if self.is_replica { "slave" } else { "master" };
        format!(
            "role:{role}\r\nconnected_slaves:{}\r\nmaster_replid:{}\r\nmaster_replid2:{}\r\n",
            self.replicas, self.replication_id, self.former_replication_id
        )
    }

    fn info_keyspace(&self) -> String {
        match self.keys.len() {
            0 => String::new(),
            keys => format!("db0:keys={keys}\r\n"),
        }
    }
}

fn put(list: &mut List, end: End, element: Bytes) {
    match end {
        End::Left => list.push_front(element),
        End::Right => list.push_back(element),
    }
}

fn take(list: &mut List, end: End) -> Option<Bytes> {
    match end {
        End::Left => list.pop_front(),
        End::Right => list.pop_back(),
    }
}
