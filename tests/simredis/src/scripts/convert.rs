//! Between Lua and the wire, by the rules of Redis.

use bytes::Bytes;
use mlua::{Error, Lua, LuaString, Value};

use crate::{failure::Failure, number::general, resp::Reply};

/// What our functions throw.
#[derive(Clone, Debug)]
pub(super) enum Thrown {
    /// A command was refused.
    Reply(Failure),
    /// A library complains.
    Plain(String),
}

impl Thrown {
    /// As a client sees it, its code first.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Plain(text) => format!("ERR {text}"),
            Self::Reply(failure) => failure.0.clone().into_owned(),
        }
    }
}

impl std::fmt::Display for Thrown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for Thrown {}

/// What was thrown, when it was by one of our functions.
pub(super) fn thrown(value: &Value) -> Option<Thrown> {
    let Value::Error(error) = value else { return None };
    let ours = error.downcast_ref::<Thrown>().cloned();
    Some(ours.unwrap_or_else(|| Thrown::Plain(error.to_string())))
}

/// As `pcall` shows what was thrown: as its text, also when that lies in a table under `err`.
pub(super) fn plain(lua: &Lua, value: Value) -> mlua::Result<Value> {
    let text = match (thrown(&value), &value) {
        (Some(Thrown::Plain(text)), _) => Some(lua.create_string(text)?),
        (Some(Thrown::Reply(failure)), _) => Some(lua.create_string(&*failure.0)?),
        (None, Value::Table(table)) => table.raw_get::<Option<LuaString>>("err")?,
        (None, _) => None,
    };
    Ok(text.map_or(value, Value::String))
}

/// An argument of `redis.call`; `None` when it is neither text nor number.
pub(super) fn argument(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        // As Lua's only kind of number, a double.
        #[expect(clippy::cast_precision_loss, reason = "it was a double before mlua made it an integer")]
        Value::Integer(number) => Some(general(*number as f64).into()),
        Value::Number(number) => Some(general(*number).into()),
        _ => None,
    }
}

/// A reply as a script sees it.
pub(super) fn value_of(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    let single = |field: &str, text: &str| {
        let table = lua.create_table()?;
        table.raw_set(field, text)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Status(text) => single("ok", text),
        Reply::Error(text) => single("err", text),
        Reply::Integer(number) => Ok(Value::Integer(*number)),
        Reply::Bulk(bytes) => lua.create_string(bytes).map(Value::String),
        Reply::Nil | Reply::NilArray => Ok(Value::Boolean(false)),
        Reply::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                table.raw_push(value_of(lua, item)?)?;
            }
            Ok(Value::Table(table))
        }
    }
}

/// What a script returned, as a reply: numbers lose their fraction, and a table ends at its first hole.
pub(super) fn reply_of(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::bulk(text.as_bytes()),
        Value::Integer(number) => Reply::Integer(*number),
        Value::Number(number) => Reply::Integer(truncated(*number)),
        Value::Boolean(true) => Reply::Integer(1),
        Value::Table(table) => {
            if let Some(text) = table.raw_get::<Option<LuaString>>("err")? {
                return Ok(Reply::Error(text.to_string_lossy().into()));
            }
            if let Some(text) = table.raw_get::<Option<LuaString>>("ok")? {
                return Ok(Reply::Status(text.to_string_lossy().into()));
            }
            let mut items = Vec::with_capacity(table.raw_len());
            loop {
                match table.raw_get(items.len() + 1)? {
                    Value::Nil => break Reply::Array(items),
                    item => items.push(reply_of(&item)?),
                }
            }
        }
        _ => Reply::Nil,
    })
}

/// A C cast; what does not fit becomes the least integer, as on x86.
fn truncated(number: f64) -> i64 {
    const END: f64 = 9_223_372_036_854_775_808.0;
    #[expect(clippy::cast_possible_truncation, reason = "it fits, as just asked")]
    if (-END..END).contains(&number) { number as i64 } else { i64::MIN }
}

/// `cjson.decode`.
pub(super) fn decode(lua: &Lua, text: &LuaString) -> mlua::Result<Value> {
    let parsed = serde_json::from_slice(&text.as_bytes());
    let parsed = parsed.map_err(|error| Error::external(Thrown::Plain(error.to_string())))?;
    from_json(lua, &parsed)
}

fn from_json(lua: &Lua, json: &serde_json::Value) -> mlua::Result<Value> {
    Ok(match json {
        serde_json::Value::Null => Value::NULL,
        serde_json::Value::Bool(value) => Value::Boolean(*value),
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Value::String(lua.create_string(text)?),
        serde_json::Value::Array(items) => {
            let table = lua.create_table()?;
            for item in items {
                table.raw_push(from_json(lua, item)?)?;
            }
            Value::Table(table)
        }
        serde_json::Value::Object(fields) => {
            let table = lua.create_table()?;
            for (name, item) in fields {
                table.raw_set(name.as_str(), from_json(lua, item)?)?;
            }
            Value::Table(table)
        }
    })
}
