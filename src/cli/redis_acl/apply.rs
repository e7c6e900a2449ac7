//! Sets a user in Redis, and says what that changed.

use std::collections::HashMap;

use redis::{FromRedisValue, Value, cmd, from_redis_value};
use serde::Serialize;

use super::super::{error::CliError, relay::ANSWER_LIMIT};
use crate::store::{Store, StoreError};

/// What was done.
#[derive(Serialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// `created`, `changed`, or `unchanged`.
    pub outcome: &'static str,
    /// Whether Redis wrote its users into its ACL file, so that a restart keeps them.
    pub saved: bool,
    /// Whether anybody can log in as this user: it has a password.
    pub has_password: bool,
}

/// A user as Redis tells of it.
type User = HashMap<String, Value>;

/// Gives the user these rules; whatever else it might do is taken away. Doing it again changes nothing.
pub async fn apply(store: &Store, user: &str, words: &[String]) -> Result<Applied, CliError> {
    let own: String = ask(store, cmd("ACL").arg("WHOAMI")).await?;
    if own == user {
        return Err(CliError::Usage(format!(
            "--user {user} is the login that this command itself uses, which would lose the right to set users; \
             choose another, or connect as another with --redis-username"
        )));
    }
    let before = look(store, user).await?;
    let _: Value = ask(store, cmd("ACL").arg("SETUSER").arg(user).arg(words)).await?;
    let after = look(store, user).await?;
    let outcome = match before {
        None => "created",
        Some(_) if before == after => "unchanged",
        Some(_) => "changed",
    };
    let saved = match store.query::<Value>(cmd("ACL").arg("SAVE"), ANSWER_LIMIT).await {
        Ok(_) => true,
        // Without an ACL file users live in memory, or in redis.conf.
        Err(StoreError::Refused { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    let after = after.unwrap_or_default();
    let has_password = !list(&after, "passwords").is_empty();
    if list(&after, "flags").iter().any(|flag| flag == "nopass") {
        return Err(CliError::Failed(format!(
            "the rules of the user {user} are set, but it needs no password, as somebody set it up before; give it one with \
             --password-file, or ACL SETUSER {user} resetpass"
        )));
    }
    Ok(Applied { outcome, saved, has_password })
}

async fn look(store: &Store, user: &str) -> Result<Option<User>, CliError> {
    ask(store, cmd("ACL").arg("GETUSER").arg(user)).await
}

fn list(user: &User, field: &str) -> Vec<String> {
    user.get(field).cloned().and_then(|value| from_redis_value(value).ok()).unwrap_or_default()
}

async fn ask<T: FromRedisValue>(store: &Store, command: &redis::Cmd) -> Result<T, CliError> {
    store.query(command, ANSWER_LIMIT).await.map_err(|error| match error {
        StoreError::Refused { ref code, ref address, .. } if code == "NOPERM" => CliError::Failed(format!(
            "{error}\nthe login that this command uses at {address} may not set users: connect as one that may (+acl), such as \
             Redis' default user, with --redis-username and --redis-password-file"
        )),
        error => error.into(),
    })
}
