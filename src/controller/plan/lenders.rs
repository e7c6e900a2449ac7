//! `MailServer`s, which lend their connections, and what the servers of a relay are by that: its own, and those that it borrows. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::{
    Resource, ResourceExt,
    core::{Selector, SelectorExt},
};

use super::relay::{RelayKey, Stall, StallReason};
use crate::{
    api::{BudgetName, CountedBy, MailRelay, MailServer, Server, ServerEntry, Sharing, SharingPolicy},
    controller::observe::{GuardedServer, is_same_guarded},
};

/// The labels of the namespaces, by name.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// One `MailServer`.
#[derive(Clone, Debug)]
pub struct Lender {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The object, and whom it allows; or why it cannot be used.
    pub terms: Result<Terms, String>,
}

/// What can be borrowed, and by whom.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The object.
    pub server: Arc<MailServer>,
    /// The namespaces that may borrow; `None` for none.
    allowed: Option<Selector>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Lenders {
    servers: BTreeMap<String, Lender>,
    namespaces: Namespaces,
    /// Why nobody knows which there are.
    problem: Option<String>,
    /// Who counts the connections of an address, the oldest first. Two are a mistake that is told of.
    by_address: BTreeMap<String, Vec<String>>,
}

/// The servers of a relay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// Those that can be used, on terms that are known.
    pub servers: Vec<Server>,
    /// The entries of `spec.servers` of which that is not so, and why.
    pub lacking: BTreeMap<String, Stall>,
}

impl Lender {
    fn of(object: &GuardedServer) -> Self {
        let terms = match &object.0 {
            Err(unreadable) => Err(unreadable.error.clone()),
            Ok(server) => Terms::of(server),
        };
        Self { uid: object.uid().unwrap_or_default(), generation: object.meta().generation.unwrap_or_default(), terms }
    }
}

impl Terms {
    /// The rules of the API are asked again, for objects that were stored before one existed.
    fn of(server: &MailServer) -> Result<Self, String> {
        if let Some(objection) = server.objection() {
            return Err(objection);
        }
        let allowed = server.spec.allowed_namespaces.clone().map(Selector::try_from).transpose();
        let allowed = allowed.map_err(|error| format!("spec.allowedNamespaces: {error}"))?;
        Ok(Self { server: Arc::new(server.clone()), allowed })
    }

    /// Whether any namespace may borrow.
    pub fn allows_any(&self) -> bool {
        self.allowed.is_some()
    }

    fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        self.allowed.as_ref().is_some_and(|allowed| allowed.matches(labels))
    }
}

/// The objects as they were when they were judged last: to judge one anew is slow, and it changes rarely.
#[derive(Default)]
pub struct KnownLenders {
    known: BTreeMap<String, (Arc<GuardedServer>, Lender)>,
}

impl KnownLenders {
    /// Those that these objects are. `problem`: why they may not be all.
    pub fn among(
        &mut self,
        objects: &[Arc<GuardedServer>],
        namespaces: Namespaces,
        problem: Option<String>,
    ) -> Lenders {
        let mut before = std::mem::take(&mut self.known);
        for object in objects {
            let name = object.name_any();
            let known = before.remove(&name).filter(|(known, _)| is_same_guarded(known, object));
            let known = known.unwrap_or_else(|| (Arc::clone(object), Lender::of(object)));
            self.known.insert(name, known);
        }
        let servers = self.known.iter().map(|(name, (_, lender))| (name.clone(), lender.clone()));
        Lenders::new(servers.collect(), namespaces, problem)
    }
}

impl Lenders {
    fn new(servers: BTreeMap<String, Lender>, namespaces: Namespaces, problem: Option<String>) -> Self {
        let terms = servers.iter().filter_map(|(name, lender)| Some((name, lender.terms.as_ref().ok()?)));
        let mut by_age: Vec<(&String, &Terms)> = terms.collect();
        by_age.sort_by_key(|(name, terms)| (terms.server.metadata.creation_timestamp.clone(), *name));
        let mut by_address: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, terms) in by_age {
            for address in terms.server.spec.addresses() {
                by_address.entry(address).or_default().push(name.clone());
            }
        }
        Self { servers, namespaces, problem, by_address }
    }

    /// Those that these objects are, in these namespaces.
    #[cfg(test)]
    pub fn of(objects: &[MailServer], namespaces: Namespaces) -> Self {
        let objects = objects.iter().map(|server| Arc::new(kube::core::DeserializeGuard(Ok(server.clone()))));
        KnownLenders::default().among(&objects.collect::<Vec<_>>(), namespaces, None)
    }

    /// All of them, by name.
    pub fn all(&self) -> &BTreeMap<String, Lender> {
        &self.servers
    }

    /// The `MailServer` that counts the connections of an address.
    pub fn counting(&self, address: &str) -> Option<&str> {
        self.by_address.get(address)?.first().map(String::as_str)
    }

    /// The `MailServer`s that have an address of this one, itself among them, the oldest first.
    pub fn with_an_address_of(&self, terms: &Terms) -> Vec<&String> {
        let mut all = Vec::new();
        for name in terms.server.spec.addresses().filter_map(|address| self.by_address.get(&address)).flatten() {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }

    /// The weights of namespaces that share this server by weight.
    pub fn weights(&self, server: &str) -> Option<BTreeMap<String, u32>> {
        let Sharing { policy, weights } = &self.servers.get(server)?.terms.as_ref().ok()?.server.spec.sharing;
        let weight = |weight: &i32| u32::try_from(*weight).unwrap_or(1);
        let weights = weights.iter().map(|(namespace, of)| (namespace.clone(), weight(of)));
        (*policy == SharingPolicy::Weighted).then(|| weights.collect())
    }

    /// The servers of a relay.
    pub fn resolve(&self, relay: &MailRelay) -> Resolved {
        let key = RelayKey::of(relay);
        let mut resolved = Resolved::default();
        for entry in &relay.spec.servers {
            let servers = match entry.inline() {
                Some(server) => Ok(vec![server]),
                None => self.borrow(&key, entry),
            };
            match servers {
                Ok(servers) => resolved.servers.extend(servers),
                Err(stall) => {
                    resolved.lacking.insert(entry.name.clone(), stall);
                }
            }
        }
        resolved
    }

    fn borrow(&self, key: &RelayKey, entry: &ServerEntry) -> Result<Vec<Server>, Stall> {
        let refused = |reason, why: String| Stall { reason, message: format!("server {}: {why}", entry.name) };
        let Some(name) = entry.server_ref.as_ref().map(|named| &named.name) else {
            return Err(refused(StallReason::InvalidSpec, "it has neither serverRef nor host".into()));
        };
        let Some(lender) = self.servers.get(name) else {
            let why = match &self.problem {
                None => format!(
                    "there is no MailServer {name}; create it, or name one of `kubectl get mailservers` in \
                     spec.servers[].serverRef"
                ),
                Some(problem) => format!("the MailServer {name} cannot be looked up: {problem}"),
            };
            return Err(refused(StallReason::ServerNotFound, why));
        };
        let terms = lender.terms.as_ref().map_err(|error| {
            refused(StallReason::InvalidServer, format!("the MailServer {name} cannot be used: {error}"))
        })?;
        if !self.namespaces.get(&key.namespace).is_some_and(|labels| terms.allows(labels)) {
            let why = format!(
                "the MailServer {name} does not allow the namespace {}: its spec.allowedNamespaces must select a label \
                 of this namespace",
                key.namespace
            );
            return Err(refused(StallReason::NamespaceNotAllowed, why));
        }
        let spec = &terms.server.spec;
        Ok(spec.servers(&entry.name, &budget(name, spec.counted_by, key), entry.suspend))
    }
}

fn budget(server: &str, counted_by: CountedBy, key: &RelayKey) -> BudgetName {
    match counted_by {
        CountedBy::Server => BudgetName::of_server(server),
        CountedBy::Account => BudgetName::of_account(server, &key.namespace, &key.name),
    }
}

/// The distinct pools that servers draw on.
pub fn pools_of(servers: &[Server]) -> BTreeSet<String> {
    servers.iter().map(Server::pool).collect()
}

/// The pools that a relay may draw on by its spec alone, whatever is offered by now.
pub fn pools_named_by(relay: &MailRelay) -> BTreeSet<String> {
    let key = RelayKey::of(relay);
    let named = |entry: &ServerEntry| match (entry.inline(), &entry.server_ref) {
        (Some(server), _) => vec![server.pool()],
        (None, Some(named)) => {
            let by = |counted_by| budget(&named.name, counted_by, &key).to_string();
            vec![by(CountedBy::Server), by(CountedBy::Account)]
        }
        (None, None) => Vec::new(),
    };
    relay.spec.servers.iter().flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(name: &str, spec: &Value) -> MailServer {
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailServer",
            "metadata": { "name": name, "uid": name, "generation": 1 }, "spec": spec,
        });
        serde_json::from_value(object).expect("a server")
    }

    fn relay(servers: &Value) -> MailRelay {
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": { "name": "bulk", "namespace": "team-a" }, "spec": { "servers": servers },
        });
        serde_json::from_value(object).expect("a relay")
    }

    fn lenders(allowed: &Value) -> Lenders {
        let mut spec = json!({ "endpoints": [{ "host": "mx", "port": 25 }], "maxConnections": 12, "tls": "None" });
        if !allowed.is_null() {
            spec["allowedNamespaces"] = allowed.clone();
        }
        let labels = BTreeMap::from([("mail".to_owned(), "allowed".to_owned())]);
        Lenders::of(&[server("corporate", &spec)], BTreeMap::from([("team-a".to_owned(), labels)]))
    }

    fn lacking(lenders: &Lenders, servers: &Value) -> (&'static str, String) {
        let resolved = lenders.resolve(&relay(servers));
        assert_eq!(resolved.servers, []);
        let stall = resolved.lacking["primary"].clone();
        (stall.reason.as_str(), stall.message)
    }

    #[test]
    fn a_namespace_that_is_allowed_borrows_on_the_servers_terms() {
        let borrowed = json!([{ "name": "primary", "serverRef": { "name": "corporate" }, "suspend": true }]);
        for allowed in [json!({}), json!({ "matchLabels": { "mail": "allowed" } })] {
            let resolved = lenders(&allowed).resolve(&relay(&borrowed));
            let [server] = &resolved.servers[..] else { panic!("{resolved:?}") };
            assert_eq!((server.pool().as_str(), server.address().as_str()), ("mailserver:corporate", "mx:25"));
            assert_eq!((server.max_connections, server.suspend), (12, true));
            assert_eq!(resolved.lacking, BTreeMap::new());
        }
    }

    #[test]
    fn whoever_may_not_borrow_is_told_why_and_what_to_do() {
        let borrowed = json!([{ "name": "primary", "serverRef": { "name": "corporate" } }]);
        for allowed in [Value::Null, json!({ "matchLabels": { "mail": "no" } })] {
            let (reason, message) = lacking(&lenders(&allowed), &borrowed);
            assert_eq!(reason, "NamespaceNotAllowed");
            assert!(message.contains("team-a") && message.contains("allowedNamespaces"), "{message}");
        }
        let (reason, message) = lacking(&Lenders::default(), &borrowed);
        assert!(reason == "ServerNotFound" && message.contains("kubectl get mailservers"), "{message}");
        let bad = server("corporate", &json!({ "endpoints": [{ "host": "mx" }], "closeGrace": "1h" }));
        let (reason, message) = lacking(&Lenders::of(&[bad], Namespaces::new()), &borrowed);
        assert!(reason == "InvalidServer" && message.contains("closeGrace must be from"), "{message}");
    }

    #[test]
    fn what_a_server_lacks_is_no_other_servers_fault() {
        let servers = json!([
            { "name": "primary", "serverRef": { "name": "gone" } },
            { "name": "own", "host": "MX.other", "maxConnections": 2 },
        ]);
        let resolved = lenders(&json!({})).resolve(&relay(&servers));
        assert_eq!(resolved.servers.iter().map(|server| &*server.name).collect::<Vec<_>>(), ["own"]);
        assert_eq!(resolved.lacking["primary"].reason, StallReason::ServerNotFound);
    }

    #[test]
    fn where_the_server_counts_by_account_each_relay_has_a_budget_of_its_own() {
        let spec = json!({ "endpoints": [{ "host": "mx" }], "countedBy": "Account", "allowedNamespaces": {} });
        let namespaces = BTreeMap::from([("team-a".to_owned(), BTreeMap::new())]);
        let lenders = Lenders::of(&[server("corporate", &spec)], namespaces);
        let relay = relay(&json!([{ "name": "primary", "serverRef": { "name": "corporate" } }]));
        let pools = pools_of(&lenders.resolve(&relay).servers);
        assert_eq!(pools, BTreeSet::from(["mailserver:corporate:team-a:bulk".to_owned()]));
        assert!(pools_named_by(&relay).is_superset(&pools), "its finalizer waits for it");
    }
}
