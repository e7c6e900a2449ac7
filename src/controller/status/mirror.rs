//! The ledgers as the relays' statuses show them, pure: written by the leader, read back by the next one (lease R8).
//!
//! The status is their place, since it lies outside Redis, is written at a bounded rate anyway, and tells people who holds
//! what. Relays that share a budget all show it; a reader takes what they say together.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::Value;

use super::slots::{count, int};
use crate::{
    api::{HolderStatus, LeaseStatus, QuarantineStatus},
    lease::{Incarnation, Mirror, MirroredHolder, MirroredQuarantine, QuarantineView},
};

/// How many holders, and how many quarantines, are listed of one budget.
const LISTED: usize = 64;
/// By how much the expected end of a quarantine may move before it is shown anew.
const STEADY: Duration = Duration::from_secs(2);

/// What the status shows of a budget. `names` are names of pods by their UIDs; the times of `old` stay while they hold.
pub fn show(
    budget: &str,
    mirror: &Mirror,
    names: &BTreeMap<String, String>,
    old: Option<&LeaseStatus>,
    now: Timestamp,
) -> LeaseStatus {
    let mut holders: Vec<&MirroredHolder> = mirror.holders.iter().collect();
    holders.sort_by_key(|holder| (std::cmp::Reverse(holder.slots()), &holder.pod_uid, inc(holder)));
    let (listed, rest) = holders.split_at(holders.len().min(LISTED));
    let omitted = rest.iter().fold(mirror.unlisted, |sum, holder| sum.saturating_add(holder.slots()));
    let mut listed: Vec<HolderStatus> = listed.iter().map(|holder| holder_status(holder, names)).collect();
    // Sizes move, names stay: so people find a pod where it was.
    listed.sort_by(|a, b| (&a.pod, &a.pod_uid, &a.incarnation).cmp(&(&b.pod, &b.pod_uid, &b.incarnation)));
    let quarantine = folded(&mirror.quarantine);
    LeaseStatus {
        budget_name: budget.to_owned(),
        holders: listed,
        slots_omitted: (omitted > 0).then(|| int(omitted)),
        quarantine: quarantine.iter().map(|withheld| quarantine_status(withheld, names, old, now)).collect(),
        servers: mirror.servers.iter().cloned().collect(),
    }
}

/// Whether something that begins with a namespace and a slash, as a pod's full name does, is of this one.
pub fn is_of(name: &str, namespace: &str) -> bool {
    name.split_once('/').is_some_and(|(of, _)| of == namespace)
}

/// What of a pool that many namespaces share is one's own: the others' pods are nothing that its people should see. All that is
/// left out is shown by the others, and all of it by the `MailServer`.
pub fn of_namespace(mirror: &Mirror, namespace: &str, names: &BTreeMap<String, String>) -> Mirror {
    let is_own = |pod: &str| is_of(pod, namespace);
    let is_own_holder = |holder: &&MirroredHolder| match &holder.incarnation {
        Some(incarnation) => is_own(&incarnation.pod),
        None => names.contains_key(&holder.pod_uid),
    };
    let is_own_entry = |withheld: &&MirroredQuarantine| match &withheld.pod {
        Some(pod) => is_own(pod),
        None => uid_of(&withheld.entry).is_some_and(|uid| names.contains_key(uid)),
    };
    let is_own_word = |word: &&String| word.strip_prefix("relay:").is_none_or(is_own);
    Mirror {
        holders: mirror.holders.iter().filter(is_own_holder).cloned().collect(),
        unlisted: 0,
        quarantine: mirror.quarantine.iter().filter(is_own_entry).cloned().collect(),
        servers: mirror.servers.iter().filter(is_own_word).cloned().collect(),
    }
}

/// What is withheld for a pod that never registered is named by its UID.
fn uid_of(entry: &QuarantineView) -> Option<&str> {
    entry.id.split('.').next()
}

fn inc(holder: &MirroredHolder) -> Option<&str> {
    holder.incarnation.as_ref().map(|incarnation| &*incarnation.inc)
}

fn holder_status(holder: &MirroredHolder, names: &BTreeMap<String, String>) -> HolderStatus {
    let MirroredHolder { pod_uid, share, incarnation } = holder.clone();
    let Some(Incarnation { inc, pod, process, boot_id, claim }) = incarnation else {
        let pod = names.get(&pod_uid).cloned().unwrap_or_default();
        return HolderStatus { pod, pod_uid, share: int(share), ..HolderStatus::default() };
    };
    HolderStatus {
        pod,
        pod_uid,
        share: int(share),
        claim: int(claim),
        incarnation: Some(inc),
        process: Some(process),
        boot_id: Some(boot_id),
    }
}

/// Those that there is no room for become one, as large as all of them and as long as the longest.
fn folded(quarantine: &[MirroredQuarantine]) -> Vec<MirroredQuarantine> {
    if quarantine.len() <= LISTED {
        return quarantine.to_vec();
    }
    let (listed, rest) = quarantine.split_at(LISTED - 1);
    let entry = QuarantineView {
        id: format!("rest.{}", rest[0].entry.id),
        slots: rest.iter().fold(0, |sum, withheld| sum.saturating_add(withheld.entry.slots)),
        seconds: rest.iter().map(|withheld| withheld.entry.seconds).max().unwrap_or_default(),
        why: "several".into(),
    };
    let left = rest.iter().map(|withheld| withheld.left).max().unwrap_or_default();
    listed.iter().cloned().chain([MirroredQuarantine { entry, pod: None, left }]).collect()
}

fn quarantine_status(
    withheld: &MirroredQuarantine,
    names: &BTreeMap<String, String>,
    old: Option<&LeaseStatus>,
    now: Timestamp,
) -> QuarantineStatus {
    let MirroredQuarantine { entry, pod, left } = withheld.clone();
    let pod = pod.or_else(|| names.get(uid_of(&entry)?).cloned());
    let end = now.checked_add(left).unwrap_or(now);
    let shown = old.into_iter().flat_map(|old| &old.quarantine).find(|shown| shown.id == entry.id);
    let holds = |shown: &&QuarantineStatus| shown.until.0.duration_since(end).unsigned_abs() <= STEADY;
    let until = shown.filter(holds).map_or_else(|| Time(whole_seconds(end)), |shown| shown.until.clone());
    QuarantineStatus {
        id: entry.id,
        pod,
        slots: int(entry.slots),
        why: entry.why,
        seconds: i64::try_from(entry.seconds).unwrap_or(i64::MAX),
        until,
    }
}

/// As Kubernetes writes times, rounded up.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second() + 1).unwrap_or(time)
}

/// Without what moves within a share: only the larger of claim and share is ever withheld.
pub fn steady(lease: &mut LeaseStatus) {
    for holder in &mut lease.holders {
        holder.claim = holder.claim.max(holder.share);
    }
}

/// The leases in the status of a relay, given without `metadata`. What another version wrote and we cannot read is left out.
pub fn leases(relay: &Value) -> Vec<LeaseStatus> {
    let entries = relay.pointer("/status/leases").and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| LeaseStatus::deserialize(entry).ok()).collect()
}

/// What the statuses of all relays say, by budget.
pub fn read(leases: impl IntoIterator<Item = LeaseStatus>) -> BTreeMap<String, Mirror> {
    let mut mirrors: BTreeMap<String, Mirror> = BTreeMap::new();
    for lease in leases {
        let mirror = mirrors.entry(lease.budget_name.clone()).or_default();
        mirror.unlisted = mirror.unlisted.max(count(lease.slots_omitted.unwrap_or(0)));
        mirror.servers.extend(lease.servers);
        mirror.holders.extend(lease.holders.into_iter().map(holder));
        for withheld in lease.quarantine.into_iter().map(withheld) {
            match mirror.quarantine.iter_mut().find(|known| known.entry.id == withheld.entry.id) {
                Some(known) => {
                    known.entry.slots = withheld.entry.slots.max(known.entry.slots);
                    known.entry.seconds = withheld.entry.seconds.max(known.entry.seconds);
                    known.left = withheld.left.max(known.left);
                }
                None => mirror.quarantine.push(withheld),
            }
        }
    }
    mirrors
}

fn holder(status: HolderStatus) -> MirroredHolder {
    let HolderStatus { pod, pod_uid, share, claim, incarnation, process, boot_id } = status;
    let incarnation = incarnation.map(|inc| Incarnation {
        inc,
        pod,
        // Without them nothing proves its death.
        process: process.unwrap_or_default(),
        boot_id: boot_id.unwrap_or_default(),
        claim: count(claim),
    });
    MirroredHolder { pod_uid, share: count(share), incarnation }
}

fn withheld(status: QuarantineStatus) -> MirroredQuarantine {
    let QuarantineStatus { id, pod, slots, why, seconds, until: _ } = status;
    // Its time begins anew on the reader's clock.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let entry = QuarantineView { id, slots: count(slots), seconds, why };
    MirroredQuarantine { entry, pod, left: Duration::from_secs(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(uid: &str, claim: u32, share: u32) -> MirroredHolder {
        let incarnation = Incarnation {
            inc: format!("process-{uid}.1"),
            pod: format!("mail/{uid}"),
            process: format!("process-{uid}"),
            boot_id: "boot".into(),
            claim,
        };
        MirroredHolder { pod_uid: uid.into(), share, incarnation: Some(incarnation) }
    }

    fn withheld(id: &str, slots: u32, seconds: u64) -> MirroredQuarantine {
        let entry = QuarantineView { id: id.into(), slots, seconds, why: "silent".into() };
        MirroredQuarantine { entry, pod: Some("mail/a".into()), left: Duration::from_secs(seconds) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn shown(mirror: &Mirror, old: Option<&LeaseStatus>, second: i64) -> LeaseStatus {
        show("mx", mirror, &BTreeMap::from([("w".to_owned(), "mail/web".to_owned())]), old, at(second))
    }

    /// As the API server keeps it.
    fn stored(lease: &LeaseStatus) -> Vec<LeaseStatus> {
        leases(&serde_json::json!({ "spec": {}, "status": { "leases": [lease] } }))
    }

    #[test]
    fn what_one_leader_shows_the_next_one_reads() {
        let waiting = MirroredHolder { pod_uid: "w".into(), share: 3, incarnation: None };
        let mirror = Mirror {
            holders: vec![registered("a", 5, 8), registered("b", 8, 4), waiting],
            unlisted: 2,
            quarantine: vec![withheld("q", 4, 300)],
            servers: ["mx:25".to_owned(), "relay:mail/corporate/primary".to_owned()].into(),
        };
        let status = shown(&mirror, None, 1_000);
        let pods: Vec<_> = status.holders.iter().map(|h| (&*h.pod, h.claim, h.share)).collect();
        assert_eq!(pods, [("mail/a", 5, 8), ("mail/b", 8, 4), ("mail/web", 0, 3)]);
        assert_eq!(stored(&status), std::slice::from_ref(&status), "nothing is lost on the way");
        assert_eq!(read(stored(&status)), BTreeMap::from([("mx".to_owned(), mirror)]));
    }

    #[test]
    fn of_many_holders_the_largest_are_listed_and_the_slots_of_the_rest_counted() {
        let holders = (0..70).map(|n| registered(&format!("{n:02}"), if n < 64 { 2 } else { 1 }, 0)).collect();
        let quarantine = (0..70).map(|n| withheld(&format!("{n:02}"), 1, 100 + n)).collect();
        let status = shown(&Mirror { holders, quarantine, ..Mirror::default() }, None, 1_000);
        assert!(status.holders.iter().all(|holder| holder.claim == 2));
        assert_eq!((status.holders.len(), status.slots_omitted), (64, Some(6)));
        let last = status.quarantine.last().expect("quarantine");
        assert_eq!((status.quarantine.len(), last.slots, last.seconds), (64, 7, 169));
        assert_eq!(status.quarantine.iter().map(|withheld| withheld.slots).sum::<i32>(), 70);
    }

    #[test]
    fn relays_that_share_a_budget_are_read_together_and_the_larger_figure_holds() {
        let one = Mirror {
            holders: vec![registered("a", 5, 8)],
            unlisted: 1,
            quarantine: vec![withheld("q", 4, 30)],
            ..Mirror::default()
        };
        let two = Mirror {
            holders: vec![registered("b", 1, 8)],
            unlisted: 3,
            quarantine: vec![withheld("q", 2, 300)],
            ..Mirror::default()
        };
        let all = read([shown(&one, None, 1), shown(&two, None, 1)]);
        assert_eq!(all["mx"].holders.len(), 2);
        assert_eq!((all["mx"].unlisted, &*all["mx"].quarantine), (3, &[withheld("q", 4, 300)][..]));
        assert_eq!(all["mx"].quarantine[0].entry.seconds, 300);
    }

    #[test]
    fn of_a_pool_of_many_namespaces_each_shows_its_own_and_together_they_show_all() {
        let mut theirs = registered("b", 3, 3);
        theirs.incarnation.as_mut().expect("registered").pod = "other/b".into();
        let mut withheld_theirs = withheld("q2", 1, 60);
        withheld_theirs.pod = Some("other/b".into());
        let waiting = MirroredHolder { pod_uid: "w".into(), share: 3, incarnation: None };
        let all = Mirror {
            holders: vec![registered("a", 5, 8), theirs, waiting],
            unlisted: 0,
            quarantine: vec![withheld("q", 4, 30), withheld_theirs],
            servers: ["mx:25", "relay:mail/r/primary", "relay:other/r/primary"].map(str::to_owned).into(),
        };
        let names = BTreeMap::from([("w".to_owned(), "mail/web".to_owned())]);
        let (ours, others) = (of_namespace(&all, "mail", &names), of_namespace(&all, "other", &BTreeMap::new()));
        let pods = |mirror: &Mirror| mirror.holders.iter().map(|holder| holder.pod_uid.clone()).collect::<Vec<_>>();
        assert_eq!((pods(&ours), pods(&others)), (vec!["a".to_owned(), "w".to_owned()], vec!["b".to_owned()]));
        assert_eq!(ours.quarantine, [withheld("q", 4, 30)]);
        assert!(ours.servers.contains("mx:25") && !ours.servers.contains("relay:other/r/primary"));
        let shown = [&ours, &others].map(|mirror| show("mx", mirror, &names, None, at(1)));
        let read = read(shown);
        assert_eq!((read["mx"].holders.len(), read["mx"].quarantine.len(), read["mx"].servers.len()), (3, 2, 3));
    }

    #[test]
    fn an_entry_of_another_version_does_not_hide_the_others() {
        let good = shown(&Mirror { unlisted: 1, ..Mirror::default() }, None, 1);
        let status = serde_json::json!({ "status": { "leases": [{ "budgetName": 7 }, good] } });
        assert_eq!(leases(&status), [good]);
        assert_eq!(leases(&serde_json::json!({ "spec": {} })), []);
    }

    #[test]
    fn the_end_of_a_quarantine_is_shown_once_and_moves_only_when_it_is_another() {
        let mut mirror = Mirror { quarantine: vec![withheld("q", 4, 300)], ..Mirror::default() };
        let first = shown(&mirror, None, 1_000);
        assert_eq!(first.quarantine[0].until.0, at(1_301));
        mirror.quarantine[0].left = Duration::from_secs(290);
        assert_eq!(shown(&mirror, Some(&first), 1_010), first, "ten seconds later it is the same");
        mirror.quarantine[0].left = Duration::from_secs(300);
        assert_eq!(shown(&mirror, Some(&first), 1_010).quarantine[0].until.0, at(1_311), "another leader began anew");
    }

    #[test]
    fn what_is_withheld_for_a_pod_without_a_registration_is_named_by_its_uid() {
        let mut unnamed = withheld("w.token", 3, 300);
        unnamed.pod = None;
        let status = shown(&Mirror { quarantine: vec![unnamed], ..Mirror::default() }, None, 1);
        assert_eq!(status.quarantine[0].pod.as_deref(), Some("mail/web"));
    }

    #[test]
    fn claims_within_their_shares_are_not_worth_a_write_at_once() {
        let status = |claim, share| {
            let mut status =
                shown(&Mirror { holders: vec![registered("a", claim, share)], ..Mirror::default() }, None, 1);
            steady(&mut status);
            status
        };
        assert_eq!(status(3, 8), status(8, 8));
        assert_ne!(status(9, 8), status(8, 8), "a claim above its share is");
    }
}
