//! Draws commands: mostly sensible ones, each kind on keys of its own, and some on those of another kind or wrong ones.

use rand::{RngExt, rngs::StdRng};

use crate::wire::Words;

/// Letters that stand alone are drawn: Key, Field, Value, Integer, Score, Bound, Time, Pattern, Cursor, End (of a list), cHannel.
const FORMS: &[&str] = &[
    "BLMOVE K K E E 0.001",
    "CLIENT SETINFO LIB-NAME x",
    "CLIENT SETNAME x",
    "CONFIG GET append*",
    "CONFIG GET appendfsync save min-replicas-to-write",
    "DBSIZE",
    "DEL K",
    "DEL K K",
    "ECHO V",
    "EXISTS K K",
    "GET K",
    "GETRANGE K I I",
    "HDEL K F",
    "HDEL K F F",
    "HEXISTS K F",
    "HGET K F",
    "HGETALL K",
    "HINCRBY K F I",
    "HKEYS K",
    "HLEN K",
    "HMGET K F F F",
    "HSCAN K 0 COUNT 1000",
    "HSCAN K 0 COUNT 1000 MATCH P",
    "HSCAN K C",
    "SCAN x",
    "HSET K F V",
    "HSET K F V F V",
    "HVALS K",
    "INFO",
    "INFO clients",
    "INFO replication",
    "INFO server replication",
    "KEYS P",
    "LINDEX K I",
    "LLEN K",
    "LMOVE K K E E",
    "LPOS K V",
    "LPOS K V RANK I",
    "LPUSH K V",
    "LPUSH K V V V",
    "LRANGE K 0 -1",
    "LRANGE K I I",
    "LREM K I V",
    "LSET K I V",
    "MGET K K",
    "PERSIST K",
    "PEXPIRE K T",
    "PING",
    "PING V",
    "PTTL K",
    "PUBLISH H V",
    "RENAME K K",
    "RPOP K",
    "RPUSH K V V",
    "SCAN 0 COUNT 1000",
    "SCAN 0 MATCH P COUNT 1000",
    "SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff",
    "SELECT 0",
    "SET K V",
    "SETRANGE K 3 V",
    "STRLEN K",
    "TTL K",
    "TYPE K",
    "XADD K * F V",
    "XADD K MAXLEN = 5 * F V",
    "XADD K MAXLEN ~ 1000 * F V F V",
    "XLEN K",
    "ZADD K S V",
    "ZADD K S V S V",
    "ZCARD K",
    "ZRANGEBYSCORE K -inf B",
    "ZRANGEBYSCORE K B B",
    "ZRANGEBYSCORE K B B LIMIT I I",
    "ZREM K V",
    "ZREM K V V",
    "ZSCORE K V",
];

/// Commands that take no options, so that one word too many is an error for both.
const FIXED: &[&str] = &[
    "BLMOVE", "DBSIZE", "ECHO", "GET", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN", "HVALS", "KEYS",
    "LINDEX", "LLEN", "LMOVE", "LRANGE", "LREM", "PING", "PTTL", "PUBLISH", "RENAME", "SELECT", "STRLEN", "TTL",
    "TYPE", "XLEN", "ZCARD", "ZSCORE",
];

const LISTS: &[&str] = &["l1", "l2"];
const HASHES: &[&str] = &["h1", "{h}:2"];
const SORTED: &[&str] = &["z1", "z2"];
const STREAMS: &[&str] = &["x1"];
const TEXTS: &[&str] = &["t1", "key with blanks", ""];
const KEYS: &[&str] = &["l1", "l2", "h1", "{h}:2", "z1", "z2", "x1", "t1", "key with blanks", ""];
const FIELDS: &[&str] =
    &["f1", "f2", "f3", "10", "", "a field of more than sixty-four bytes makes a hash one of the large kind"];
const VALUES: &[&str] = &[
    "",
    "a",
    "b",
    "c",
    "10",
    "-3",
    "9223372036854775807",
    "1.5",
    "two\r\nlines",
    "\0\u{1}",
    "ä",
    "a value of more than sixty-four bytes makes a hash one of the large kind",
];
const INTEGERS: &[&str] = &["0", "1", "2", "3", "-1", "-2", "-3", "100", "-100"];
const SCORES: &[&str] =
    &["0", "1", "2", "-1", "1.5", "0.1", "1e3", "1790000000000", "1e20", "+inf", "-inf", "inf", "3.0", "123456.789"];
const BOUNDS: &[&str] = &["-inf", "+inf", "0", "(0", "1", "(1", "2", "(-1", "(1.5", "1000", "(inf", "("];
const TIMES: &[&str] = &["100000", "86400000", "0", "-1", "500000000", "9223372036854775807"];
const PATTERNS: &[&str] = &["*", "l*", "?1", "f?", "*blanks", "nothing", r"\*", "h1"];
const CURSORS: &[&str] = &["0", "x", ""];
const WRONG: &[&str] =
    &["", "x", "-1", "1.5", "01", "+1", " 1", "9223372036854775808", "nan", "*", "RANK", "LEFT", "é"];

fn pick<'a>(random: &mut StdRng, from: &[&'a str]) -> &'a str {
    from[random.random_range(0..from.len())]
}

/// One command.
pub fn draw(random: &mut StdRng) -> Words {
    if random.random_bool(0.002) {
        return vec![b"FLUSHALL".to_vec()];
    }
    let form = pick(random, FORMS);
    let own = match form.as_bytes() {
        [b'L' | b'B', ..] | [b'R', b'P', ..] => LISTS,
        [b'H', ..] => HASHES,
        [b'Z', ..] => SORTED,
        [b'X', ..] => STREAMS,
        [b'G' | b'S', ..] => TEXTS,
        _ => KEYS,
    };
    let mut words: Vec<String> = form.split(' ').map(|word| drawn(random, word, own).to_owned()).collect();
    if random.random_bool(0.12) {
        spoil(random, &mut words);
    }
    if random.random_bool(0.2) {
        words[0] = words[0].to_lowercase();
    }
    words.into_iter().map(String::into_bytes).collect()
}

fn drawn<'a>(random: &mut StdRng, word: &'a str, own: &[&'static str]) -> &'a str {
    let pool = match word {
        "K" if random.random_bool(0.93) => own,
        "K" => KEYS,
        "F" => FIELDS,
        "V" => VALUES,
        "I" => INTEGERS,
        "S" => SCORES,
        "B" => BOUNDS,
        "T" => TIMES,
        "P" => PATTERNS,
        "C" => CURSORS,
        "E" => &["LEFT", "RIGHT", "left", "Right"],
        "H" => &["c1", "c2"],
        word => return word,
    };
    pick(random, pool)
}

fn spoil(random: &mut StdRng, words: &mut Vec<String>) {
    match random.random_range(0..4) {
        0 => {
            words.pop();
            if words.is_empty() {
                words.push("GET".into());
            }
        }
        1 if FIXED.contains(&words[0].as_str()) => words.push("x".into()),
        2 => words[0] = pick(random, &["NOPE", "nope", "GETT", "HSETT"]).into(),
        // INFO and XADD know more than the simulated one does: other sections, ids of one's own.
        _ if words.len() > 1
            && !matches!(words[0].as_str(), "INFO" | "XADD" | "CONFIG" | "CLIENT" | "SCAN" | "HSCAN" | "SCRIPT") =>
        {
            let at = random.random_range(1..words.len());
            words[at] = pick(random, WRONG).into();
        }
        _ => {}
    }
}
