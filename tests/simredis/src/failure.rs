//! Refusals, in the words of Redis 7.0.

use std::borrow::Cow;

use crate::resp::Reply;

/// Why a command did nothing: the whole text of the error reply, its code first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) Cow<'static, str>);

pub(crate) const WRONG_TYPE: Failure = fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
pub(crate) const SYNTAX: Failure = fixed("ERR syntax error");
pub(crate) const NOT_AN_INTEGER: Failure = fixed("ERR value is not an integer or out of range");
pub(crate) const NOT_A_FLOAT: Failure = fixed("ERR value is not a valid float");
pub(crate) const OUT_OF_MEMORY: Failure = fixed("OOM command not allowed when used memory > 'maxmemory'.");
pub(crate) const READ_ONLY: Failure = fixed("READONLY You can't write against a read only replica.");
pub(crate) const NO_SCRIPT: Failure = fixed("NOSCRIPT No matching script. Please use EVAL.");

pub(crate) const fn fixed(text: &'static str) -> Failure {
    Failure(Cow::Borrowed(text))
}

pub(crate) fn failure(text: String) -> Failure {
    Failure(Cow::Owned(text))
}

pub(crate) fn wrong_arity(command: &str) -> Failure {
    failure(format!("ERR wrong number of arguments for '{command}' command"))
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Error(failure.0)
    }
}
