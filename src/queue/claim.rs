//! Claiming: mails into the hands of a process, looked at before anyone sends them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join_all;
use redis::cmd;
use tokio::time::Instant;

use super::{
    ALONE_FROM, Advance, At, ClaimId, Claimed, DeadLetter, Entry, Header, MAX_PAYLOAD, Mail, Priority, Queue,
    SCRIPT_LIMIT, Stage, StageMark, UnixMillis,
    bodies::{LONG, number},
    envelope,
    mail::{id_of_invalid, is_id},
    parse,
    records::{Records, short},
    room::{Grant, Share},
    scripts,
    store::Orphan,
    time,
};
use crate::{store::StoreError, telemetry::log::mask_id};

/// How many bytes one claim takes before it stops: a batch of large mails must fit into a small sidecar.
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// How many mails one claim takes at most: no script may run long.
const MAX_BATCH: usize = 1_000;

/// How long a claim id whose answer was lost is asked for: longer than any socket buffer delays a command.
const ORPHAN_AGE: Duration = Duration::from_secs(120);

/// What one claim brought.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// Mails to be sent.
    pub mails: Vec<Claimed>,
    /// Entries that needed no sending and are settled: duplicates, expired and early mail, what is no mail. More may wait
    /// behind them, so whoever got less than was asked for looks again.
    pub ended: usize,
}

impl Queue {
    /// Claims up to `max` mails for a process, from `arrived` first, then by weight from high, normal and low.
    ///
    /// Each is looked at before it is handed out: what can't be parsed goes to the dead letters, expired mail and
    /// duplicates are dropped and counted, early mail is delayed. So fewer than `max` may come back, even none, while
    /// more waits. After an error or after cancelling nothing is lost: the next call finds what was taken.
    pub async fn claim(&self, process: &str, pod: &str, max: usize, at: impl Into<At>) -> Result<Batch, StoreError> {
        if max == 0 {
            return Ok(Batch::default());
        }
        let (max, at) = (max.min(MAX_BATCH), at.into());
        // From here on every id counts as lost until its fate is known, whatever ends this call.
        let mut pending = Pending::new(self, process, max);
        let (grant, mut share) = self.room.reserve();
        let mut taken = self.found_again(process, &mut pending, grant).await?;
        share.found(taken.iter().map(|taken| taken.entry.len()), pending.unread);
        if taken.len() < max {
            let grant = if taken.is_empty() { grant } else { Grant::least() };
            let ids = &pending.fresh()[..max - taken.len()];
            taken.extend(self.take(process, pod, ids, at, grant, &mut share).await?);
        } else {
            share.cut([].into_iter(), 0);
        }
        let now = self.estimate(at);
        let mut looked_at = Vec::with_capacity(taken.len());
        for looked in try_join_all(taken.into_iter().map(|taken| self.look_at(taken, false, now))).await? {
            match looked {
                Sight::Seen(looked) => looked_at.push(*looked),
                Sight::TooLong(claim) => pending.put_off(process, claim),
            }
        }
        let answers = self.admit_all(process, &mut looked_at, at).await?;
        pending.settled();
        let mut batch = Batch { mails: Vec::with_capacity(looked_at.len()), ended: 0 };
        for (looked, answer) in looked_at.into_iter().zip(answers) {
            let id = looked.id().to_owned();
            match (looked.verdict, answer.as_str()) {
                (Verdict::Keep { header, mail }, "kept") => {
                    let length = looked.taken.entry.len() + looked.fetched.as_ref().map_or(0, Bytes::len);
                    let share = looked.share.unwrap_or_else(|| share.split(length));
                    batch.mails.push(Claimed {
                        alone: header.crashes >= ALONE_FROM,
                        claim_id: looked.taken.id,
                        header: *header,
                        mail: *mail,
                        payload: looked.taken.entry.slice(looked.begin..),
                        fetched: looked.fetched,
                        share: Arc::new(share),
                    });
                    continue;
                }
                (Verdict::Dead(letter, _), "dead") => tracing::warn!(
                    mail.id = &*mask_id(&letter.id),
                    reason = letter.reason,
                    field = letter.field().unwrap_or_default(),
                    "a mail can't be sent as it is and went to the dead letters"
                ),
                (_, outcome) => tell(&id, outcome),
            }
            // What was gone is in other hands, and says nothing of what waits.
            batch.ended += usize::from(answer != "gone");
        }
        Ok(batch)
    }

    /// Whether a claim is known here though nobody has its mail yet: a call is reading it, or its answer was lost.
    pub fn expects(&self, claim: &str) -> bool {
        let claim = ClaimId(claim.to_owned());
        if self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner).contains(&claim) {
            return true;
        }
        let orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.iter().any(|orphan| orphan.id == claim)
    }

    /// Gives back what earlier calls of [`Queue::claim`] took and could not hand out, since an answer was lost or they
    /// were cancelled. For a process that will not claim again soon: when it drains, or lost its share. Returns how many.
    pub async fn return_lost_claims(&self, process: &str, at: impl Into<At>) -> Result<usize, StoreError> {
        let (mut pending, at) = (Pending::new(self, process, 0), at.into());
        let lost = pending.old.clone();
        for orphan in lost {
            if self.requeue_claim(process, &orphan.id, at).await? == Advance::Done {
                pending.found.push(orphan.id);
            }
        }
        pending.settled();
        Ok(pending.found.len())
    }

    /// Claims whose answer was lost, as far as Redis has them and they fit, with the time and the list that they were taken
    /// at.
    async fn found_again(
        &self,
        process: &str,
        pending: &mut Pending<'_>,
        grant: Grant,
    ) -> Result<Vec<Taken>, StoreError> {
        if pending.old.is_empty() {
            return Ok(Vec::new());
        }
        let mut marks = cmd("HMGET");
        marks.arg(self.names.stages(process));
        for orphan in &pending.old {
            marks.arg(orphan.id.as_str());
        }
        let marks: Vec<Option<String>> = self.store.query(&marks, SCRIPT_LIMIT).await?;
        let ids: Vec<String> = pending.old.iter().map(|orphan| orphan.id.0.clone()).collect();
        let marks: BTreeMap<&String, Option<String>> = ids.iter().zip(marks).collect();
        let claims = self.names.claims(process);
        let mut taken = Vec::new();
        let heads = self.heads_of(&claims, &ids, 0).await?;
        // What was seen is not forgotten before it is read.
        pending.seen = heads.iter().map(|head| ClaimId(head.field.clone())).collect();
        let mut bytes = 0;
        for head in heads {
            // One that may be long, and short ones beside it: the others are left to the next call.
            let first = taken.is_empty() && grant.first.is_none_or(|first| head.length <= first);
            if !first && (head.length > LONG || bytes + head.length > grant.most) {
                pending.unread = pending.unread.max(head.length);
                continue;
            }
            let Some(entry) = self.entry(&claims, &head.field, head.length).await? else { continue };
            bytes += head.length;
            let mark = marks.get(&head.field).cloned().flatten().unwrap_or_default();
            let source = priority_of(mark.rsplit(' ').next().unwrap_or_default().as_bytes());
            let since = mark.parse::<StageMark>().map_or_else(|()| UnixMillis::default(), |mark| mark.since);
            taken.push(Taken { id: ClaimId(head.field), source, since, entry: entry.into() });
        }
        pending.found = taken.iter().map(|taken| taken.id.clone()).collect();
        Ok(taken)
    }

    /// Takes what is granted, and cuts the share to it and what was found.
    async fn take(
        &self,
        process: &str,
        pod: &str,
        ids: &[ClaimId],
        at: At,
        grant: Grant,
        share: &mut Share,
    ) -> Result<Vec<Taken>, StoreError> {
        let first = grant.first.map_or_else(String::new, |first| format!(" {first}"));
        let (at, most) = (at.word(), format!("{}{first}", grant.most.min(BATCH_BYTES)));
        let mut arguments = vec![process.as_bytes(), pod.as_bytes(), at.as_bytes(), most.as_bytes()];
        arguments.extend(ids.iter().map(|id| id.as_str().as_bytes()));
        let keys = [self.names.claims(process), self.names.stages(process)];
        let answer: Vec<Vec<u8>> = self.run(&scripts::TAKE, &keys, &arguments).await?;
        let length = |word: &[u8]| number(word).unwrap_or(0);
        // A word more is the length of one that was left. From here on others may claim what this one left.
        let left = answer.last().filter(|_| answer.len() % 4 == 2).map_or(0, |word| length(word));
        share.cut(answer.iter().skip(3).step_by(4).map(|word| length(word)), left);
        let mut words = answer.into_iter();
        let since = words.next().and_then(|now| number(&now)).map(UnixMillis);
        let since = since.ok_or_else(|| self.garbled("take answered without a time".into()))?;
        self.heard(since);
        let mut taken = Vec::new();
        while let (Some(id), Some(letter), Some(bytes), Some(mut entry)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let id = ClaimId(String::from_utf8_lossy(&id).into_owned());
            let length = length(&bytes);
            if entry.len() != length {
                match self.entry(&keys[0], id.as_str(), length).await? {
                    Some(whole) => entry = whole,
                    // Resolved by somebody else meanwhile: no claim of ours any more.
                    None => continue,
                }
            }
            taken.push(Taken { id, source: priority_of(&letter), since, entry: entry.into() });
        }
        Ok(taken)
    }

    /// Fetches what an id stands for, and decides. `forged` is an entry whose header is not ours.
    async fn look_at(&self, taken: Taken, forged: bool, now: UnixMillis) -> Result<Sight, StoreError> {
        let (envelope, begin) = Envelope::of(&taken.entry, forged);
        let raw = taken.entry.slice(begin..);
        let named = bare_id(&raw).map(|id| (self.names.payload(&id), id));
        let (found, share) = match &named {
            Some((key, _)) => match self.payload_at(key).await? {
                Some(found) => found,
                None => return Ok(Sight::TooLong(taken.id)),
            },
            None => (Payload::Missing, None),
        };
        let is_long = share.is_some() || raw.len() > LONG;
        let decided = move || {
            let named = named.as_ref().map(|(key, id)| (&**id, &**key));
            let decision = decide(&taken, &envelope, &raw, named, &found, now);
            (taken, envelope, found.text(), decision)
        };
        let (taken, envelope, fetched, decision) = if is_long { elsewhere(decided).await } else { decided() };
        let Decision { verdict, spared, sum } = decision;
        let (sure, rewrites) = (false, false);
        let looked = Looked { taken, begin, fetched, envelope, verdict, spared, sum, sure, rewrites, share };
        Ok(Sight::Seen(Box::new(looked)))
    }

    /// The JSON of a mail whose list held only its id, and its room when it is long; none when there is no room for it now.
    /// What Redis will refuse the next time too is an answer, not a failure: the claim would come round for ever, and all
    /// that were taken with it.
    pub(super) async fn payload_at(&self, key: &str) -> Result<Option<(Payload, Option<Share>)>, StoreError> {
        let begin = match readable(self.text_begin(key).await)? {
            Ok(begin) if begin.is_empty() => return Ok(Some((Payload::Missing, None))),
            Ok(begin) if begin.len() < LONG => return Ok(Some((Payload::Text(begin.into()), None))),
            Ok(begin) => begin,
            Err(unreadable) => return Ok(Some((unreadable, None))),
        };
        let length = match readable(self.text_length(key).await)? {
            Ok(length) => length,
            Err(unreadable) => return Ok(Some((unreadable, None))),
        };
        if length > MAX_PAYLOAD {
            let why = format!("it has {length} bytes; at most {MAX_PAYLOAD} are taken");
            return Ok(Some((Payload::Unreadable(why.into()), None)));
        }
        let Some(share) = self.room.admit(length) else { return Ok(None) };
        let text = readable(self.text_rest(key, begin, length).await)?;
        let found = text.map_or_else(|unreadable| unreadable, |text| Payload::Text(text.into()));
        Ok(Some((found, Some(share))))
    }

    /// Lets the script decide, and thinks over what it does not decide by itself, which is rare.
    async fn admit_all(&self, process: &str, looked_at: &mut [Looked], at: At) -> Result<Vec<String>, StoreError> {
        let mut answers = self.admit(process, looked_at.iter(), at).await?;
        loop {
            // It ends: an entry is found out once, doubts are looked into once, and recipients only become fewer.
            let mut open = Vec::new();
            for (place, (looked, answer)) in looked_at.iter_mut().zip(&answers).enumerate() {
                if answer == "forged" {
                    // All of the entry is the producer's now, so nothing lies elsewhere.
                    if let Sight::Seen(again) = self.look_at(looked.taken.clone(), true, self.estimate(at)).await? {
                        *looked = *again;
                    }
                } else if answer == "doubtful" {
                    self.end_lost(&looked.records(self), looked.id(), looked.serial(), at).await?;
                    looked.sure = true;
                } else if let Some(who) = answer.strip_prefix("partly\n") {
                    looked.spare(who);
                } else {
                    continue;
                }
                open.push(place);
            }
            if open.is_empty() {
                return Ok(answers);
            }
            let again = self.admit(process, open.iter().map(|place| &looked_at[*place]), at).await?;
            for (place, answer) in open.into_iter().zip(again) {
                answers[place] = answer;
            }
        }
    }

    async fn admit<'a>(
        &self,
        process: &str,
        looked_at: impl Iterator<Item = &'a Looked>,
        at: At,
    ) -> Result<Vec<String>, StoreError> {
        let mut keys = vec![self.names.claims(process), self.names.stages(process)];
        let mut arguments: Vec<Vec<u8>> = vec![at.word().into()];
        let mut moved = 0;
        for looked in looked_at {
            moved += looked.taken.entry.len();
            let (mut due, mut expires, mut line, mut letter, mut reason) = <(_, _, Vec<u8>, Vec<u8>, _)>::default();
            let mut parts = None;
            let (action, message_id) = match &looked.verdict {
                Verdict::Keep { header, mail } => {
                    (due, expires) = (time::word(mail.not_before), time::word(mail.expires_at));
                    if looked.rewrites || !matches!(looked.envelope, Envelope::Headed(..)) {
                        line = header.encode(mail.priority);
                    }
                    ("kept", &*header.message_id)
                }
                Verdict::Duplicate(header) => ("duplicate", &*header.message_id),
                Verdict::Dead(dead, payload) => {
                    let brought = self.bring(dead, payload).await?;
                    (letter, parts, reason) = (brought.word, brought.key, &*dead.reason);
                    ("dead", &*dead.message_id)
                }
            };
            let Records { buckets, fields } = looked.records(self);
            arguments.extend([
                looked.taken.id.as_str().into(),
                action.into(),
                line,
                looked.id().into(),
                short(looked.serial()).into(),
                due.into(),
                expires.into(),
                reason.into(),
                letter,
                looked.envelope.word().into(),
                looked.sum.clone().into(),
                looked.spared.join("\n").into(),
                if looked.sure { "1" } else { "" }.into(),
                fields,
                message_id.into(),
                looked.taken.since.0.to_string().into(),
            ]);
            keys.extend(buckets);
            keys.extend(parts);
        }
        if arguments.len() == 1 {
            return Ok(Vec::new());
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let answers: Vec<String> = self.run_moving(&scripts::ADMIT, &keys, &arguments, moved).await?;
        if answers.iter().any(|answer| answer == "missing") { Err(self.not_brought()) } else { Ok(answers) }
    }
}

/// Runs what takes the processor for long, such as reading a mail of 30 MiB, without holding up anybody's lease.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What lies under the id of a mail whose list held nothing else.
pub(super) enum Payload {
    Text(Bytes),
    Missing,
    /// Why it cannot be read, and what to do.
    Unreadable(Cow<'static, str>),
}

/// An answer of Redis, or that it will never give one.
fn readable<T>(read: Result<T, StoreError>) -> Result<Result<T, Payload>, StoreError> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(StoreError::Refused { code, .. }) if let Some(why) = unreadable(&code) => {
            Ok(Err(Payload::Unreadable(why.into())))
        }
        Err(error) => Err(error),
    }
}

impl Payload {
    /// Its text, if it could be read.
    pub fn text(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing | Self::Unreadable(_) => None,
        }
    }
}

/// Why a payload cannot be read, when the error code stands for more than this moment. All others (`LOADING`, `NOAUTH`,
/// `CLUSTERDOWN`, `TRYAGAIN`, ...) may be over at the next try, as a slot's move may be (`ASK`).
fn unreadable(code: &str) -> Option<&'static str> {
    match code {
        "WRONGTYPE" => Some("a value of another type than a string lies there"),
        "NOPERM" => {
            Some("the Redis user of the worker may not read it: allow +getrange, +strlen and ~<payloadPrefix>*")
        }
        "MOVED" => Some("it lies on another node of Redis Cluster: give payloadPrefix the hash tag of the queue"),
        _ => None,
    }
}

/// Logs how a claim ended before sending. What is dropped and was never sent in another guise must not pass in silence.
fn tell(id: &str, outcome: &str) {
    if let Some(first) = outcome.strip_prefix("duplicate\n") {
        tracing::warn!(
            mail.id = &*mask_id(id),
            mail.first = &*mask_id(first),
            "a mail was dropped as a duplicate of an earlier one with its id or key, but it is another mail: its recipients or its content differ"
        );
    } else {
        tracing::debug!(mail.id = &*mask_id(id), outcome, "a claim ended before sending");
    }
}

fn priority_of(letter: &[u8]) -> Priority {
    match letter {
        b"h" => Priority::High,
        b"l" => Priority::Low,
        _ => Priority::Normal,
    }
}

/// An entry that was taken from a list.
#[derive(Clone)]
struct Taken {
    id: ClaimId,
    /// The list it lay in.
    source: Priority,
    /// When it was taken, by Redis' clock.
    since: UnixMillis,
    entry: Bytes,
}

/// What stands before the producer's bytes of an entry.
enum Envelope {
    /// Nothing that tells anything.
    None,
    /// A header, to be compared with the mail's record before it is believed.
    Headed(Box<Header>),
    /// A header that is not ours: a producer wrote it.
    Forged,
    /// No header, though the entry begins as if it had one: all of it is the producer's.
    Broken,
}

impl Envelope {
    /// And where the producer's bytes begin.
    fn of(entry: &[u8], forged: bool) -> (Self, usize) {
        let decoded = Entry::decode(entry);
        let begin = entry.len() - decoded.payload().len();
        let envelope = match decoded {
            Entry::Raw(_) | Entry::Bare(_) => Self::None,
            Entry::Sealed(..) if forged => Self::Forged,
            Entry::Sealed(header, _) => Self::Headed(header),
            Entry::Malformed(_) => Self::Broken,
        };
        (envelope, begin)
    }

    /// As the script knows it.
    fn word(&self) -> &'static str {
        match self {
            Self::None => "raw",
            Self::Headed(_) => "headed",
            Self::Forged | Self::Broken => "forged",
        }
    }
}

/// What a look at a claimed entry shows.
enum Sight {
    Seen(Box<Looked>),
    /// There is no room now for what its id stands for.
    TooLong(ClaimId),
}

/// A claimed entry and what is to become of it.
struct Looked {
    taken: Taken,
    /// Where the producer's bytes begin in it.
    begin: usize,
    fetched: Option<Bytes>,
    envelope: Envelope,
    verdict: Verdict,
    /// Recipients of the payload that are left out.
    spared: Vec<String>,
    /// The mail's fingerprint; empty when it is none.
    sum: String,
    /// Whether the mail that a record belongs to was looked for.
    sure: bool,
    /// Whether the header in Redis must be written again.
    rewrites: bool,
    /// For what was fetched, when it is long.
    share: Option<Share>,
}

impl Looked {
    /// Id, key and serial of the mail, for its records.
    fn names(&self) -> (&str, Option<&str>, &str) {
        match &self.verdict {
            Verdict::Keep { header, .. } | Verdict::Duplicate(header) => {
                (&header.id, header.key.as_deref(), &header.serial)
            }
            Verdict::Dead(letter, _) => (&letter.id, letter.key.as_deref(), &letter.serial),
        }
    }

    fn id(&self) -> &str {
        self.names().0
    }

    fn serial(&self) -> &str {
        self.names().2
    }

    fn records(&self, queue: &Queue) -> Records {
        let (id, key, _) = self.names();
        queue.records(id, key)
    }

    /// Leaves out recipients who have this mail already, by an earlier one with its id or key; with nobody left it is a
    /// duplicate.
    fn spare(&mut self, who: &str) {
        let who: Vec<&str> = who.lines().collect();
        self.spared.extend(who.iter().map(|address| (*address).to_owned()));
        self.rewrites = true;
        if let Verdict::Keep { header, mail } = &mut self.verdict {
            mail.recipients.retain(|recipient| !who.contains(&recipient.as_str()));
            header.remaining = Some(mail.recipients.clone());
            if mail.recipients.is_empty() {
                self.verdict = Verdict::Duplicate(header.clone());
            }
        }
    }
}

enum Verdict {
    /// To be sent, unless it is early or expired: the script knows the time.
    Keep { header: Box<Header>, mail: Box<Mail> },
    /// Everybody in it has it.
    Duplicate(Box<Header>),
    /// With the producer's bytes.
    Dead(Box<DeadLetter>, Bytes),
}

struct Decision {
    verdict: Verdict,
    spared: Vec<String>,
    sum: String,
}

/// The id, when the payload is nothing else: bare, or as a JSON string.
pub(super) fn bare_id(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?.trim();
    let id = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    is_id(id).then(|| id.to_owned())
}

/// What becomes of a claimed entry. `raw` are the producer's bytes, `named` is its bare id and the key that was read, `found` what lay there. The claim
/// is the mail's identity from now on: who looks at it again, for whatever reason, sees the same mail.
fn decide(
    taken: &Taken,
    envelope: &Envelope,
    raw: &Bytes,
    named: Option<(&str, &str)>,
    found: &Payload,
    now: UnixMillis,
) -> Decision {
    let known = match envelope {
        Envelope::Headed(header) => Some(header),
        _ => None,
    };
    let priority = envelope::priority(&taken.entry);
    let dead = |reason: &str, problem: String, payload: &Bytes| {
        let letter =
            DeadLetter::new(known.map(|header| &**header), priority, reason, &problem, Some(Stage::Taken), now);
        let id = known.map(|header| header.id.clone()).or_else(|| named.map(|(id, _)| id.to_owned()));
        let id = id.or_else(|| id_of_invalid(payload));
        let letter = letter.fetched_from(named.map(|(_, key)| key.to_owned())).named(id);
        Decision { verdict: Verdict::Dead(Box::new(letter), payload.clone()), spared: Vec::new(), sum: String::new() }
    };
    let payload = match (named, found) {
        (Some((_, key)), Payload::Missing) => {
            return dead("PayloadMissing", format!("payload missing: nothing lies under {key}"), raw);
        }
        (Some((_, key)), Payload::Unreadable(why)) => {
            return dead("PayloadUnreadable", format!("the payload under {key} cannot be read: {why}"), raw);
        }
        (Some(_), Payload::Text(fetched)) => fetched,
        (None, _) => raw,
    };
    let mut mail = match parse(payload.clone()) {
        Ok(mail) => mail,
        Err(error) => return dead("InvalidMail", error.to_string(), payload),
    };
    let fix = || Box::new(Header::fix(&mail, named.map(|(id, _)| id), taken.id.as_str(), taken.since));
    let header = known.cloned().unwrap_or_else(fix);
    let sum = mail.fingerprint();
    // The list that a raw mail lay in says more than its field; an envelope of ours is marked.
    if known.is_some() {
        mail.priority = priority;
    } else if taken.source != Priority::Normal {
        mail.priority = taken.source;
    }
    let mut spared = Vec::new();
    if let Some(remaining) = &header.remaining {
        let (sent, left_out) = mail.recipients.into_iter().partition(|recipient| remaining.contains(recipient));
        (mail.recipients, spared) = (sent, left_out);
    }
    if mail.recipients.is_empty() {
        return dead("InvalidMail", "to: none of the recipients still to be sent to is in the payload".into(), payload);
    }
    Decision { verdict: Verdict::Keep { header, mail: Box::new(mail) }, spared, sum }
}

/// Claim ids on their way. Unless it is said to be settled, dropping it leaves them to the next call.
struct Pending<'a> {
    queue: &'a Queue,
    old: Vec<Orphan>,
    fresh: Vec<Orphan>,
    found: Vec<ClaimId>,
    /// What Redis has, read or not.
    seen: Vec<ClaimId>,
    /// Bytes of the longest that was not read, since it did not fit.
    unread: usize,
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
        let ids = old.iter().chain(&fresh).map(|orphan: &Orphan| orphan.id.clone());
        queue.on_the_way.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        Self { queue, old, fresh, found: Vec::new(), seen: Vec::new(), unread: 0, settled: false }
    }

    fn fresh(&self) -> Vec<ClaimId> {
        self.fresh.iter().map(|orphan| orphan.id.clone()).collect()
    }

    /// This claim stays ours until there is room for its payload, or it is given back.
    fn put_off(&mut self, process: &str, id: ClaimId) {
        self.found.retain(|found| *found != id);
        self.fresh.retain(|fresh| fresh.id != id);
        self.old.retain(|old| old.id != id);
        self.seen.push(id.clone());
        self.old.push(Orphan { process: process.to_owned(), id, since: Instant::now() });
    }

    fn settled(&mut self) {
        self.settled = true;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut on_the_way = self.queue.on_the_way.lock().unwrap_or_else(PoisonError::into_inner);
        for orphan in self.old.iter().chain(&self.fresh) {
            on_the_way.remove(&orphan.id);
        }
        drop(on_the_way);
        if self.settled {
            self.fresh.clear();
            // What was not there may still come: a command can lie in a socket while a later one overtakes it.
            // What was seen there and not read is there until it is read, however long it takes.
            self.old.retain(|orphan| {
                let may_come = self.seen.contains(&orphan.id) || orphan.since.elapsed() < ORPHAN_AGE;
                !self.found.contains(&orphan.id) && may_come
            });
        }
        let mut orphans = self.queue.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.append(&mut self.old);
        orphans.append(&mut self.fresh);
    }
}
