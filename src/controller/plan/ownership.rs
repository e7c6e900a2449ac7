//! Whose queues, payloads and budgets are whose.
//!
//! Whoever owns something keeps it until it asks for it no more, by its own edit or deletion: no edit of another relay, however
//! old that is, takes a queue or a budget from one that works with it. Age decides only among those that ask for something
//! that nobody owns. So who owns what is written down where it outlives Redis and the leader (`Marking`).
//!
//! What is owned is a key in Redis or a server, not a word: two words that mean one key are one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt;

use super::{
    candidates::Candidate,
    lenders::{Lenders, pools_of},
    relay::{RelayKey, Stall, StallReason},
};
use crate::api::{MailRelay, Server, is_by_account, server_of};

/// Who owns what, as it is written down: UIDs of relays, the first owner first, by what they own in words.
pub type Owned = BTreeMap<String, Vec<String>>;

/// What was written down, and the relays of which nobody can say what they ask for now.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    /// Who owns what.
    pub owned: Arc<Owned>,
    /// Relays whose spec cannot be read, by their UIDs: they keep what they own.
    pub unreadable: BTreeMap<String, RelayKey>,
}

/// What can be owned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    /// A list in Redis, with all that belongs to a queue of that name: one owner.
    List(String),
    /// The keys with this prefix.
    Payloads(String),
    /// A budget: those who share it.
    Budget(String),
    /// That the connections of a server, by its address, are counted in a budget.
    Server { address: String, budget: String },
}

impl Thing {
    /// All that a relay asks for.
    fn of(candidate: &Candidate) -> BTreeSet<Self> {
        let queue = &candidate.relay.spec.queue;
        let lists = [&queue.name, &queue.dead_letter_name].map(|list| Self::List(list.to_string()));
        let servers = &candidate.resolved.servers;
        let budgets = pools_of(servers).into_iter().map(Self::Budget);
        let servers = servers.iter().map(|server| Self::Server { address: server.address(), budget: server.pool() });
        let payloads = Self::Payloads(queue.payload_prefix.to_string());
        lists.into_iter().chain([payloads]).chain(budgets).chain(servers).collect()
    }

    /// As it is written down.
    fn word(&self) -> String {
        match self {
            Self::List(list) => format!("list {list}"),
            Self::Payloads(prefix) => format!("payloads {prefix}"),
            Self::Budget(budget) => format!("budget {budget}"),
            Self::Server { address, budget } => format!("server {address} {budget}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    uid: String,
    key: RelayKey,
}

impl Owner {
    fn of(relay: &MailRelay) -> Self {
        Self { uid: relay.uid().unwrap_or_default(), key: RelayKey::of(relay) }
    }
}

/// Who owns what while a plan is made.
#[derive(Default)]
pub struct Owners {
    /// The first owner first.
    by_thing: BTreeMap<Thing, Vec<Owner>>,
    /// The working relays that name each budget.
    working: BTreeMap<String, Vec<RelayKey>>,
}

impl Owners {
    /// What was owned and is still asked for. `relays` are those that are not being deleted.
    pub fn keep(ownership: &Ownership, relays: &[&Candidate]) -> Self {
        let asking = |candidate: &Candidate| {
            let owner = Owner::of(&candidate.relay);
            let things: BTreeMap<String, Thing> =
                Thing::of(candidate).into_iter().map(|thing| (thing.word(), thing)).collect();
            (owner.uid.clone(), (owner, things))
        };
        let asking: BTreeMap<String, _> = relays.iter().map(|candidate| asking(candidate)).collect();
        let mut kept = Self::default();
        for (word, uids) in &*ownership.owned {
            for uid in uids {
                let known =
                    asking.get(uid).and_then(|(owner, things)| Some((things.get(word)?.clone(), owner.clone())));
                let unread = || {
                    let key = ownership.unreadable.get(uid)?.clone();
                    Some((parse(word)?, Owner { uid: uid.clone(), key }))
                };
                if let Some((thing, owner)) = known.or_else(unread) {
                    kept.by_thing.entry(thing).or_default().push(owner);
                }
            }
        }
        kept
    }

    /// Why a relay must not work beside those that own something.
    pub fn conflict(&self, candidate: &Candidate, lenders: &Lenders) -> Option<Stall> {
        let relay = &candidate.relay;
        let Owner { uid, key } = Owner::of(relay);
        let stall = self.list_conflict(&uid, relay).or_else(|| self.payload_conflict(&uid, relay));
        let servers = &candidate.resolved.servers;
        let twice = |server: &Server| {
            let is_second = |other: &&Server| other.address() == server.address() && are_two(&other.pool(), server);
            let other = servers.iter().find(is_second)?;
            Some(duplicate(server, &other.pool(), &format!("its server {}", other.name), true))
        };
        let stall = stall.or_else(|| servers.iter().find_map(twice));
        let stall = stall.or_else(|| servers.iter().find_map(|server| self.platforms(&uid, server, lenders)));
        let second = |server: &Server| self.second_budget(&uid, &key, server);
        let stall = stall.or_else(|| servers.iter().find_map(second));
        stall.or_else(|| servers.iter().find_map(|server| self.foreign_budget(&uid, &key, server)))
    }

    fn list_conflict(&self, uid: &str, relay: &MailRelay) -> Option<Stall> {
        let queue = &relay.spec.queue;
        let lists = [("name", queue.name.to_string()), ("deadLetterName", queue.dead_letter_name.to_string())];
        lists.into_iter().find_map(|(field, list)| {
            let owner = self.by_thing.get(&Thing::List(list.clone()))?.first().filter(|owner| owner.uid != uid)?;
            let owner = &owner.key;
            let message =
                format!("the Redis list {list} belongs to the relay {owner}; choose another spec.queue.{field}");
            Some(Stall { reason: StallReason::QueueConflict, message })
        })
    }

    /// A payload is found by prefix and id, and removed when its mail is settled: no id may lead to another relay's list.
    fn payload_conflict(&self, uid: &str, relay: &MailRelay) -> Option<Stall> {
        let queue = &relay.spec.queue;
        let (own, lists) =
            (queue.payload_prefix.to_string(), [queue.name.to_string(), queue.dead_letter_name.to_string()]);
        let other = |owners: &[Owner]| owners.first().filter(|owner| owner.uid != uid).map(|owner| owner.key.clone());
        let theirs = self.by_thing.range(Thing::List(own.clone())..).map_while(|(thing, owners)| match thing {
            Thing::List(list) if list.starts_with(&own) => Some((list, owners)),
            _ => None,
        });
        let taken = theirs.filter_map(|(list, owners)| {
            let owner = other(owners)?;
            Some(format!(
                "the Redis list {list} of the relay {owner} begins with {own}, so that an id could name it; choose another \
                 spec.queue.payloadPrefix"
            ))
        });
        let prefixes = self.by_thing.range(Thing::Payloads(String::new())..).map_while(|(thing, owners)| match thing {
            Thing::Payloads(prefix) => Some((prefix, owners)),
            _ => None,
        });
        let covered = prefixes.filter_map(|(prefix, owners)| {
            let list = lists.iter().find(|list| list.starts_with(prefix.as_str()))?;
            let owner = other(owners)?;
            Some(format!(
                "the Redis list {list} begins with {prefix}, as payloads of the relay {owner} do; choose another name in spec.queue"
            ))
        });
        taken.chain(covered).next().map(|message| Stall { reason: StallReason::QueueConflict, message })
    }

    /// Whoever begins to use a server that a `MailServer` counts has to borrow it.
    fn platforms(&self, uid: &str, server: &Server, lenders: &Lenders) -> Option<Stall> {
        let (address, budget) = (server.address(), server.pool());
        let platform = lenders.counting(&address).filter(|_| server_of(&budget).is_none())?;
        let owners = self.by_thing.get(&Thing::Server { address: address.clone(), budget });
        if owners.into_iter().flatten().any(|owner| owner.uid == uid) {
            return None;
        }
        Some(duplicate_of_platforms(server, platform))
    }

    /// Two budgets for one mail server would let twice as many connections be open.
    fn second_budget(&self, uid: &str, key: &RelayKey, server: &Server) -> Option<Stall> {
        let address = server.address();
        let (budget, owner) =
            self.budgets_of(&address).find(|(budget, owner)| are_two(budget, server) && owner.uid != uid)?;
        let may_share = owner.key.namespace == key.namespace;
        Some(duplicate(server, budget, &format!("the relay {}", owner.key), may_share))
    }

    /// A tenant must not use up or lower another one's budget.
    fn foreign_budget(&self, uid: &str, key: &RelayKey, server: &Server) -> Option<Stall> {
        let pool = server.pool();
        let owner = self.by_thing.get(&Thing::Budget(pool.clone()))?.first()?;
        if server_of(&pool).is_some() || owner.uid == uid || owner.key.namespace == key.namespace {
            return None;
        }
        // Another name for the budget of the same server would be a second budget for it.
        let remedy = if self.budgets_of(&server.address()).next().is_some() {
            "name another mail server"
        } else {
            "set another spec.servers[].budgetName, since it is another mail server"
        };
        Some(Stall {
            reason: StallReason::BudgetConflict,
            message: format!(
                "the budget {pool} of server {} belongs to the relay {} of another namespace; let the platform make a \
                 MailServer of it that both name in serverRef, or {remedy}",
                server.name, owner.key
            ),
        })
    }

    /// The budgets that count the connections of a server, each with its first owner.
    fn budgets_of<'a>(&'a self, of: &'a str) -> impl Iterator<Item = (&'a String, &'a Owner)> {
        let first = Thing::Server { address: of.to_owned(), budget: String::new() };
        self.by_thing.range(first..).map_while(move |(thing, owners)| match thing {
            Thing::Server { address, budget } if address == of => Some((budget, owners.first()?)),
            _ => None,
        })
    }

    /// A relay works: what it asks for is its own from now on.
    pub fn add(&mut self, candidate: &Candidate) {
        let owner = Owner::of(&candidate.relay);
        for budget in pools_of(&candidate.resolved.servers) {
            self.working.entry(budget).or_default().push(owner.key.clone());
        }
        for thing in Thing::of(candidate) {
            let owners = self.by_thing.entry(thing).or_default();
            if !owners.contains(&owner) {
                owners.push(owner.clone());
            }
        }
    }

    /// The working relays that draw on a budget.
    pub fn working(&self, budget: &str) -> &[RelayKey] {
        self.working.get(budget).map_or(&[], Vec::as_slice)
    }

    /// Who owns what, to be written down.
    pub fn owned(&self) -> Owned {
        let uids = |owners: &[Owner]| owners.iter().map(|owner| owner.uid.clone()).collect();
        self.by_thing.iter().map(|(thing, owners)| (thing.word(), uids(owners))).collect()
    }
}

/// What a word stands for that was written down.
fn parse(word: &str) -> Option<Thing> {
    let (kind, rest) = word.split_once(' ')?;
    Some(match kind {
        "list" => Thing::List(rest.to_owned()),
        "payloads" => Thing::Payloads(rest.to_owned()),
        "budget" => Thing::Budget(rest.to_owned()),
        "server" => {
            let (address, budget) = rest.split_once(' ')?;
            Thing::Server { address: address.to_owned(), budget: budget.to_owned() }
        }
        _ => return None,
    })
}

/// Whether a budget is another one than the server's, for connections that the mail server counts together.
fn are_two(budget: &str, server: &Server) -> bool {
    let own = server.pool();
    *budget != own && !(is_by_account(budget) && is_by_account(&own))
}

/// One mail server, one budget: the stall of a `server` whose address draws on `pool` already, by `owner`.
fn duplicate(server: &Server, pool: &str, owner: &str, may_share: bool) -> Stall {
    let (address, name, own) = (server.address(), &server.name, server.pool());
    let remedy = match (server_of(&own), server_of(pool)) {
        (None, Some(platform)) => return duplicate_of_platforms(server, platform),
        (Some(_), Some(platform)) => {
            format!("name the MailServer {platform} here, or let the platform take the address out of one of the two")
        }
        (Some(platform), None) => {
            format!("let {owner} name the MailServer {platform} in serverRef too, or name another mail server")
        }
        (None, None) if may_share => format!("set budgetName {pool} here, or name another mail server"),
        (None, None) => "let the platform make a MailServer of it that both name in serverRef, or name another mail \
                         server"
            .to_owned(),
    };
    Stall {
        reason: StallReason::DuplicateBudget,
        message: format!(
            "server {name} is {address}, whose connections are the budget {pool} of {owner}; with a budget {own} of its own \
             the server would get the connections of both: {remedy}"
        ),
    }
}

/// The same where a `MailServer` counts them.
fn duplicate_of_platforms(server: &Server, platform: &str) -> Stall {
    let (address, name) = (server.address(), &server.name);
    Stall {
        reason: StallReason::DuplicateBudget,
        message: format!(
            "server {name} is {address}, whose connections the MailServer {platform} counts; with a budget of its own the \
             server would get the connections of both: name it here by serverRef {{name: {platform}}} instead of a host, or name \
             another mail server"
        ),
    }
}
