//! The oracles: what must hold in every world, computed from what the mail server saw and from the product's audit.
//!
//! - O1: never more sessions at the server than the budget, at any event.
//! - O2: every recipient of every mail that the queue took has it, or the mail is held or dead for that recipient, and
//!   dead only for a reason that befell it; the audit balances; no recipient who has a mail is told that it is dead.
//! - O3: no recipient has a mail twice, unless unknown outcomes are to be sent again; then under the same Message-ID.
//! - O4: once the faults are over everything comes to rest: all mail is settled, the ledger is open, every pod has its
//!   share and nothing is withheld any more.
//! - O5: no task panics.
//!
//! A store that loses what it acknowledged loses the queue with it: then O2 and O3 are not judged, and such worlds are
//! counted apart (`lost_by_store`).

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    panic,
    sync::Once,
};

use mailrelay::{lease::LedgerState, queue::POISON_FROM};

use crate::{
    broken::Broken,
    mail::{Recipient, Seen},
    observer::{Look, Parked},
    plan::Plan,
    post::Post,
    process::{Time, begin_world, end_world},
    trace::Trace,
    world::World,
};

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static IN_WORLD: RefCell<bool> = const { RefCell::new(false) };
}

/// Takes note of panics in worlds, wherever they are caught.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IN_WORLD.with_borrow(|inside| *inside) {
                PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
}

/// How a world went.
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    pub counts: BTreeMap<String, u64>,
    pub time: Time,
    pub digest: u64,
    pub trace: Trace,
    plan: Plan,
}

impl Outcome {
    /// What a person needs to find out why.
    pub fn story(&self, lines: usize) -> String {
        let mut text = format!("==== seed {}: {:?}\n{:#?}\n", self.seed, self.violations, self.plan);
        for line in self.trace.tail(lines) {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "again: make simulation SEED={}", self.seed);
        text
    }
}

/// Runs the world of a seed.
pub fn run(seed: u64, broken: Broken, print: bool) -> Outcome {
    watch_panics();
    PANICS.take();
    IN_WORLD.set(true);
    begin_world();
    let plan = Plan::new(seed, broken);
    if print {
        eprintln!("{plan:#?}");
    }
    let mut world = World::new(plan.clone(), print);
    let rested = world.run();
    let mut violations = judge(&world, rested);
    let (trace, time) = (world.trace.clone(), world.now);
    let counts = count(&world);
    // The order in which a runtime drops its tasks is not promised.
    trace.close();
    drop(world);
    end_world();
    IN_WORLD.set(false);
    violations.extend(PANICS.take().into_iter().map(|panic| format!("O5: {panic}")));
    Outcome { seed, violations, counts, time, digest: trace.digest(), trace, plan }
}

fn count(world: &World) -> BTreeMap<String, u64> {
    let mut counts = world.counts.clone();
    let mut add = |what: &str, count: u64| *counts.entry(what.to_owned()).or_default() += count;
    world.mail.seen(|seen| {
        add("sessions", seen.sessions);
        add("sessions sent away", seen.sent_away);
        add("recipients served", seen.recipients.values().map(|who| who.taken.len() as u64).sum());
        add("recipients refused", seen.recipients.values().map(|who| u64::from(who.refused)).sum());
        add("recipients put off", seen.recipients.values().map(|who| u64::from(who.deferred)).sum());
        add("worlds with all slots in use", u64::from(seen.peak == world.plan.budget));
    });
    for (what, met) in world.courier.met() {
        add(&what, met);
    }
    let inner = world.observer.inner();
    add("mails queued", inner.accepted.len() as u64);
    add("mails sent again by producers", (world.posts.len() - world.plan.arrivals.len()) as u64);
    add("mails with forged headers", world.posts.iter().filter(|post| post.forged.is_some()).count() as u64);
    if let Some(look) = &inner.look {
        add("mails held", look.audit.held);
        add("mails dead", look.audit.dead);
    }
    add("worlds", 1);
    add("lost_by_store", u64::from(world.lost_by_store));
    counts
}

fn judge(world: &World, rested: bool) -> Vec<String> {
    let mut violations = world.mail.seen(|seen| seen.violations.clone());
    if violations.is_empty() && !rested {
        violations.push(format!("O4: {}", unrest(world).unwrap_or_default()));
    }
    if world.lost_by_store {
        return violations;
    }
    let inner = world.observer.inner();
    // By its producer: sent again, or asked again after a lost answer.
    let is_repeated = |number: usize| {
        world.posts.iter().filter(|post| post.number == number).count() > 1 || inner.asked_again.contains(&number)
    };
    world.mail.seen(|seen| {
        let recipients = seen.recipients.iter().filter(|(_, who)| who.taken.len() > 1);
        violations.extend(recipients.filter_map(|(address, who)| {
            judge_repetition(world, address, who, Post::number_of(address).is_some_and(is_repeated))
        }));
    });
    if !rested {
        return violations;
    }
    let Some(look) = &inner.look else { return violations };
    if look.audit.difference != 0 {
        violations.push(format!("O2: the audit does not balance: {:?}", look.audit));
    }
    let known = |post: &&Post| post.has_id && post.recipients > 0 && inner.accepted.contains(&post.number);
    for post in world.posts.iter().filter(known) {
        let state = look.states.get(&post.id()).map_or("unknown", String::as_str);
        // One that was parked before anybody had looked into it is held without a name; its recipients are told of.
        let is_held = |address: &String| look.parked.get(address).is_some_and(|parked| parked.contains(&Parked::Held));
        if state == "unknown" && post.addresses().iter().all(is_held) {
            continue;
        }
        if !matches!(state, "delivered" | "held" | "dead" | "delayed" | "resend" | "duplicate") {
            violations.push(format!("O2: {} is {state} at the end", post.id()));
        }
    }
    world.mail.seen(|seen| {
        for number in &inner.accepted {
            let post = world.posts.iter().find(|post| post.number == *number);
            for address in post.into_iter().flat_map(Post::addresses) {
                let said = judge_recipient(world, seen, look, &address, is_repeated(*number));
                violations.extend(said.map(|said| format!("O2: {address} {said}")));
            }
        }
    });
    violations
}

/// What is wrong with a recipient whom the server took a mail for more than once.
fn judge_repetition(world: &World, address: &str, who: &Recipient, is_repeated: bool) -> Option<String> {
    if !world.plan.resend {
        return Some(format!("O3: {address} has it {} times: {:?}", who.taken.len(), who.taken));
    }
    // Of a mail that its producer sent again each may have been sent, after nobody knew of the one before.
    let ids: BTreeSet<&str> = who.taken.iter().map(|(_, id)| &**id).collect();
    (!is_repeated && ids.len() > 1).then(|| format!("O3: {address} has it under several Message-IDs: {ids:?}"))
}

/// What is wrong with a recipient of a mail that was taken in, once all is at rest.
fn judge_recipient(world: &World, seen: &Seen, look: &Look, address: &str, repeated: bool) -> Option<String> {
    let nothing = Recipient::default();
    let who = seen.recipients.get(address).unwrap_or(&nothing);
    let parked = look.parked.get(address).map_or(&[][..], Vec::as_slice);
    if who.taken.is_empty() && parked.is_empty() {
        return Some("has it not, and nobody is told".into());
    }
    let dead: Vec<&str> = parked
        .iter()
        .filter_map(|parked| if let Parked::Dead(reason) = parked { Some(&**reason) } else { None })
        .collect();
    // A repetition goes to those for whom the first is dead, and the first one's letter stays.
    if !who.taken.is_empty() && !dead.is_empty() && !repeated && !world.plan.resend {
        return Some(format!("has it, and a dead letter says {dead:?}"));
    }
    let put_off = who.deferred + seen.deferred > 0;
    let groundless = dead.into_iter().find(|reason| match *reason {
        "Poison" => world.deaths < POISON_FROM,
        "TooOld" => !world.queue_time_moved,
        "RetriesExhausted" => !put_off,
        "InvalidMail" | "PayloadMissing" | "PayloadUnreadable" | "Malformed" => true,
        _ => who.refused == 0 && !put_off,
    });
    groundless.map(|reason| format!("is told {reason}, and nothing of that kind befell it"))
}

/// Why shares are not as they should be, mail waits, or something is withheld; `None` once all is at rest.
pub fn unrest(world: &World) -> Option<String> {
    let inner = world.observer.inner();
    if inner.tried < world.posts.len() {
        return Some(format!("{} of {} mails were sent off", inner.tried, world.posts.len()));
    }
    let Some(look) = &inner.look else { return Some("nobody could look yet".into()) };
    if look.at <= world.plan.calm.max(inner.last_try) {
        return Some("the last look was long ago".into());
    }
    let audit = &look.audit;
    // When the wall clock of Redis jumps, and be it there and back, mails that wait for a retry wait for that time.
    let delayed = if world.queue_time_moved { 0 } else { audit.delayed };
    if audit.queued + delayed + audit.in_flight > 0 {
        return Some(format!("mail waits: {audit:?}"));
    }
    let Some(ledger) = look.snapshot.in_force() else { return Some("no ledger is in force".into()) };
    if ledger.state != LedgerState::Open {
        return Some("the ledger is not open".into());
    }
    let members: BTreeSet<&str> =
        world.pods.iter().filter(|pod| !pod.gone && !pod.leaving && !pod.over).map(|pod| &*pod.uid).collect();
    let entitled: BTreeSet<&str> = ledger.entitlements.keys().map(|uid| &**uid).collect();
    if entitled != members {
        return Some(format!("shares are for {entitled:?}, pods are {members:?}"));
    }
    let holders: Vec<&str> = ledger.holders.iter().map(|holder| &*holder.pod_uid).collect();
    let registered: BTreeSet<&str> = holders.iter().copied().collect();
    if registered != members || holders.len() != members.len() {
        return Some(format!("holders are {holders:?}, pods are {members:?}"));
    }
    // A server that takes less than the budget gets less, until it has proven itself.
    if let Some(effective) = look.effective {
        return (effective > world.spec.max).then(|| "more than the budget is shared out".into());
    }
    let shared: u32 = ledger.entitlements.values().sum();
    if !members.is_empty() && shared != world.spec.max {
        return Some(format!("{shared} of {} slots are shared out", world.spec.max));
    }
    if !ledger.quarantine.is_empty() {
        return Some(format!("withheld: {:?}", ledger.quarantine));
    }
    None
}
