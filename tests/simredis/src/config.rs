//! The settings that the product reads or tests change, and the health of the files.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    failure::{Failure, failure},
    glob,
};

/// Settings by their name.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    settings: BTreeMap<&'static str, String>,
    pub(crate) aof_status: &'static str,
    pub(crate) rdb_status: &'static str,
}

impl Default for Config {
    /// As the requirements ask: AOF with `appendfsync always`, and RDB.
    fn default() -> Self {
        let settings = [
            ("appenddirname", "appendonlydir"),
            ("appendfilename", "appendonly.aof"),
            ("appendfsync", "always"),
            ("appendonly", "yes"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("min-replicas-to-write", "0"),
            ("requirepass", ""),
            ("save", "60 1000"),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        Self { settings, aof_status: "ok", rdb_status: "ok" }
    }
}

impl Config {
    /// Empty when there is no such setting.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// An error when there is no such setting, or its value makes no sense.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let name = name.to_lowercase();
        let Some(setting) = self.settings.get_mut(name.as_str()) else {
            return Err(failure(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")));
        };
        *setting = if name == "maxmemory" {
            let invalid =
                "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value";
            memory(value).ok_or_else(|| failure(invalid.into()))?.to_string()
        } else {
            value.to_owned()
        };
        Ok(())
    }

    /// Names and values of all settings whose name fits one of the patterns, by name.
    pub(crate) fn matching(&self, patterns: &[Bytes]) -> Vec<(&'static str, &str)> {
        let patterns: Vec<Vec<u8>> = patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
        let fits = |name: &str| patterns.iter().any(|pattern| glob::fits(pattern, name.as_bytes()));
        self.settings.iter().filter(|(name, _)| fits(name)).map(|(name, value)| (*name, value.as_str())).collect()
    }

    pub(crate) fn max_memory(&self) -> u64 {
        self.get("maxmemory").parse().unwrap_or(0)
    }
}

/// Bytes, or a number with a unit.
fn memory(text: &str) -> Option<u64> {
    let text = text.to_lowercase();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1024,
        "m" => 1_000_000,
        "mb" => 1024 * 1024,
        "g" => 1_000_000_000,
        "gb" => 1024 * 1024 * 1024,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
