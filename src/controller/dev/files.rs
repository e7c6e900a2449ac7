//! The files that say what there is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::check::check;

/// A file that cannot be followed as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// Its path.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// It is no YAML.
    #[error("{file} is no YAML: {reason}")]
    NoYaml {
        /// Its path.
        file: String,
        /// Where, and what is wrong there.
        reason: String,
    },
    /// An object in it would be refused.
    #[error("{file}: {object} would be refused: {}", wrong.join("; "))]
    Refused {
        /// Its path.
        file: String,
        /// Kind and name.
        object: String,
        /// What is wrong with it.
        wrong: Vec<String>,
    },
    /// The same object comes twice.
    #[error("{file}: {object} was there before; a name stands for one object")]
    Twice {
        /// Its path.
        file: String,
        /// Kind and name.
        object: String,
    },
    /// There is no relay in any of them.
    #[error("no MailRelay in {0}; see examples/corporate.yaml for one")]
    Nothing(String),
}

/// What files say: objects by collection and `namespace/name`, and how others are called that are none of our business.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Relays, mail servers and namespaces, completed with their defaults.
    pub objects: BTreeMap<(String, String), Value>,
    /// Kind and name of what is passed over.
    pub others: Vec<String>,
}

/// Reads all files; all that is said in them holds, or nothing.
pub fn read(files: &[PathBuf]) -> Result<Said, FileError> {
    let mut said = Said::default();
    for file in files {
        let text = fs::read_to_string(file)
            .map_err(|error| FileError::Unreadable { file: name(file), reason: error.to_string() })?;
        said.add(&name(file), &text)?;
    }
    let is_relay = |(collection, _): &(String, String)| collection == "mailrelays";
    if !said.objects.keys().any(is_relay) {
        return Err(FileError::Nothing(files.iter().map(|file| name(file)).collect::<Vec<_>>().join(", ")));
    }
    Ok(said)
}

fn name(file: &Path) -> String {
    file.display().to_string()
}

impl Said {
    /// Takes in what one file says.
    fn add(&mut self, file: &str, text: &str) -> Result<(), FileError> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|error| FileError::NoYaml { file: file.to_owned(), reason: error.to_string() })?;
        for object in documents.into_iter().filter(|document| !document.is_null()) {
            let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (kind, name) = (object["kind"].as_str().unwrap_or("an object without a kind").to_owned(), meta("name"));
            let title = format!("{kind} {name}");
            let (collection, namespace) = match &*kind {
                "MailRelay" => ("mailrelays", Some(meta("namespace")).filter(|of| !of.is_empty())),
                "MailServer" => ("mailservers", Some(String::new())),
                "Namespace" => ("namespaces", Some(String::new())),
                _ => {
                    self.others.push(title);
                    continue;
                }
            };
            let namespace = namespace.unwrap_or_else(|| "default".to_owned());
            let mut object = match collection {
                "namespaces" => object,
                _ => check(object).map_err(|wrong| FileError::Refused {
                    file: file.to_owned(),
                    object: title.clone(),
                    wrong,
                })?,
            };
            if collection == "mailrelays" {
                object["metadata"]["namespace"] = json!(namespace);
            }
            if self.objects.insert((collection.to_owned(), format!("{namespace}/{name}")), object).is_some() {
                return Err(FileError::Twice { file: file.to_owned(), object: title });
            }
        }
        Ok(())
    }

    /// Has all mail go to one server, without TLS and login: a sink. Fails when there are several budgets, which would be one.
    pub fn send_all_to(&mut self, host: &str, port: u16) -> Result<(), String> {
        let mut budgets = 0;
        // No TLS, no login, and whatever else belongs to them.
        let plain = |server: &mut Value| {
            server["tls"] = json!("None");
            if let Some(fields) = server.as_object_mut() {
                fields.retain(|field, _| !matches!(&**field, "tlsServerName" | "auth"));
            }
        };
        for ((collection, _), object) in &mut self.objects {
            let spec = &mut object["spec"];
            match &**collection {
                "mailrelays" => {
                    let servers = spec["servers"].as_array_mut().into_iter().flatten();
                    for server in servers.filter(|server| server["host"].is_string()) {
                        budgets += 1;
                        (server["host"], server["port"]) = (json!(host), json!(port));
                        plain(server);
                    }
                }
                "mailservers" => {
                    budgets += 1;
                    spec["endpoints"] = json!([{ "host": host, "port": port }]);
                    plain(spec);
                }
                _ => {}
            }
        }
        if budgets > 1 {
            return Err(format!(
                "--to has all mail go to one server, and the files name {budgets}; leave it out, or write host and port of each into the files"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Said, FileError> {
        let mut said = Said::default();
        said.add("relay.yaml", text).map(|()| said)
    }

    const RELAY: &str = "{apiVersion: mailrelay.dev/v1alpha1, kind: MailRelay, metadata: {name: a}, spec: {servers: [{name: primary, host: mx.example.com, auth: Plain, tlsServerName: mx}]}}\n";

    #[test]
    fn objects_are_found_by_kind_and_name_and_what_is_not_ours_is_named() {
        let said = said(&format!("{RELAY}---\n{{kind: Secret, metadata: {{name: login}}}}\n---\n")).expect("sound");
        assert_eq!(said.others, ["Secret login"]);
        let keys: Vec<_> = said.objects.keys().map(|(collection, key)| format!("{collection} {key}")).collect();
        assert_eq!(keys, ["mailrelays default/a"]);
    }

    #[test]
    fn what_cannot_be_followed_is_said_with_file_object_and_field() {
        let text = said(&RELAY.replace("host: mx.example.com", "host: mx:25")).expect_err("no host").to_string();
        assert!(text.starts_with("relay.yaml: MailRelay a would be refused: "), "{text}");
        assert!(text.contains("host must be a host name"), "{text}");
        let text = said(&format!("{RELAY}---\n{RELAY}")).expect_err("twice").to_string();
        assert_eq!(text, "relay.yaml: MailRelay a was there before; a name stands for one object");
        let text = said("a: [").expect_err("no YAML").to_string();
        assert!(text.starts_with("relay.yaml is no YAML: "), "{text}");
        let text = read(&["/nowhere.yaml".into()]).expect_err("no file").to_string();
        assert!(text.starts_with("cannot read /nowhere.yaml: "), "{text}");
    }

    #[test]
    fn all_mail_goes_to_a_sink_when_there_is_one_budget() {
        let mut one = said(RELAY).expect("sound");
        one.send_all_to("127.0.0.1", 2525).expect("one budget");
        let server = &one.objects[&("mailrelays".to_owned(), "default/a".to_owned())]["spec"]["servers"][0];
        assert_eq!((&server["host"], &server["port"]), (&json!("127.0.0.1"), &json!(2525)));
        assert_eq!(server["tls"], json!("None"));
        assert!(server["auth"].is_null() && server["tlsServerName"].is_null());
        let mut two = said(&format!("{RELAY}---\n{}", RELAY.replace("name: a", "name: b"))).expect("sound");
        assert!(two.send_all_to("mx", 25).expect_err("two").contains("the files name 2"));
    }
}
