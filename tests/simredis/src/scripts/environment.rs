//! What a script finds around it: the safe part of Lua's library, `redis` and `cjson`, all read-only.

use std::sync::{Arc, Mutex};

use mlua::{Error, Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value};

use super::convert::{self, Thrown};
use crate::{
    failure::fixed,
    lock,
    node::{Node, ScriptRights},
    resp::Reply,
};

/// How Redis names the code of a script.
pub(super) const CHUNK: &str = "@user_script";

/// The frame around the scripts. Global names that nobody declared are errors, and so are writes to any of these tables.
/// `math.random` is left out, so that nothing here is random, and so is what Redis leaves out.
const FRAME: &str = "
local redis, cjson, plain, handler = ...
local error, setmetatable, pcall, xpcall = error, setmetatable, pcall, xpcall
local function readonly() error('Attempt to modify a readonly table', 2) end
local function protect(original) return setmetatable({}, {__index = original, __newindex = readonly}) end
local function outcome(done, ...)
  if done then return true, ... end
  return false, plain(...)
end
math.random, math.randomseed = nil, nil
local globals = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, rawequal = rawequal, rawget = rawget,
  rawset = rawset, select = select, setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type,
  unpack = unpack, math = protect(math), string = protect(string), table = protect(table), redis = protect(redis),
  cjson = protect(cjson), pcall = function(f, ...) return outcome(pcall(f, ...)) end,
}
setmetatable(globals, {__index = function(_, name)
  error(\"Script attempted to access nonexistent global variable '\" .. tostring(name) .. \"'\", 2)
end})
return globals, protect(globals), function(script) return xpcall(script, handler) end
";

/// What [`super::Scripts`] keeps of it.
pub(super) struct Parts {
    pub(super) globals: Table,
    pub(super) environment: Table,
    pub(super) run: Function,
}

pub(super) fn build(node: &Arc<Mutex<Node>>, rights: &Arc<Mutex<ScriptRights>>) -> mlua::Result<(Lua, Parts)> {
    let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, LuaOptions::default())?;
    let redis = lua.create_table()?;
    let (data, may) = (node.clone(), rights.clone());
    redis.set(
        "call",
        lua.create_function(move |lua, words: MultiValue| call(lua, &words, &data, &may).map_err(Error::external)?)?,
    )?;
    let (data, may) = (node.clone(), rights.clone());
    let pcall = move |lua: &Lua, words: MultiValue| match call(lua, &words, &data, &may) {
        Ok(answer) => answer,
        Err(thrown) => convert::value_of(lua, &Reply::Error(thrown.text().into())),
    };
    redis.set("pcall", lua.create_function(pcall)?)?;
    redis.set("error_reply", lua.create_function(|lua, text: Value| single(lua, "err", &text))?)?;
    redis.set("status_reply", lua.create_function(|lua, text: Value| single(lua, "ok", &text))?)?;
    let cjson = lua.create_table()?;
    cjson.set("decode", lua.create_function(|lua, text: LuaString| convert::decode(lua, &text))?)?;
    let plain = lua.create_function(|lua, thrown: Value| convert::plain(lua, thrown))?;
    let handler = lua.create_function(|lua, thrown: Value| fault(lua, &thrown))?;
    let frame = lua.load(FRAME).set_name("=frame");
    let (globals, environment, run) = frame.call((redis, cjson, plain, handler))?;
    Ok((lua, Parts { globals, environment, run }))
}

/// One command of a script.
fn call(
    lua: &Lua,
    words: &MultiValue,
    node: &Mutex<Node>,
    rights: &Mutex<ScriptRights>,
) -> Result<mlua::Result<Value>, Thrown> {
    if words.is_empty() {
        return Err(Thrown::Reply(fixed("ERR Please specify at least one argument for this redis lib call")));
    }
    let words: Option<Vec<_>> = words.iter().map(convert::argument).collect();
    let invalid = fixed("ERR Lua redis lib command arguments must be strings or integers");
    let words = words.ok_or(Thrown::Reply(invalid))?;
    let rights = *lock(rights);
    let reply = lock(node).call(&words, rights).map_err(Thrown::Reply)?;
    Ok(convert::value_of(lua, &reply))
}

/// A table that stands for a reply: an error or a status.
fn single(lua: &Lua, field: &str, text: &Value) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    match (field, text) {
        ("err", Value::String(text)) => {
            let text = text.as_bytes();
            table.raw_set("err", lua.create_string(text.strip_prefix(b"-").unwrap_or(&text))?)?;
        }
        (field, Value::String(text)) => table.raw_set(field, text)?,
        _ => table.raw_set("err", "ERR wrong number or type of arguments")?,
    }
    Ok(table)
}

/// What ended the script, and on which of its lines.
fn fault(lua: &Lua, thrown: &Value) -> mlua::Result<Table> {
    let text = match (convert::thrown(thrown), thrown) {
        (Some(thrown), _) => thrown.text(),
        (None, Value::Table(table)) => {
            table.get::<Option<String>>("err")?.unwrap_or_else(|| "ERR unknown error".into())
        }
        (None, other) => format!("ERR {}", other.to_string()?),
    };
    let table = lua.create_table()?;
    table.raw_set("text", text)?;
    let mut level = 1;
    let of_script =
        |frame: &mlua::debug::Debug| (frame.source().source.as_deref() == Some(CHUNK)).then(|| frame.current_line());
    while let Some(line) = lua.inspect_stack(level, of_script) {
        if let Some(line) = line {
            table.raw_set("line", line)?;
            break;
        }
        level += 1;
    }
    Ok(table)
}
