//! What befalls a Redis.

use bytes::Bytes;

use crate::{
    Power, SimRedis,
    keyspace::{Hash, Keyspace},
    lock,
    node::Node,
};

/// All data as they were at one moment.
#[derive(Clone)]
pub struct Snapshot {
    keys: Keyspace,
}

impl SimRedis {
    /// The data as they are now: an older dump, or a replica that gets no more.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { keys: self.look(|node| node.keys.clone()) }
    }

    /// The process dies: all connections end, new ones are refused until it is started again.
    pub fn crash(&self) {
        self.change(|power, _| power.is_down = true);
    }

    /// Starts with everything that was acknowledged, as AOF with `appendfsync always` does. One that runs crashes first.
    pub fn restart(&self) {
        self.start(|_| {});
    }

    /// Starts from an older dump.
    pub fn restart_from(&self, snapshot: &Snapshot) {
        self.start(|node| node.keys = snapshot.keys.clone());
    }

    /// Starts with nothing.
    pub fn restart_empty(&self) {
        self.start(|node| node.keys.clear());
    }

    fn start(&self, load: impl FnOnce(&mut Node)) {
        self.change(|power, node| {
            load(node);
            node.keys.load();
            (power.is_down, power.is_frozen) = (false, false);
        });
    }

    /// A replica that had only `snapshot` takes the place of this one: another process, with a replication id of its own.
    /// All connections end; who connects again reaches it. To have both at once, see [`SimRedis::attach_replica`].
    pub fn promote_stale(&self, snapshot: &Snapshot) {
        let former = lock(&self.shared.node).replication_id.clone();
        self.restart_from(snapshot);
        lock(&self.shared.node).former_replication_id = former;
    }

    /// Stops as with SIGSTOP: connections are taken and nothing is answered.
    pub fn freeze(&self) {
        self.shared.power.send_modify(|power| power.is_frozen = true);
    }

    /// Goes on with what came meanwhile.
    pub fn thaw(&self) {
        self.shared.power.send_modify(|power| power.is_frozen = false);
    }

    /// Whether it is down, and not started again yet.
    pub fn is_down(&self) -> bool {
        self.shared.power.borrow().is_down
    }

    /// FLUSHALL.
    pub fn flush_all(&self) {
        self.look(|node| node.keys.clear());
    }

    /// Removes a key; whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        self.look(|node| node.keys.remove(&Bytes::copy_from_slice(key.as_bytes())))
    }

    /// Someone writes a field into a hash that is there, or takes it out.
    pub fn write_field(&self, key: &str, field: &'static str, value: Option<&'static str>) {
        self.look(|node| {
            let key = Bytes::copy_from_slice(key.as_bytes());
            if !matches!(node.keys.read::<Hash>(&key), Ok(Some(_))) {
                return;
            }
            let field = Bytes::from_static(field.as_bytes());
            let change = |hash: &mut Hash| match value {
                Some(value) => drop(hash.set(field.clone(), Bytes::from_static(value.as_bytes()))),
                None => drop(hash.fields.shift_remove(&field)),
            };
            // It was just read as a hash.
            let _ = node.keys.edit(&key, change);
        });
    }

    /// The keys that begin so are as they were in `snapshot`, without their expiry, those that it does not have are gone;
    /// all others stay.
    pub fn bring_back(&self, snapshot: &Snapshot, prefix: &str) {
        let begin = |keys: &Keyspace| -> Vec<Bytes> {
            keys.keys().filter(|key| key.starts_with(prefix.as_bytes())).cloned().collect()
        };
        self.look(|node| {
            for key in begin(&node.keys) {
                node.keys.remove(&key);
            }
            for key in begin(&snapshot.keys) {
                if let Some(value) = snapshot.keys.get(&key) {
                    node.keys.put(&key, value.clone());
                }
            }
        });
    }

    /// SCRIPT FLUSH.
    pub fn script_flush(&self) {
        lock(&self.shared.scripts).flush();
    }

    /// Scripts run with `to` wherever they say `from`, unnoticed by those who sent them: to see whether a test notices what
    /// a rule in a script is for.
    pub fn alter_scripts(&self, from: &str, to: &str) {
        lock(&self.shared.scripts).alter(from, to);
    }

    /// CONFIG SET, which goes on over restarts, as an option of the command line does.
    ///
    /// # Panics
    /// When there is no such setting.
    pub fn configure(&self, name: &str, value: &str) {
        self.look(|node| node.config.set(name, value)).expect("a setting that is known");
    }

    /// The ACL permits a command no more; a subcommand is named as `config|get`.
    pub fn deny(&self, command: &str) {
        self.look(|node| node.denied.insert(command.to_lowercase()));
    }

    /// The ACL permits it again.
    pub fn permit(&self, command: &str) {
        self.look(|node| node.denied.remove(&command.to_lowercase()));
    }

    /// Whether the last write of its files went well, as INFO tells.
    pub fn set_files_healthy(&self, healthy: bool) {
        let status = if healthy { "ok" } else { "err" };
        self.look(|node| (node.config.aof_status, node.config.rdb_status) = (status, status));
    }

    /// A replica with a copy of the data as they are now, a Redis of its own; it refuses writes until it is promoted. With
    /// the first one the replication id of this Redis changes, as that of a real one does.
    pub fn attach_replica(&self, seed: u64) -> Self {
        let id = lock(&self.shared.ids).id();
        let (wall, replication_id) = self.look(|node| {
            if node.replicas == 0 {
                node.replication_id = id;
            }
            node.replicas += 1;
            (node.wall.clone(), node.replication_id.clone())
        });
        let replica = Self::with_wall_clock(seed, wall);
        replica.look(|node| (node.is_replica, node.replication_id) = (true, replication_id));
        replica.sync_from(self);
        replica
    }

    /// Brings a replica what its primary has by now.
    pub fn sync_from(&self, primary: &Self) {
        let Snapshot { keys } = primary.snapshot();
        self.look(|node| node.keys = keys);
    }

    /// REPLICAOF NO ONE: takes writes, with a new replication id, as what it has.
    pub fn promote(&self) {
        let id = lock(&self.shared.ids).id();
        self.look(|node| {
            node.is_replica = false;
            node.former_replication_id = std::mem::replace(&mut node.replication_id, id);
        });
    }

    /// Becomes a replica: refuses writes, and ends all blocking commands.
    pub fn demote(&self) {
        self.look(|node| {
            node.is_replica = true;
            node.dismiss_waiters();
        });
    }

    /// Another run, with another id; no connection outlives it.
    fn change(&self, change: impl FnOnce(&mut Power, &mut Node)) {
        let mut scripts = lock(&self.shared.scripts);
        scripts.flush();
        let (run, replication) = {
            let mut ids = lock(&self.shared.ids);
            (ids.id(), ids.id())
        };
        let mut node = lock(&self.shared.node);
        (node.run_id, node.replication_id) = (run, replication);
        node.started = (node.wall)();
        node.channels.clear();
        node.waiters.clear();
        node.clients.clear();
        self.shared.power.send_modify(|power| {
            power.run += 1;
            change(power, &mut node);
        });
    }

    /// Does something to the data while no command runs.
    pub(crate) fn look<R>(&self, action: impl FnOnce(&mut Node) -> R) -> R {
        let _alone = lock(&self.shared.scripts);
        let mut node = lock(&self.shared.node);
        node.begin();
        action(&mut node)
    }
}
