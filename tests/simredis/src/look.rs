//! The data, for those who judge. A key of another kind reads as one that is not there.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    SimRedis,
    keyspace::{Hash, Kind, List, Sorted, Stream},
};

/// Milliseconds and number of an entry, and its fields.
pub type StreamEntry = ((u64, u64), Vec<(Bytes, Bytes)>);

impl SimRedis {
    /// The id of this run, as INFO shows it.
    pub fn run_id(&self) -> String {
        self.look(|node| node.run_id.clone())
    }

    /// Run and replication: what the ledger's fence is made of.
    pub fn fence(&self) -> String {
        self.look(|node| format!("{}:{}", node.run_id, node.replication_id))
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<Bytes> {
        self.look(|node| node.keys.keys().cloned().collect())
    }

    /// A plain text.
    pub fn text(&self, key: &str) -> Option<Bytes> {
        self.value(key, |text: &Bytes| text.clone())
    }

    /// A list, from left to right.
    pub fn list(&self, key: &str) -> Vec<Bytes> {
        self.value(key, |list: &List| list.iter().cloned().collect()).unwrap_or_default()
    }

    /// A hash.
    pub fn hash(&self, key: &str) -> BTreeMap<Bytes, Bytes> {
        let copy = |hash: &Hash| hash.fields.iter().map(|(field, value)| (field.clone(), value.clone())).collect();
        self.value(key, copy).unwrap_or_default()
    }

    /// A sorted set, by score.
    pub fn sorted(&self, key: &str) -> Vec<(Bytes, f64)> {
        let copy = |set: &Sorted| set.order.iter().map(|(score, member)| (member.clone(), score.0)).collect();
        self.value(key, copy).unwrap_or_default()
    }

    /// A stream, oldest first.
    pub fn stream(&self, key: &str) -> Vec<StreamEntry> {
        let pairs = |words: &[Bytes]| words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let copy = |stream: &Stream| stream.entries.iter().map(|(id, words)| (*id, pairs(words))).collect();
        self.value(key, copy).unwrap_or_default()
    }

    fn value<T: Kind, R>(&self, key: &str, copy: impl FnOnce(&T) -> R) -> Option<R> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.look(|node| node.keys.get(&key).and_then(T::of).map(copy))
    }
}
