//! Two namespaces that borrow the connections of one `MailServer`, three to one.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use mailrelay::lease::HolderView;
use mailsink::{Behaviour, Sink, SinkConfig, Stats};
use serde_json::json;

use crate::{
    Relay, RelayOptions, Stage,
    command::{apply, kubectl},
    options::Borrowed,
    server::Server,
    wait::{Look, until},
};

/// Connections that the server takes.
pub const BUDGET: u32 = 16;

/// Two relays with a pod each, in namespaces of their own.
pub struct Tenants<'a> {
    /// The name of the `MailServer`.
    pub name: String,
    /// The one that has three parts of four.
    pub heavy: Relay<'a>,
    /// The other one.
    pub light: Relay<'a>,
}

impl<'a> Tenants<'a> {
    /// Starts a sink, makes it a `MailServer` of this name, and raises the relays in the namespaces `NAME-a` and `NAME-b`.
    pub async fn raise(stage: &'a Stage, name: &str, behaviour: Behaviour) -> Result<Tenants<'a>> {
        let limit = usize::try_from(BUDGET)?;
        let sink = SinkConfig { smtp: (stage.address, 0).into(), limit, behaviour, ..SinkConfig::default() };
        let server = Arc::new(Server::Sink(Sink::start(sink).await?));
        let namespaces = [format!("{name}-a"), format!("{name}-b")];
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailServer", "metadata": {"name": name},
            "spec": {
                "endpoints": [{"host": stage.address.to_string(), "port": server.smtp().port()}],
                "tls": "None",
                "maxConnections": BUDGET,
                "sharing": {"policy": "Weighted", "weights": {&namespaces[0]: 3, &namespaces[1]: 1}},
                "allowedNamespaces": {"matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces},
                ]},
            },
        });
        apply(&object).await?;
        let options = |namespace: &str| RelayOptions {
            budget: BUDGET,
            budget_name: format!("mailserver:{name}"),
            borrowed: Some(Borrowed { name: name.to_owned(), server: Arc::clone(&server) }),
            ..RelayOptions::new(namespace, 1)
        };
        let (heavy, light) = tokio::try_join!(
            Relay::raise(stage, options(&namespaces[0])),
            Relay::raise(stage, options(&namespaces[1])),
        )?;
        Ok(Self { name: name.to_owned(), heavy, light })
    }

    /// The connections that the ledger counts for the pods of each.
    pub async fn parts(&self) -> Result<(u32, u32)> {
        let ledger = self.heavy.ledger().await?;
        let of = |relay: &Relay<'_>| {
            let prefix = format!("{}/", relay.namespace);
            let own = |holder: &&HolderView| holder.pod.starts_with(&prefix);
            ledger.holders.iter().filter(own).map(|holder| holder.claim).sum()
        };
        Ok((of(&self.heavy), of(&self.light)))
    }

    /// Waits until each holds so many; returns how long that took.
    pub async fn await_parts(&self, wanted: (u32, u32), limit: Duration) -> Result<Duration> {
        let ((), took) = until(&format!("parts {wanted:?}"), limit, async || {
            let parts = self.parts().await?;
            Ok(Look::when(parts == wanted, (), || format!("{parts:?}")))
        })
        .await?;
        Ok(took)
    }

    /// What must hold at the end, for the batches of each.
    pub async fn check(&self, heavy: (&str, usize), light: (&str, usize)) -> Result<Stats> {
        self.heavy.check(&[heavy]).await?;
        let stats = self.light.check(&[light]).await?;
        ensure!(stats.unique_message_ids == heavy.1 + light.1, "mail is missing: {stats:?}");
        Ok(stats)
    }

    /// Takes all of it away.
    pub async fn lower(self) -> Result<()> {
        self.heavy.lower().await?;
        self.light.lower().await?;
        kubectl(&["delete", "mailserver", &self.name]).await.map(drop)
    }
}
