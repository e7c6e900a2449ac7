//! Whether two replies are the same, apart from what may differ.

use std::collections::BTreeMap;

use crate::wire::{Pair, Words, parts, shown, words};

/// Fields of INFO that are of the process and not of what was done.
const OWN_FIELDS: &[&str] = &["server_time_usec", "uptime_in_seconds", "connected_clients", "db0"];

/// Equal bytes, or what may stand for them after this command.
pub async fn same(pair: &mut Pair, words: &Words, real: &[u8], simulated: &[u8]) -> Result<(), String> {
    if real == simulated {
        return Ok(());
    }
    if real.first() != simulated.first() || matches!(real.first(), Some(b'-')) {
        return Err("another kind of reply, or another error".into());
    }
    let name = String::from_utf8_lossy(&words[0]).to_uppercase();
    let fits = match name.as_str() {
        "INFO" => return same_info(real, simulated),
        "CONFIG" => return same_settings(real, simulated),
        // A moment passes between the two.
        "PTTL" => near(real, simulated, 2_000),
        "TTL" => near(real, simulated, 2),
        "XADD" => stream_id(real) && stream_id(simulated),
        "KEYS" | "SCAN" => sorted(real) == sorted(simulated),
        "HGETALL" | "HKEYS" | "HVALS" | "HSCAN" => {
            is_large(pair, &words[1]).await && unordered(real) == unordered(simulated)
        }
        "EVAL" | "EVALSHA" => {
            let number: usize = String::from_utf8_lossy(&words[2]).parse().unwrap_or(0);
            let mut large = false;
            for key in words.iter().skip(3).take(number) {
                large |= is_large(pair, key).await;
            }
            large && unordered(real) == unordered(simulated)
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err("not the same".into()) }
}

/// Whether the real one keeps this hash in a table that has no order.
async fn is_large(pair: &mut Pair, key: &[u8]) -> bool {
    let encoding = pair.real.ask(&vec![b"OBJECT".to_vec(), b"ENCODING".to_vec(), key.to_vec()]).await;
    encoding.ends_with(b"hashtable\r\n")
}

fn number(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim_end().parse().ok()
}

fn near(real: &[u8], simulated: &[u8], distance: i64) -> bool {
    matches!((number(real), number(simulated)), (Some(real), Some(simulated)) if real >= 0 && simulated >= 0 && (real - simulated).abs() <= distance)
}

fn stream_id(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply);
    let id = text.lines().nth(1).and_then(|id| id.split_once('-'));
    id.is_some_and(|(time, number)| time.len() == 13 && number.parse::<u64>().is_ok())
}

/// An array whose parts come in any order.
fn sorted(reply: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut parts = parts(reply)?;
    // A page of a scan: the cursor, and the array within.
    if let [cursor, page] = &parts[..]
        && page.starts_with(b"*")
    {
        let mut page = crate::wire::parts(page)?;
        page.sort();
        page.insert(0, cursor.clone());
        return Some(page);
    }
    parts.sort();
    Some(parts)
}

/// All that is in a reply, at any depth, in no order.
fn unordered(reply: &[u8]) -> Vec<Vec<u8>> {
    fn flatten(reply: &[u8], into: &mut Vec<Vec<u8>>) {
        match parts(reply) {
            Some(parts) => parts.iter().for_each(|part| flatten(part, into)),
            None => into.push(reply.to_vec()),
        }
    }
    let mut all = Vec::new();
    flatten(reply, &mut all);
    all.sort();
    all
}

/// Every field that the simulated one tells is told by the real one, in the same section and with the same value.
fn same_info(real: &[u8], simulated: &[u8]) -> Result<(), String> {
    let fields = |reply: &[u8]| -> BTreeMap<(String, String), String> {
        let text = String::from_utf8_lossy(reply).into_owned();
        let mut section = String::new();
        let mut fields = BTreeMap::new();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("# ") {
                title.clone_into(&mut section);
            } else if let Some((name, value)) = line.split_once(':') {
                fields.insert((section.clone(), name.to_owned()), value.to_owned());
            }
        }
        fields
    };
    let (real, simulated) = (fields(real), fields(simulated));
    for ((section, name), value) in &simulated {
        let theirs = real.get(&(section.clone(), name.clone()));
        if theirs.is_none() || (theirs != Some(value) && !OWN_FIELDS.contains(&name.as_str())) {
            return Err(format!("{section} {name}: real {theirs:?}, simulated {value}"));
        }
    }
    if simulated.is_empty() { Err("INFO is empty".into()) } else { Ok(()) }
}

/// Every setting that the simulated one shows has the same value in the real one, in whatever order.
fn same_settings(real: &[u8], simulated: &[u8]) -> Result<(), String> {
    let pairs = |reply: &[u8]| -> BTreeMap<Vec<u8>, Vec<u8>> {
        let words = parts(reply).unwrap_or_default();
        words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    };
    let (real, simulated) = (pairs(real), pairs(simulated));
    match simulated.iter().find(|(name, value)| real.get(*name) != Some(value)) {
        None if real.len() == simulated.len() => Ok(()),
        other => Err(format!("settings differ: {other:?}")),
    }
}

/// All keys, and all that lies under them.
pub async fn same_state(pair: &mut Pair) -> Result<(), String> {
    let (real, simulated) = pair.ask(&words(&["KEYS", "*"])).await;
    let keys = sorted(&real).unwrap_or_default();
    if Some(&keys) != sorted(&simulated).as_ref() {
        return Err(format!("keys {} and {}", shown(&real), shown(&simulated)));
    }
    for key in keys {
        let key = text_of(&key);
        let (kind, other) = pair.ask(&vec![b"TYPE".to_vec(), key.clone()]).await;
        if kind != other {
            return Err(format!("{}: {} and {}", shown(&key), shown(&kind), shown(&other)));
        }
        let ask: &[&str] = match &kind[..] {
            b"+string\r\n" => &["GET", ""],
            b"+list\r\n" => &["LRANGE", "", "0", "-1"],
            b"+hash\r\n" => &["HGETALL", ""],
            b"+zset\r\n" => &["ZRANGEBYSCORE", "", "-inf", "+inf"],
            _ => {
                same_stream(pair, &key).await?;
                &["XLEN", ""]
            }
        };
        for ask in [ask, &["PTTL", ""]] {
            let mut ask = words(ask);
            ask[1].clone_from(&key);
            let (real, simulated) = pair.ask(&ask).await;
            let outcome = same(pair, &ask, &real, &simulated).await;
            outcome.map_err(|why| format!("{}: {why}: {} and {}", shown(&key), shown(&real), shown(&simulated)))?;
        }
    }
    Ok(())
}

/// The entries of a stream without their ids, which are times. Those of one script may come in any order: it goes through a
/// hash.
async fn same_stream(pair: &mut Pair, key: &[u8]) -> Result<(), String> {
    let ask = vec![b"XRANGE".to_vec(), key.to_vec(), b"-".to_vec(), b"+".to_vec()];
    let entries = parts(&pair.real.ask(&ask).await).unwrap_or_default();
    let mut real: Vec<Vec<Vec<u8>>> = Vec::new();
    for entry in entries {
        let Some([_, fields]) = parts(&entry).and_then(|parts| <[Vec<u8>; 2]>::try_from(parts).ok()) else {
            return Err(format!("an entry without fields: {}", shown(&entry)));
        };
        real.push(parts(&fields).unwrap_or_default().iter().map(|word| text_of(word)).collect());
    }
    let entries = pair.data.stream(&String::from_utf8_lossy(key)).into_iter();
    let mut simulated: Vec<Vec<Vec<u8>>> = entries
        .map(|(_, pairs)| pairs.into_iter().flat_map(|(field, value)| [field.to_vec(), value.to_vec()]).collect())
        .collect();
    real.sort();
    simulated.sort();
    if real == simulated { Ok(()) } else { Err(format!("the entries of {} differ", shown(key))) }
}

/// The bytes of a bulk.
fn text_of(bulk: &[u8]) -> Vec<u8> {
    let start = bulk.windows(2).position(|pair| pair == b"\r\n").unwrap_or(0) + 2;
    bulk[start..bulk.len() - 2].to_vec()
}
