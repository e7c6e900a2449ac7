//! What a mail's JSON says, read as simply as can be: the tests' own reading of it, apart from the product's.

/// Whom a producer's bytes are for; nobody when they are no mail.
pub fn recipients(payload: &[u8]) -> Vec<String> {
    let mail: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    mail["to"].as_array().into_iter().flatten().filter_map(|to| to.as_str().map(str::to_owned)).collect()
}
