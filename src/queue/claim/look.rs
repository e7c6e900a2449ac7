//! The second step of a claim: each entry is looked at, since no script may decode a payload.

use bytes::Bytes;

use super::{
    decide::{Admission, Decision, Envelope, decide},
    take::Taken,
};
use crate::{
    mail::UnixMillis,
    queue::{
        ClaimId, Queue,
        long::LONG,
        payload::{Payload, bare_id},
        records::Records,
        room::Share,
    },
    store::StoreError,
};

/// What a look at a claimed entry shows.
pub(super) enum Sight {
    Seen(Box<Looked>),
    /// There is no room now for what its id stands for.
    TooLong(ClaimId),
}

/// A claimed entry and what is to become of it.
pub(super) struct Looked {
    pub taken: Taken,
    /// Where the producer's bytes begin in it.
    pub begin: usize,
    pub fetched: Option<Bytes>,
    pub envelope: Envelope,
    pub admission: Admission,
    /// Recipients of the payload that are left out.
    pub spared: Vec<String>,
    /// The mail's fingerprint; empty when it is none.
    pub sum: String,
    /// Whether the mail that a record belongs to was looked for.
    pub sure: bool,
    /// Whether the header in Redis must be written again.
    pub rewrites: bool,
    /// For what was fetched, when it is long.
    pub share: Option<Share>,
}

impl Looked {
    /// Id, key and serial of the mail, for its records.
    fn names(&self) -> (&str, Option<&str>, &str) {
        match &self.admission {
            Admission::Keep { header, .. } | Admission::Duplicate(header) => {
                (&header.id, header.key.as_deref(), &header.serial)
            }
            Admission::Dead(letter, _) => (&letter.id, letter.key.as_deref(), &letter.serial),
        }
    }

    pub(super) fn id(&self) -> &str {
        self.names().0
    }

    pub(super) fn serial(&self) -> &str {
        self.names().2
    }

    pub(super) fn records(&self, queue: &Queue) -> Records {
        let (id, key, _) = self.names();
        queue.records(id, key)
    }

    /// Leaves out recipients who have this mail already, by an earlier one with its id or key; with nobody left it is a
    /// duplicate.
    pub(super) fn spare(&mut self, who: &str) {
        let who: Vec<&str> = who.lines().collect();
        self.spared.extend(who.iter().map(|address| (*address).to_owned()));
        self.rewrites = true;
        if let Admission::Keep { header, mail } = &mut self.admission {
            mail.recipients.retain(|recipient| !who.contains(&recipient.as_str()));
            header.remaining = Some(mail.recipients.clone());
            if mail.recipients.is_empty() {
                self.admission = Admission::Duplicate(header.clone());
            }
        }
    }
}

impl Queue {
    /// Fetches what an id stands for, and decides. `forged` is an entry whose header is not ours.
    pub(super) async fn look_at(&self, taken: Taken, forged: bool, now: UnixMillis) -> Result<Sight, StoreError> {
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
        let Decision { admission, spared, sum } = decision;
        let (sure, rewrites) = (false, false);
        let looked = Looked { taken, begin, fetched, envelope, admission, spared, sum, sure, rewrites, share };
        Ok(Sight::Seen(Box::new(looked)))
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
