//! What a relay under test is made of: the objects of the examples, with a mail server of the test's own.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mailsink::{Behaviour, Login, Sink, SinkConfig};
use serde_json::{Value, json};

use crate::{
    command::{repository, succeed},
    server::{Server, Side, Terms},
};

/// Name of the `MailRelay`, as in the examples.
pub(crate) const RELAY: &str = "corporate";
/// Name of the Deployment, as in the examples.
pub(crate) const DEPLOYMENT: &str = "web";
/// Password for the mail server; it must never show up anywhere.
pub(crate) const SMTP_PASSWORD: &str = "canary-smtp-password";
const SMTP_USER: &str = "relay@example.com";

/// What to set up.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Name of the namespace and, unless other fields say so, part of the names of pool and queue.
    pub name: String,
    /// Name of the queue.
    pub queue: String,
    /// Name of the pool.
    pub budget_name: String,
    /// Connections that the server takes, all of which are in the budget.
    pub budget: u32,
    /// Worker pods at the start.
    pub replicas: u32,
    /// Image of the workers.
    pub image: String,
    /// What its mail server is.
    pub side: Side,
    /// How the sink behaves at the start.
    pub behaviour: Behaviour,
    /// What a server that is not the sink takes for each mail, where it is not its own kind that decides.
    pub pause: Duration,
    /// The time-out of a server that is not the sink.
    pub timeout: Duration,
    /// Its sessions come and go so fast that all of them are never seen open at once.
    pub hectic: bool,
    /// Host names by which pods know the server, beside its address.
    pub aliases: Vec<String>,
    /// Whether the server wants STARTTLS and a login.
    pub secure: bool,
    /// More fields of the sink's own server in the spec, as a JSON object.
    pub server: Value,
    /// More fields of the spec, as a JSON object.
    pub spec: Value,
    /// Servers beside the sink's own.
    pub more_servers: Vec<Value>,
    /// It has no server of its own, but borrows.
    pub borrowed: Option<Borrowed>,
}

/// A `MailServer`, and the server that it is.
#[derive(Clone)]
pub struct Borrowed {
    /// Its name.
    pub name: String,
    /// What it is.
    pub server: Arc<Server>,
}

impl fmt::Debug for Borrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl RelayOptions {
    /// A relay with one sink of 16 connections and a queue and a pool of its own.
    pub fn new(name: &str, replicas: u32) -> Self {
        Self {
            name: name.into(),
            queue: format!("mail_{name}"),
            budget_name: format!("{name}.test"),
            budget: 16,
            replicas,
            image: "localhost/mailrelay:dev".into(),
            side: Side::Sink,
            behaviour: Behaviour::default(),
            pause: Duration::from_millis(400),
            timeout: Duration::from_secs(300),
            hectic: false,
            aliases: Vec::new(),
            secure: false,
            server: json!({}),
            spec: json!({}),
            more_servers: Vec::new(),
            borrowed: None,
        }
    }

    pub(crate) fn dead_letters(&self) -> String {
        if self.queue == "mail_queue" { "mail_dead_letter_queue".into() } else { format!("{}_dead", self.queue) }
    }

    pub(crate) async fn start(&self, address: IpAddr) -> Result<Arc<Server>> {
        if let Some(Borrowed { server, .. }) = &self.borrowed {
            return Ok(Arc::clone(server));
        }
        let budget = usize::try_from(self.budget)?;
        let server = match self.side {
            Side::Sink => self.sink(address).await.map(Server::Sink),
            side => side.start(address, Terms { budget, pause: self.pause, timeout: self.timeout }).await,
        };
        server.map(Arc::new)
    }

    async fn sink(&self, address: IpAddr) -> Result<Sink> {
        let login = Login { username: SMTP_USER.into(), password: SMTP_PASSWORD.into() };
        let config = SinkConfig {
            smtp: (address, 0).into(),
            behaviour: self.behaviour.clone(),
            limit: usize::try_from(self.budget)?,
            tls: self.secure,
            names: vec![address.to_string()],
            login: self.secure.then_some(login),
            ..SinkConfig::default()
        };
        Sink::start(config).await.context("cannot start the sink")
    }

    /// The `MailRelay`.
    pub(crate) fn relay(&self, address: IpAddr, server: &Server) -> Value {
        let port = server.smtp().port();
        let mut server = json!({
            "name": "primary",
            "host": address.to_string(),
            "port": port,
            "budgetName": self.budget_name,
            "tls": if self.secure { "StartTLS" } else { "None" },
            "maxConnections": self.budget,
        });
        if self.secure {
            server["auth"] = json!("Plain");
        }
        add(&mut server, &self.server);
        if let Some(Borrowed { name, .. }) = &self.borrowed {
            server = json!({"name": "primary", "serverRef": {"name": name}});
        }
        let mut servers = vec![server];
        servers.extend(self.more_servers.clone());
        let mut spec =
            json!({"servers": servers, "queue": {"name": self.queue, "deadLetterName": self.dead_letters()}});
        add(&mut spec, &self.spec);
        json!({
            "apiVersion": "mailrelay.dev/v1alpha1",
            "kind": "MailRelay",
            "metadata": {"name": RELAY, "namespace": self.name},
            "spec": spec,
        })
    }

    /// The Secret and the Deployment of the examples, in this relay's namespace and with an application at hand.
    pub(crate) async fn workload(&self, address: IpAddr, server: &Server) -> Result<Value> {
        let example = repository().join("examples/deployment.yaml");
        let arguments = ["create", "--dry-run=client", "-o", "json", "-f", &example.to_string_lossy()];
        let text = succeed("kubectl", &arguments, "").await?;
        let mut objects: Vec<Value> = serde_json::Deserializer::from_str(&text)
            .into_iter()
            .collect::<Result<_, _>>()
            .context("examples/deployment.yaml is not what kubectl understands")?;
        for object in &mut objects {
            object["metadata"]["namespace"] = json!(self.name);
            if object["kind"] == "Deployment" {
                object["spec"]["replicas"] = json!(self.replicas);
                object["spec"]["template"]["spec"]["initContainers"][0]["image"] = json!(self.image);
                if !self.aliases.is_empty() {
                    let aliases = json!([{"ip": address.to_string(), "hostnames": self.aliases}]);
                    object["spec"]["template"]["spec"]["hostAliases"] = aliases;
                }
                object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("localhost/pause:dev");
            } else {
                let mut data = json!({"username": SMTP_USER, "password": SMTP_PASSWORD});
                if let Some(certificate) = server.certificate() {
                    data["ca.crt"] = json!(certificate);
                }
                object["stringData"] = data;
            }
        }
        Ok(json!({"apiVersion": "v1", "kind": "List", "items": objects}))
    }
}

/// Adds the fields of one JSON object to another; those that are there already are replaced.
fn add(object: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
}
