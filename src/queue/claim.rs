//! Claiming: mails into the hands of a process, looked at before anyone sends them.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::future::try_join_all;
use tokio::time::Instant;

use super::{
    ALONE_FROM, Advance, ClaimId, Claimed, DeadLetter, Entry, Header, Mail, Priority, Queue, Stage, UnixMillis,
    bodies::LONG,
    envelope,
    mail::{id_of_invalid, is_id},
    parse,
    room::{Grant, Share},
    scripts,
    store::Orphan,
};
use crate::{store::StoreError, telemetry::log::mask_id};

/// How many bytes one claim takes before it stops: a batch of large mails must fit into a small sidecar.
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// How many mails one claim takes at most: no script may run long.
const MAX_BATCH: usize = 1_000;

/// How long a claim id whose answer was lost is asked for: longer than any socket buffer delays a command.
const ORPHAN_AGE: Duration = Duration::from_secs(120);

impl Queue {
    /// Claims up to `max` mails for a process, from `arrived` first, then by weight from high, normal and low.
    ///
    /// Each is looked at before it is handed out: what can't be parsed goes to the dead letters, expired mail and
    /// duplicates are dropped and counted, early mail is delayed. So fewer than `max` may come back, even none, while
    /// more waits. After an error or after cancelling nothing is lost: the next call finds what was taken.
    pub async fn claim(
        &self,
        process: &str,
        pod: &str,
        max: usize,
        now: UnixMillis,
    ) -> Result<Vec<Claimed>, StoreError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let max = max.min(MAX_BATCH);
        // From here on every id counts as lost until its fate is known, whatever ends this call.
        let mut pending = Pending::new(self, process, max);
        let (grant, mut share) = self.room.reserve();
        let mut entries = self.found_again(process, &mut pending, &mut share).await?;
        if entries.is_empty() {
            entries = self.take(process, pod, &pending.fresh(), now, grant, &mut share).await?;
        }
        let looked_at: Vec<Looked> =
            try_join_all(entries.into_iter().map(|(id, source, entry)| self.look_at(id, source, entry, now))).await?;
        let answers = self.admit(process, &looked_at, now).await?;
        pending.settled();
        let mut claimed = Vec::with_capacity(looked_at.len());
        for (looked, answer) in looked_at.into_iter().zip(answers) {
            match (looked.verdict, answer.as_str()) {
                (Verdict::Keep { header, mail }, "kept") => {
                    let length = looked.entry.len() + looked.fetched.as_ref().map_or(0, Vec::len);
                    let mut payload = looked.entry;
                    // In its place: a long one is not copied.
                    payload.drain(..payload.len() - Entry::decode(&payload).payload().len());
                    claimed.push(Claimed {
                        alone: header.crashes >= ALONE_FROM,
                        claim_id: looked.id,
                        header: *header,
                        mail: *mail,
                        payload,
                        fetched: looked.fetched,
                        share: Arc::new(share.split(length)),
                    });
                }
                (Verdict::Dead(letter), "dead") => tracing::warn!(
                    mail.id = &*mask_id(&letter.id),
                    reason = letter.reason,
                    field = letter.field().unwrap_or_default(),
                    "a mail can't be sent as it is and went to the dead letters"
                ),
                (_, outcome) => tracing::debug!(claim.id = looked.id.as_str(), outcome, "claim ended before sending"),
            }
        }
        Ok(claimed)
    }

    /// Gives back what earlier calls of [`Queue::claim`] took and could not hand out, since an answer was lost or they
    /// were cancelled. For a process that will not claim again soon: when it drains, or lost its share. Returns how many.
    pub async fn return_lost_claims(&self, process: &str, now: UnixMillis) -> Result<usize, StoreError> {
        let mut pending = Pending::new(self, process, 0);
        let lost = pending.old.clone();
        for orphan in lost {
            if self.requeue_claim(process, &orphan.id, now).await? == Advance::Done {
                pending.found.push(orphan.id);
            }
        }
        pending.settled();
        Ok(pending.found.len())
    }

    /// Claims whose answer was lost, as far as Redis has them.
    async fn found_again(
        &self,
        process: &str,
        pending: &mut Pending<'_>,
        share: &mut Share,
    ) -> Result<Vec<Taken>, StoreError> {
        if pending.old.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = pending.old.iter().map(|orphan| orphan.id.0.clone()).collect();
        let claims = self.names.claims(process);
        let mut taken = Vec::new();
        let mut heads = self.heads_of(&claims, &ids, 0).await?;
        // The first of them, and what fits beside it: the others are found by the next call.
        let mut fits = 0;
        heads.retain(|head| {
            let fits_in = fits == 0 || fits + head.length <= LONG;
            fits += if fits_in { head.length } else { 0 };
            fits_in
        });
        share.cut(fits);
        for head in heads {
            if let Some(entry) = self.entry(&claims, &head.field, head.length).await? {
                taken.push((ClaimId(head.field), Priority::Normal, entry));
            }
        }
        pending.found = taken.iter().map(|(id, ..)| id.clone()).collect();
        Ok(taken)
    }

    async fn take(
        &self,
        process: &str,
        pod: &str,
        ids: &[ClaimId],
        now: UnixMillis,
        grant: Grant,
        share: &mut Share,
    ) -> Result<Vec<Taken>, StoreError> {
        let first = grant.first.map_or_else(String::new, |first| format!(" {first}"));
        let (at, most) = (now.0.to_string(), format!("{}{first}", grant.most.min(BATCH_BYTES)));
        let mut arguments = vec![process.as_bytes(), pod.as_bytes(), at.as_bytes(), most.as_bytes()];
        arguments.extend(ids.iter().map(|id| id.as_str().as_bytes()));
        let keys = [self.names.claims(process), self.names.stages(process)];
        let answer: Vec<Vec<u8>> = self.run(&scripts::TAKE, &keys, &arguments).await?;
        let number = |word: &[u8]| std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or(0);
        // From here on others may claim what this one left.
        share.cut(answer.iter().skip(2).step_by(4).map(|length| number(length)).sum());
        let mut words = answer.into_iter();
        let mut taken = Vec::new();
        while let (Some(id), Some(letter), Some(length), Some(mut entry)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let id = ClaimId(String::from_utf8_lossy(&id).into_owned());
            let length = number(&length);
            if entry.len() != length {
                match self.entry(&keys[0], id.as_str(), length).await? {
                    Some(whole) => entry = whole,
                    // Resolved by somebody else meanwhile: no claim of ours any more.
                    None => continue,
                }
            }
            let source = match letter.as_slice() {
                b"h" => Priority::High,
                b"l" => Priority::Low,
                _ => Priority::Normal,
            };
            taken.push((id, source, entry));
        }
        Ok(taken)
    }

    /// Fetches what an id stands for, and decides.
    async fn look_at(
        &self,
        id: ClaimId,
        source: Priority,
        entry: Vec<u8>,
        now: UnixMillis,
    ) -> Result<Looked, StoreError> {
        let bare_id = bare_id(Entry::decode(&entry).payload());
        let fetched: Option<Vec<u8>> = match &bare_id {
            None => None,
            Some(id) => {
                match self.text(&self.names.payload(id)).await {
                    // Another type lies there: as good as gone, and no reason to stop.
                    Err(StoreError::Refused { code, .. }) if code == "WRONGTYPE" => None,
                    other => other?,
                }
            }
        };
        let named = bare_id.as_deref().map(|id| (id, self.names.payload(id)));
        let verdict =
            decide(&entry, named.as_ref().map(|(id, key)| (*id, key.as_str())), fetched.as_deref(), source, now);
        Ok(Looked { id, entry, fetched, verdict })
    }

    async fn admit(&self, process: &str, looked_at: &[Looked], now: UnixMillis) -> Result<Vec<String>, StoreError> {
        if looked_at.is_empty() {
            return Ok(Vec::new());
        }
        let mut keys = vec![self.names.claims(process), self.names.stages(process)];
        let mut arguments: Vec<Vec<u8>> = vec![now.0.to_string().into(), scripts::retention().into()];
        for looked in looked_at {
            let sealed = matches!(Entry::decode(&looked.entry), Entry::Sealed(..));
            let (action, header, due, reason, letter) = match &looked.verdict {
                Verdict::Keep { header, .. } => ("kept", Some(header), String::new(), "", Vec::new()),
                Verdict::Delay { header, due, .. } => ("delayed", Some(header), due.0.to_string(), "", Vec::new()),
                Verdict::Expired { header, .. } => ("expired", Some(header), String::new(), "Expired", Vec::new()),
                Verdict::Dead(letter) => ("dead", None, String::new(), letter.reason.as_str(), letter.encode()),
            };
            let (id, key, serial, message_id) = match (header, &looked.verdict) {
                (Some(header), _) => (&*header.id, header.key.as_deref(), &*header.serial, &*header.message_id),
                (None, Verdict::Dead(letter)) => {
                    (&*letter.id, letter.key.as_deref(), &*letter.serial, &*letter.message_id)
                }
                (None, _) => ("", None, "", ""),
            };
            let line = match header {
                Some(header) if !sealed => header.encode(looked.verdict.priority()),
                _ => Vec::new(),
            };
            let records = self.records(id, key);
            arguments.extend([
                looked.id.as_str().into(),
                action.into(),
                line,
                id.into(),
                serial.into(),
                message_id.into(),
                due.into(),
                reason.into(),
                letter,
                records.len().to_string().into(),
            ]);
            keys.extend(records);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        self.run(&scripts::ADMIT, &keys, &arguments).await
    }
}

type Taken = (ClaimId, Priority, Vec<u8>);

/// A claimed entry and what is to become of it.
struct Looked {
    id: ClaimId,
    entry: Vec<u8>,
    fetched: Option<Vec<u8>>,
    verdict: Verdict,
}

enum Verdict {
    Keep { header: Box<Header>, mail: Box<Mail> },
    Delay { header: Box<Header>, due: UnixMillis, priority: Priority },
    Expired { header: Box<Header>, priority: Priority },
    Dead(Box<DeadLetter>),
}

impl Verdict {
    fn priority(&self) -> Priority {
        match self {
            Self::Keep { mail, .. } => mail.priority,
            Self::Delay { priority, .. } | Self::Expired { priority, .. } => *priority,
            Self::Dead(_) => Priority::Normal,
        }
    }
}

/// The id, when the payload is nothing else: bare, or as a JSON string.
pub(super) fn bare_id(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?.trim();
    let id = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    is_id(id).then(|| id.to_owned())
}

/// What becomes of a claimed entry. `named` is its bare id and the key that was read, `fetched` what lay there.
fn decide(
    entry: &[u8],
    named: Option<(&str, &str)>,
    fetched: Option<&[u8]>,
    source: Priority,
    now: UnixMillis,
) -> Verdict {
    let decoded = Entry::decode(entry);
    let known = match &decoded {
        Entry::Sealed(header, _) => Some((**header).clone()),
        _ => None,
    };
    let dead = |reason: &str, problem: String, payload: &[u8]| {
        let letter =
            DeadLetter::new(known.as_ref(), envelope::priority(entry), reason, &problem, Some(Stage::Taken), now);
        let id = known.as_ref().map(|header| header.id.clone()).or_else(|| named.map(|(id, _)| id.to_owned()));
        let id = id.or_else(|| id_of_invalid(payload));
        Verdict::Dead(Box::new(letter.with_payload(payload, named.map(|(_, key)| key)).named(id)))
    };
    let payload = match (&decoded, named, fetched) {
        (Entry::Malformed(bytes), ..) => {
            return dead("MalformedEnvelope", "the header of the envelope makes no sense".into(), bytes);
        }
        (_, Some((_, key)), None) => {
            return dead("PayloadMissing", format!("payload missing: nothing lies under {key}"), decoded.payload());
        }
        (_, Some(_), Some(fetched)) => fetched,
        (_, None, _) => decoded.payload(),
    };
    let mut mail = match parse(payload) {
        Ok(mail) => mail,
        Err(error) => return dead("InvalidMail", error.to_string(), payload),
    };
    let header = known.clone().unwrap_or_else(|| Header::fix(&mail, named.map(|(id, _)| id), now));
    // The list that a raw mail lay in says more than its field; an envelope is marked.
    if known.is_some() {
        mail.priority = envelope::priority(entry);
    } else if source != Priority::Normal {
        mail.priority = source;
    }
    if let Some(remaining) = &header.remaining {
        mail.recipients.retain(|recipient| remaining.contains(recipient));
    }
    let (header, priority) = (Box::new(header), mail.priority);
    if mail.recipients.is_empty() {
        return dead("InvalidMail", "to: none of the recipients still to be sent to is in the payload".into(), payload);
    }
    if mail.expires_at.is_some_and(|expires| expires <= now) {
        return Verdict::Expired { header, priority };
    }
    match mail.not_before {
        Some(due) if due > now => Verdict::Delay { header, due, priority },
        _ => Verdict::Keep { header, mail: Box::new(mail) },
    }
}

/// Claim ids on their way. Unless it is said to be settled, dropping it leaves them to the next call.
struct Pending<'a> {
    queue: &'a Queue,
    old: Vec<Orphan>,
    fresh: Vec<Orphan>,
    found: Vec<ClaimId>,
    settled: bool,
}

impl<'a> Pending<'a> {
    fn new(queue: &'a Queue, process: &str, max: usize) -> Self {
        let since = Instant::now();
        let fresh = (0..max).map(|_| Orphan { process: process.to_owned(), id: ClaimId::random(), since }).collect();
        let mut orphans = queue.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        // No more at once than were asked for; all for none.
        let mut old = Vec::new();
        orphans.retain(|orphan| {
            let mine = orphan.process == process && (max == 0 || old.len() < max);
            if mine {
                old.push(orphan.clone());
            }
            !mine
        });
        Self { queue, old, fresh, found: Vec::new(), settled: false }
    }

    fn fresh(&self) -> Vec<ClaimId> {
        self.fresh.iter().map(|orphan| orphan.id.clone()).collect()
    }

    fn settled(&mut self) {
        self.settled = true;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.settled {
            self.fresh.clear();
            // What was not there may still come: a command can lie in a socket while a later one overtakes it.
            self.old.retain(|orphan| !self.found.contains(&orphan.id) && orphan.since.elapsed() < ORPHAN_AGE);
        }
        let mut orphans = self.queue.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.append(&mut self.old);
        orphans.append(&mut self.fresh);
    }
}
