//! What is said of a relay's servers.

use std::collections::{BTreeMap, BTreeSet};

use super::verdict::{Verdict, say};
use crate::{
    api::{Reason, Unavailable, Unit},
    controller::status::facts::{Facts, troubles, unavailable},
};

/// What all of the relay's workers say of their servers.
fn all_troubles<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (&'a str, &'a Unavailable)> {
    facts.relay.workers.keys().flat_map(|uid| troubles(facts, uid))
}

pub fn server_unavailable(facts: &Facts<'_>) -> Option<Verdict> {
    let unavailable = unavailable(facts);
    let Some((_, (reason, _))) = unavailable.first_key_value() else {
        return say(false, "ServersAvailable", "no server is reported to be unavailable");
    };
    let sentences: Vec<String> =
        unavailable.iter().map(|(name, (reason, message))| format!("{name}: {reason}: {message}")).collect();
    say(true, *reason, sentences.join("; "))
}

/// The server is there and takes no mail of ours: nothing dies, one mail at a time asks again, and this says where to look.
pub fn server_refuses_us(facts: &Facts<'_>) -> Option<Verdict> {
    let refusing = || all_troubles(facts).filter_map(|(name, why)| Some((name, why, setting(&why.reason)?)));
    let (_, first, _) = refusing().next()?;
    // Workers say it in the words that each has heard: one of each server is enough.
    let mut named = BTreeMap::new();
    for (name, why, setting) in refusing() {
        named
            .entry(name)
            .or_insert_with(|| format!("{name} refuses our mail ({}): {}; look at {setting}", why.reason, why.message));
    }
    let sentences: Vec<String> = named.into_values().collect();
    say(true, first.reason.as_str(), format!("{}; no mail is lost, and one at a time asks again", sentences.join("; ")))
}

/// What to look at when a server refuses us for a reason; `None` when that reason is not about us.
fn setting(reason: &Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::RelayDenied => {
            "the server's right to relay for us: its list of networks or users that may send through it, or servers[].auth"
        }
        Reason::LoginRequired => {
            "servers[].auth and servers[].tls, and the worker's login files: the server wants a login first"
        }
        Reason::HeloRefused => "heloName of the server: it wants a full host name that the DNS knows",
        Reason::ClientRefused => {
            "the address that our connections come from: its name in the DNS, and the server's list of clients"
        }
        Reason::Blocked => {
            "the list that the server names: the address that our connections come from, or our domain, is on it"
        }
        Reason::SenderRefused => {
            "the sender of our mails: whether this login may send as it, and its domain's DNS records"
        }
        Reason::RecipientRefused | Reason::PolicyRefused => "the server's own log: its reply names no setting",
        _ => return None,
    })
}

/// Most of the last mails died: the relay asks with one at a time until a server takes one.
pub fn dead_letter_surge(facts: &Facts<'_>) -> Option<Verdict> {
    let (name, why) = all_troubles(facts).find(|(_, why)| why.reason == Reason::DeadLetterSurge)?;
    let message = format!(
        "server {name}: {}; the relay rests and asks with one mail at a time until one is taken; see `mailrelay dead list`, and \
         set retry.deadLetterGuard to false to go on all the same",
        why.message
    );
    say(true, "MostMailDies", message)
}

pub fn server_saturated(facts: &Facts<'_>) -> Option<Verdict> {
    let lowered = facts.pools.iter().find_map(|(name, pool)| Some((name, pool.effective?, pool.plan?.budget)));
    if let Some((pool, effective, budget)) = lowered {
        let message = format!(
            "the server says that there are too many connections: {effective} of the {budget} of {pool} are in use; \
             lower maxConnections or raise the server's limit"
        );
        return say(true, "ServerLimitBelowBudget", message);
    }
    let (name, trouble) = all_troubles(facts).find(|(_, trouble)| trouble.reason == Reason::TooManyConnections)?;
    say(true, "ServerLimitBelowBudget", format!("server {name}: {}", trouble.message))
}

/// Not a failure: mail waits since the server takes no more in a time.
pub fn rate_limited(facts: &Facts<'_>) -> Option<Verdict> {
    let relay = &facts.relay;
    let reports = relay.workers.keys().filter_map(|uid| facts.measured.reports.read.get(uid));
    let limited: BTreeSet<&str> = reports
        .flat_map(|report| report.servers.iter().filter(|server| server.rate_limited))
        .map(|server| &*server.name)
        .collect();
    let servers = relay.published.servers.iter().filter(|server| limited.contains(&*server.name));
    let words: Vec<String> = servers
        .map(|server| {
            let limits = server.rate_limits.iter().map(|limit| {
                let unit = if limit.unit == Unit::Message { "mails" } else { "recipients" };
                format!("{} {unit} in {}", limit.count, limit.interval)
            });
            format!("server {} takes {}", server.name, limits.collect::<Vec<_>>().join(" and "))
        })
        .collect();
    (!words.is_empty()).then_some(())?;
    say(true, "MailWaits", format!("mail waits for rateLimits: {}", words.join("; ")))
}
