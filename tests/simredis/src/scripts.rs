//! Lua, as Redis embeds it: the scripts by their digest, and what they may call.

mod convert;
mod environment;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use mlua::{Function, Lua, Table, Value};
use sha1_smol::Sha1;

use crate::{
    commands::ScriptCommand,
    failure::{Failure, NO_SCRIPT, NOT_AN_INTEGER, failure, fixed, wrong_arity},
    lock,
    node::{Node, ScriptRights},
    number::integer,
    resp::Reply,
};

/// What the first line of a script declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flags {
    /// Without such a line every write is judged on its own.
    declared: bool,
    no_writes: bool,
    allow_oom: bool,
}

#[derive(Clone)]
struct Script {
    function: Function,
    flags: Flags,
}

/// The scripts that were loaded, and the one Lua state in which they run.
pub(crate) struct Scripts {
    lua: Lua,
    node: Arc<Mutex<Node>>,
    /// The globals of the scripts; read-only for them.
    globals: Table,
    /// What scripts see as their environment.
    environment: Table,
    /// Calls a script; answers whether it went well, and its answer or the error.
    run: Function,
    rights: Arc<Mutex<ScriptRights>>,
    loaded: BTreeMap<String, Script>,
    /// What scripts run in other words than those that were sent.
    altered: Vec<(String, String)>,
}

impl Scripts {
    pub(crate) fn new(node: Arc<Mutex<Node>>) -> Self {
        let rights = Arc::new(Mutex::new(ScriptRights { may_write: true, out_of_memory: false }));
        let (lua, parts) = environment::build(&node, &rights).expect("a Lua state with our functions");
        let environment::Parts { globals, environment, run } = parts;
        Self { lua, node, globals, environment, run, rights, loaded: BTreeMap::new(), altered: Vec::new() }
    }

    /// SCRIPT FLUSH; a restart does the same.
    pub(crate) fn flush(&mut self) {
        self.loaded.clear();
    }

    /// From now on scripts run with `to` wherever they say `from`, under the digest of what was sent.
    pub(crate) fn alter(&mut self, from: &str, to: &str) {
        self.altered.push((from.to_owned(), to.to_owned()));
        self.loaded.clear();
    }

    pub(crate) fn command(&mut self, command: ScriptCommand, words: &[Bytes]) -> Result<Reply, Failure> {
        match command {
            ScriptCommand::Script => self.manage(words),
            ScriptCommand::Eval => {
                let (keys, arguments) = split(&words[2..])?;
                let digest = self.load(&words[1])?;
                self.invoke(&digest, keys, arguments)
            }
            ScriptCommand::EvalSha => {
                let digest = String::from_utf8_lossy(&words[1]).to_lowercase();
                if digest.len() != 40 {
                    return Err(NO_SCRIPT);
                }
                let (keys, arguments) = split(&words[2..])?;
                self.invoke(&digest, keys, arguments)
            }
        }
    }

    fn manage(&mut self, words: &[Bytes]) -> Result<Reply, Failure> {
        let sub = String::from_utf8_lossy(&words[1]).to_lowercase();
        match (sub.as_str(), &words[2..]) {
            ("load", [body]) => self.load(body).map(Reply::bulk),
            ("exists", digests @ [_, ..]) => {
                let known = |digest: &Bytes| self.loaded.contains_key(&String::from_utf8_lossy(digest).to_lowercase());
                Ok(Reply::Array(digests.iter().map(|digest| Reply::Integer(known(digest).into())).collect()))
            }
            ("flush", []) => {
                self.flush();
                Ok(Reply::OK)
            }
            ("load" | "exists", _) => Err(wrong_arity(&format!("script|{sub}"))),
            _ => {
                let sub = String::from_utf8_lossy(&words[1]);
                Err(failure(format!("ERR unknown subcommand '{sub}'. Try SCRIPT HELP.")))
            }
        }
    }

    /// Compiles a script unless it is known; its digest.
    fn load(&mut self, body: &Bytes) -> Result<String, Failure> {
        let digest = Sha1::from(body).digest().to_string();
        if !self.loaded.contains_key(&digest) {
            let (flags, code) = header(body)?;
            let mut text = Cow::Borrowed(code);
            for (from, to) in &self.altered {
                let words = String::from_utf8_lossy(&text);
                if words.contains(from) {
                    text = Cow::Owned(words.replace(from, to).into_bytes());
                }
            }
            let chunk = self.lua.load(&*text).set_name(environment::CHUNK).set_environment(self.environment.clone());
            let function = chunk.into_function().map_err(|error| {
                let detail = match &error {
                    mlua::Error::SyntaxError { message, .. } => message.clone(),
                    other => other.to_string(),
                };
                failure(format!("ERR Error compiling script (new function): {detail}"))
            })?;
            self.loaded.insert(digest.clone(), Script { function, flags });
        }
        Ok(digest)
    }

    fn invoke(&self, digest: &str, keys: &[Bytes], arguments: &[Bytes]) -> Result<Reply, Failure> {
        let Script { function, flags } = self.loaded.get(digest).ok_or(NO_SCRIPT)?.clone();
        {
            let node = lock(&self.node);
            if flags.declared {
                node.admits(!flags.no_writes, !flags.no_writes && !flags.allow_oom)?;
            }
            *lock(&self.rights) =
                ScriptRights { may_write: !flags.no_writes, out_of_memory: !flags.declared && node.is_out_of_memory() };
        }
        // Only memory can fail here.
        let called = self.call(&function, keys, arguments).map_err(|error| failure(format!("ERR {error}")))?;
        called.map_err(|fault| fault.told(digest))
    }

    fn call(&self, function: &Function, keys: &[Bytes], arguments: &[Bytes]) -> mlua::Result<Result<Reply, Fault>> {
        for (name, words) in [("KEYS", keys), ("ARGV", arguments)] {
            let table = self.lua.create_table_with_capacity(words.len(), 0)?;
            for word in words {
                table.raw_push(self.lua.create_string(word)?)?;
            }
            self.globals.raw_set(name, table)?;
        }
        let (done, answer): (bool, Value) = self.run.call(function)?;
        if done {
            return convert::reply_of(&answer).map(Ok);
        }
        let Value::Table(fault) = answer else { return Err(mlua::Error::runtime("an error without a word")) };
        Ok(Err(Fault { text: fault.raw_get("text")?, line: fault.raw_get("line")? }))
    }
}

/// Why a script ended early.
struct Fault {
    text: String,
    line: Option<usize>,
}

impl Fault {
    fn told(self, digest: &str) -> Failure {
        let place = self.line.map(|line| format!(" script: {digest}, on {}:{line}.", environment::CHUNK));
        failure(self.text + &place.unwrap_or_default())
    }
}

/// The keys and the arguments of a call, from the number of keys on.
fn split(words: &[Bytes]) -> Result<(&[Bytes], &[Bytes]), Failure> {
    let number = integer(&words[0]).map_err(|_| NOT_AN_INTEGER)?;
    let Ok(number) = usize::try_from(number) else { return Err(fixed("ERR Number of keys can't be negative")) };
    words[1..].split_at_checked(number).ok_or(fixed("ERR Number of keys can't be greater than number of args"))
}

/// What the first line declares, and the code, whose lines keep their numbers.
fn header(body: &[u8]) -> Result<(Flags, &[u8]), Failure> {
    if !body.starts_with(b"#!") {
        return Ok((Flags::default(), body));
    }
    let end = body.iter().position(|&byte| byte == b'\n').ok_or(fixed("ERR Invalid script shebang"))?;
    let line = String::from_utf8_lossy(&body[..end]);
    let mut words = line.split_whitespace();
    let engine = words.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(failure(format!("ERR Unexpected engine in script shebang: {engine}")));
    }
    let mut flags = Flags { declared: true, ..Flags::default() };
    for word in words {
        let list =
            word.strip_prefix("flags=").ok_or_else(|| failure(format!("ERR Unknown lua shebang option: {word}")))?;
        for flag in list.split(',').filter(|flag| !flag.is_empty()) {
            match flag {
                "no-writes" => flags.no_writes = true,
                "allow-oom" => flags.allow_oom = true,
                _ => return Err(failure(format!("ERR Unexpected flag in script shebang: {flag}"))),
            }
        }
    }
    Ok((flags, &body[end..]))
}
