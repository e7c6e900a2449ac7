//! Which of many ledgers changed: one look at the twins of all, in place of one at each ledger.

use redis::{Value, from_redis_value};

use super::store::{CALL_LIMIT, ledger_key, twin_key};
use crate::store::{Store, StoreError};

/// How many keys one command names.
const AT_ONCE: usize = 500;

/// What the twins of many ledgers said.
///
/// A twin is the version that the last change of its ledger wrote. While it is the one that a look showed, the ledger is as
/// that look showed it: but for what was changed by hand, by a release that knows no twins, or by bringing a ledger back
/// alone. The first script that is asked to change a ledger brought back finds it lost, and says so in the twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Twins {
    /// `run_id:master_replid` of the node that answered.
    pub node_fence: String,
    /// The version of each ledger that was asked for, in that order, as far as its twin can tell.
    pub versions: Vec<Option<u64>>,
}

impl Twins {
    /// Asks for the twins of these pools' ledgers, all of which are there as far as the caller knows.
    pub async fn look(store: &Store, pools: &[&str]) -> Result<Self, StoreError> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("server").arg("replication");
        for pools in pools.chunks(AT_ONCE) {
            commands.cmd("MGET").arg(pools.iter().map(|pool| twin_key(pool)).collect::<Vec<_>>());
            commands.cmd("EXISTS").arg(pools.iter().map(|pool| ledger_key(pool)).collect::<Vec<_>>());
        }
        let answers: Vec<Value> = store.query_all(&commands, CALL_LIMIT).await?;
        let garbled = || StoreError::Garbled {
            address: store.address().to_owned(),
            detail: "what it says of itself and of the ledgers' twins makes no sense".to_owned(),
        };
        Self::read(pools, answers).ok_or_else(garbled)
    }

    fn read(pools: &[&str], answers: Vec<Value>) -> Option<Self> {
        let mut answers = answers.into_iter();
        let info: String = from_redis_value(answers.next()?).ok()?;
        let mut versions = Vec::with_capacity(pools.len());
        for pools in pools.chunks(AT_ONCE) {
            let twins: Vec<Option<Vec<u8>>> = from_redis_value(answers.next()?).ok()?;
            let there: usize = from_redis_value(answers.next()?).ok()?;
            // Which one is gone is not said: each of them is to be looked at.
            let are_there = there == pools.len();
            if twins.len() != pools.len() {
                return None;
            }
            versions.extend(twins.iter().map(|twin| version(twin.as_deref().filter(|_| are_there)?)));
        }
        Some(Self { node_fence: fence(&info)?, versions })
    }
}

fn version(twin: &[u8]) -> Option<u64> {
    std::str::from_utf8(twin).ok()?.parse().ok()
}

/// As the scripts have it.
fn fence(info: &str) -> Option<String> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    Some(format!("{}:{}", field("run_id")?, field("master_replid")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn read(twins: Vec<Value>, there: i64) -> Option<Vec<Option<u64>>> {
        let info = text("run_id:a\r\nmaster_replid:b\r\n");
        let twins = Twins::read(&["one", "two"], vec![info, Value::Array(twins), Value::Int(there)])?;
        assert_eq!(twins.node_fence, "a:b");
        Some(twins.versions)
    }

    #[test]
    fn versions_come_in_the_order_asked_and_an_answer_that_is_too_short_is_none() {
        assert_eq!(read(vec![text("7"), Value::Nil], 2), Some(vec![Some(7), None]));
        assert_eq!(read(vec![text("7"), text("8")], 1), Some(vec![None, None]), "one of the ledgers is gone");
        assert_eq!(read(vec![text("7")], 2), None);
    }
}
