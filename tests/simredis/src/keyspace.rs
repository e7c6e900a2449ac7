//! The keys and what lies under them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use bytes::Bytes;
use indexmap::IndexMap;
use tokio::time::Instant;

use crate::{
    failure::{Failure, WRONG_TYPE},
    number::{Score, integer},
};

/// What a key holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(Bytes),
    List(List),
    Hash(Hash),
    Sorted(Sorted),
    Stream(Stream),
}

pub(crate) type List = VecDeque<Bytes>;

/// Fields in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hash {
    pub(crate) fields: IndexMap<Bytes, Bytes>,
    /// Redis keeps small hashes packed and answers one HSCAN with all of them; once large, a hash stays so.
    pub(crate) large: bool,
}

impl Hash {
    /// The limits of a packed hash, as Redis has them by default.
    const PACKED_FIELDS: usize = 512;
    const PACKED_BYTES: usize = 64;

    /// Whether the field is new.
    pub(crate) fn set(&mut self, field: Bytes, value: Bytes) -> bool {
        let long = field.len().max(value.len()) > Self::PACKED_BYTES;
        let is_new = self.fields.insert(field, value).is_none();
        self.large |= long || self.fields.len() > Self::PACKED_FIELDS;
        is_new
    }
}

/// Members by score and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sorted {
    pub(crate) scores: BTreeMap<Bytes, f64>,
    pub(crate) order: BTreeSet<(Score, Bytes)>,
}

impl Sorted {
    /// Whether the member is new.
    pub(crate) fn set(&mut self, member: Bytes, score: f64) -> bool {
        let old = self.scores.insert(member.clone(), score);
        if let Some(old) = old {
            self.order.remove(&(Score(old), member.clone()));
        }
        self.order.insert((Score(score), member));
        old.is_none()
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, member: &Bytes) -> bool {
        let Some(score) = self.scores.remove(member) else { return false };
        self.order.remove(&(Score(score), member.clone()));
        true
    }
}

/// Milliseconds and a number within them.
pub(crate) type StreamId = (u64, u64);

/// Entries of fields and values, by time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) entries: VecDeque<(StreamId, Vec<Bytes>)>,
    pub(crate) last: StreamId,
}

/// One kind of value.
pub(crate) trait Kind: Default {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn wrap(self) -> Value;
    /// Redis keeps no empty containers, except streams.
    fn vanishes(&self) -> bool;
}

macro_rules! kind {
    ($type:ty, $variant:ident, $vanishes:expr) => {
        impl Kind for $type {
            fn of(value: &Value) -> Option<&Self> {
                if let Value::$variant(inner) = value { Some(inner) } else { None }
            }

            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let Value::$variant(inner) = value { Some(inner) } else { None }
            }

            fn wrap(self) -> Value {
                Value::$variant(self)
            }

            fn vanishes(&self) -> bool {
                let vanishes: fn(&Self) -> bool = $vanishes;
                vanishes(self)
            }
        }
    };
}

kind!(Bytes, Text, |_| false);
kind!(List, List, VecDeque::is_empty);
kind!(Hash, Hash, |hash| hash.fields.is_empty());
kind!(Sorted, Sorted, |set| set.scores.is_empty());
kind!(Stream, Stream, |_| false);

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    /// Of a text: whether it was changed in place. Redis shows that as long as its process lives.
    is_raw: bool,
    expires: Option<Instant>,
}

/// All keys, in the order of their bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyspace {
    entries: BTreeMap<Bytes, Entry>,
    expiring: BTreeSet<(Instant, Bytes)>,
}

impl Keyspace {
    /// A text that is longer is always `raw`.
    const EMBEDDED_BYTES: usize = 44;

    /// What lies under a key, when it is of this kind; an error when it is of another.
    pub(crate) fn read<T: Kind>(&self, key: &Bytes) -> Result<Option<&T>, Failure> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(entry) => T::of(&entry.value).map(Some).ok_or(WRONG_TYPE),
        }
    }

    /// Changes what lies under a key, which begins empty and goes when it is left empty.
    pub(crate) fn edit<T: Kind, R>(&mut self, key: &Bytes, change: impl FnOnce(&mut T) -> R) -> Result<R, Failure> {
        let fresh = || Entry { value: T::default().wrap(), is_raw: true, expires: None };
        let entry = self.entries.entry(key.clone()).or_insert_with(fresh);
        entry.is_raw = true;
        let value = T::of_mut(&mut entry.value).ok_or(WRONG_TYPE)?;
        let result = change(value);
        if value.vanishes() {
            self.remove(key);
        }
        Ok(result)
    }

    /// Puts a value under a key, whatever was there; it never expires.
    pub(crate) fn put(&mut self, key: &Bytes, value: Value) {
        self.remove(key);
        self.entries.insert(key.clone(), Entry { value, is_raw: false, expires: None });
    }

    /// Takes a key out; whether it was there.
    pub(crate) fn remove(&mut self, key: &Bytes) -> bool {
        self.take(key).is_some()
    }

    fn take(&mut self, key: &Bytes) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Some(at) = entry.expires {
            self.expiring.remove(&(at, key.clone()));
        }
        Some(entry)
    }

    /// Whether there was anything to rename.
    pub(crate) fn rename(&mut self, from: &Bytes, to: &Bytes) -> bool {
        let Some(entry) = self.take(from) else { return false };
        self.remove(to);
        if let Some(at) = entry.expires {
            self.expiring.insert((at, to.clone()));
        }
        self.entries.insert(to.clone(), entry);
        true
    }

    /// Whether the key is there.
    pub(crate) fn expire_at(&mut self, key: &Bytes, at: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if let Some(old) = entry.expires.replace(at) {
            self.expiring.remove(&(old, key.clone()));
        }
        self.expiring.insert((at, key.clone()));
        true
    }

    /// Whether it was to go.
    pub(crate) fn persist(&mut self, key: &Bytes) -> bool {
        let Some(old) = self.entries.get_mut(key).and_then(|entry| entry.expires.take()) else { return false };
        self.expiring.remove(&(old, key.clone()));
        true
    }

    /// When it goes, if ever.
    pub(crate) fn expiry(&self, key: &Bytes) -> Option<Instant> {
        self.entries.get(key).and_then(|entry| entry.expires)
    }

    /// Removes what expired by now.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.expiring.first() {
            if *at > now {
                break;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }

    /// As OBJECT ENCODING names that of a text.
    pub(crate) fn encoding(&self, key: &Bytes) -> Result<Option<&'static str>, Failure> {
        let Some(text) = self.read::<Bytes>(key)? else { return Ok(None) };
        Ok(Some(match integer(text) {
            _ if self.entries.get(key).is_some_and(|entry| entry.is_raw) => "raw",
            Ok(_) => "int",
            Err(_) if text.len() > Self::EMBEDDED_BYTES => "raw",
            Err(_) => "embstr",
        }))
    }

    /// Every text as it is after it was loaded.
    pub(crate) fn load(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.is_raw = false);
    }

    pub(crate) fn get(&self, key: &Bytes) -> Option<&Value> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The bytes of keys and values; what Redis needs beside them is not counted.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|(key, entry)| key.len() + entry.value.bytes()).sum()
    }
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(list) => list.iter().map(Bytes::len).sum(),
            Self::Hash(hash) => hash.fields.iter().map(|(field, value)| field.len() + value.len()).sum(),
            Self::Sorted(set) => set.scores.keys().map(|member| member.len() + 8).sum(),
            Self::Stream(stream) => stream.entries.iter().flat_map(|(_, words)| words).map(Bytes::len).sum(),
        }
    }

    /// As TYPE names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Hash(_) => "hash",
            Self::Sorted(_) => "zset",
            Self::Stream(_) => "stream",
        }
    }
}

/// One page of a scan: what lies at `cursor` or after it, at least `count` items unless the end is reached, and where to go
/// on (0 at the end).
///
/// Items are ordered by a digest of their own, so that whatever is there from the first page to the last is seen, as Redis
/// promises, even when others come and go in between.
pub(crate) fn scan<'a, T>(
    items: impl Iterator<Item = (&'a Bytes, T)>,
    cursor: u64,
    count: usize,
) -> (u64, Vec<(&'a Bytes, T)>) {
    let mut ordered: BTreeMap<u64, Vec<(&Bytes, T)>> = BTreeMap::new();
    for (name, item) in items {
        ordered.entry(digest(name)).or_default().push((name, item));
    }
    let mut later = ordered.split_off(&cursor);
    let mut page = Vec::new();
    while page.len() < count
        && let Some((_, found)) = later.pop_first()
    {
        page.extend(found);
    }
    let next = later.range((Bound::Unbounded, Bound::<u64>::Unbounded)).next().map_or(0, |(place, _)| *place);
    (next, page)
}

/// FNV-1a, never 0, so that 0 stays the first cursor and the last.
fn digest(name: &[u8]) -> u64 {
    let digest = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    digest.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_sees_all_that_stays_though_others_come_and_go() {
        let mut names: BTreeSet<Bytes> = (0..100).map(|n| Bytes::from(format!("stays{n}"))).collect();
        let (mut cursor, mut seen, mut round) = (0, BTreeSet::new(), 0);
        loop {
            let (next, page) = scan(names.iter().map(|name| (name, ())), cursor, 7);
            assert!(page.len() >= 7 || next == 0);
            seen.extend(page.into_iter().map(|(name, ())| name.clone()));
            cursor = next;
            if cursor == 0 {
                break;
            }
            names.remove(&Bytes::from(format!("comes{}", round / 2)));
            names.insert(Bytes::from(format!("comes{round}")));
            round += 1;
        }
        assert_eq!(seen.iter().filter(|name| name.starts_with(b"stays")).count(), 100);
    }

    #[test]
    fn a_key_that_moves_takes_its_end_with_it() {
        let (a, b, now) = (Bytes::from("a"), Bytes::from("b"), Instant::now());
        let mut keys = Keyspace::default();
        keys.put(&a, Value::Text("x".into()));
        keys.put(&b, Value::Text("y".into()));
        assert!(keys.expire_at(&a, now) && keys.rename(&a, &b));
        keys.expire(now);
        assert_eq!((keys.len(), keys.expiring.len()), (0, 0));
    }
}
