//! The commands that the product and its tests use, with the names, arities and flags of Redis 7.0.

mod hashes;
mod keys;
mod lists;
mod server;
mod sorted;
mod streams;

use bytes::Bytes;

pub(crate) use lists::{end, timeout};
pub(crate) use server::client;

use crate::{failure::Failure, node::Node, resp::Reply};

/// Runs on the data; the words begin with the command's name.
type OnData = fn(&mut Node, &[Bytes]) -> Result<Reply, Failure>;

#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// Also from scripts.
    Data(OnData),
    /// On the data too, but not from scripts.
    Admin(OnData),
    /// By [`crate::session`], which knows the connection.
    Session(SessionCommand),
    /// By [`crate::scripts`].
    Script(ScriptCommand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionCommand {
    Auth,
    BlockingMove,
    Client,
    Ping,
    Quit,
    Subscribe,
    Unsubscribe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScriptCommand {
    Eval,
    EvalSha,
    Script,
}

pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// The number of words with the name; when negative, the least number.
    arity: i32,
    pub(crate) writes: bool,
    pub(crate) needs_memory: bool,
    pub(crate) run: Run,
}

impl Command {
    pub(crate) fn takes(&self, words: usize) -> bool {
        let words = i32::try_from(words).unwrap_or(i32::MAX);
        if self.arity < 0 { words >= -self.arity } else { words == self.arity }
    }
}

const fn read(name: &'static str, arity: i32, run: OnData) -> Command {
    Command { name, arity, writes: false, needs_memory: false, run: Run::Data(run) }
}

/// Changes data, but never makes it more.
const fn shrink(name: &'static str, arity: i32, run: OnData) -> Command {
    Command { name, arity, writes: true, needs_memory: false, run: Run::Data(run) }
}

const fn grow(name: &'static str, arity: i32, run: OnData) -> Command {
    Command { name, arity, writes: true, needs_memory: true, run: Run::Data(run) }
}

const fn admin(name: &'static str, arity: i32, run: OnData) -> Command {
    Command { name, arity, writes: false, needs_memory: false, run: Run::Admin(run) }
}

const fn session(name: &'static str, arity: i32, run: SessionCommand) -> Command {
    let moves = matches!(run, SessionCommand::BlockingMove);
    Command { name, arity, writes: moves, needs_memory: moves, run: Run::Session(run) }
}

const fn script(name: &'static str, arity: i32, run: ScriptCommand) -> Command {
    Command { name, arity, writes: false, needs_memory: false, run: Run::Script(run) }
}

/// By name.
static COMMANDS: [Command; 64] = [
    session("auth", -2, SessionCommand::Auth),
    session("blmove", 6, SessionCommand::BlockingMove),
    session("client", -2, SessionCommand::Client),
    admin("config", -2, server::config),
    read("dbsize", 1, keys::dbsize),
    shrink("del", -2, keys::del),
    read("echo", 2, server::echo),
    script("eval", -3, ScriptCommand::Eval),
    script("evalsha", -3, ScriptCommand::EvalSha),
    read("exists", -2, keys::exists),
    shrink("flushall", -1, keys::flushall),
    read("get", 2, keys::get),
    read("getrange", 4, keys::getrange),
    shrink("hdel", -3, hashes::hdel),
    read("hexists", 3, hashes::hexists),
    read("hget", 3, hashes::hget),
    read("hgetall", 2, hashes::hgetall),
    grow("hincrby", 4, hashes::hincrby),
    read("hkeys", 2, hashes::hkeys),
    read("hlen", 2, hashes::hlen),
    read("hmget", -3, hashes::hmget),
    read("hscan", -3, hashes::hscan),
    grow("hset", -4, hashes::hset),
    read("hvals", 2, hashes::hvals),
    read("info", -1, server::info),
    read("keys", 2, keys::keys),
    read("lindex", 3, lists::lindex),
    read("llen", 2, lists::llen),
    grow("lmove", 5, lists::lmove),
    read("lpos", -3, lists::lpos),
    grow("lpush", -3, lists::lpush),
    read("lrange", 4, lists::lrange),
    shrink("lrem", 4, lists::lrem),
    grow("lset", 4, lists::lset),
    read("mget", -2, keys::mget),
    read("object", -2, keys::object),
    shrink("persist", 2, keys::persist),
    shrink("pexpire", -3, keys::pexpire),
    session("ping", -1, SessionCommand::Ping),
    read("pttl", 2, keys::pttl),
    read("publish", 3, server::publish),
    session("quit", -1, SessionCommand::Quit),
    shrink("rename", 3, keys::rename),
    shrink("rpop", -2, lists::rpop),
    grow("rpush", -3, lists::rpush),
    read("scan", -2, keys::scan),
    script("script", -2, ScriptCommand::Script),
    admin("select", 2, server::select),
    grow("set", -3, keys::set),
    grow("setrange", 4, keys::setrange),
    read("strlen", 2, keys::strlen),
    session("subscribe", -2, SessionCommand::Subscribe),
    read("time", 1, server::time),
    read("ttl", 2, keys::ttl),
    read("type", 2, keys::kind),
    session("unsubscribe", -1, SessionCommand::Unsubscribe),
    grow("xadd", -5, streams::xadd),
    read("xlen", 2, streams::xlen),
    read("xrevrange", -4, streams::xrevrange),
    grow("zadd", -4, sorted::zadd),
    read("zcard", 2, sorted::zcard),
    read("zrangebyscore", -4, sorted::zrangebyscore),
    shrink("zrem", -3, sorted::zrem),
    read("zscore", 3, sorted::zscore),
];

/// The command of this name, in whatever case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; 16];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS.binary_search_by(|command| command.name.as_bytes().cmp(lower)).ok()?;
    Some(&COMMANDS[at])
}

/// Upper-case text of a word, to compare options with.
fn option(word: &Bytes) -> String {
    String::from_utf8_lossy(word).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
        for command in &COMMANDS {
            let upper = command.name.to_uppercase();
            assert_eq!(find(upper.as_bytes()).map(|found| found.name), Some(command.name));
        }
        assert!(find(b"nope").is_none() && find(b"a-name-that-is-longer-than-any").is_none());
    }
}
