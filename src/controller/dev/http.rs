//! Requests to an API server and its answers, in their HTTP form.

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use serde_json::{Value, json};

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `pods`, `leases`, ...
    pub collection: String,
    /// `namespace/name`; without a name for one that is created, none for a list of all namespaces.
    pub key: Option<String>,
    /// Whether it is about the status alone.
    pub status: bool,
}

impl Target {
    /// What the path of a request names; none when there is no such thing here.
    pub fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match *parts.first()? {
            "api" => parts.get(2..)?,
            "apis" => parts.get(3..)?,
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let (collection, name, status) = match rest {
            [collection] => (*collection, None, false),
            [collection, name] => (*collection, Some(*name), false),
            [collection, name, "status"] => (*collection, Some(*name), true),
            _ => return None,
        };
        let key = name.map(|name| format!("{namespace}/{name}"));
        // A namespace without a name is where something is created.
        let key = key.or_else(|| (!namespace.is_empty()).then(|| format!("{namespace}/")));
        Some(Self { collection: collection.to_owned(), key, status })
    }
}

/// The part of a URI behind the question mark.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a>(pub &'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
    }

    /// A parameter that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The version whose changes are asked for; none when it is no watch.
    pub fn watched_from(&self) -> Option<u64> {
        self.get("watch").filter(|watch| *watch != "false")?;
        Some(self.number("resourceVersion").unwrap_or(0))
    }

    /// The label that must be there, which is all that the controller asks for.
    pub fn label(&self) -> Option<String> {
        Some(self.get("labelSelector")?.replace("%2F", "/").replace("%2f", "/"))
    }
}

/// An object as an answer.
pub fn ok(object: &Value) -> Response<Body> {
    Response::new(Body::from(object.to_string()))
}

fn status(code: StatusCode, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    })
}

/// A refusal as an API server words it.
pub fn failure(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let mut response = ok(&status(code, reason, message));
    *response.status_mut() = code;
    response
}

/// What a watch gets that begins too far back.
pub fn expired() -> Response<Body> {
    let gone = json!({ "type": "ERROR", "object": status(StatusCode::GONE, "Expired", "too old") });
    Response::new(Body::from(format!("{gone}\n")))
}
