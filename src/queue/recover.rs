//! Resolving what a dead process left, in one pass by stage.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use redis::cmd;
use serde::Serialize;

use super::{
    At, DeadLetter, Entry, HeldMail, Queue, RecoverOptions, Resolution, SCRIPT_LIMIT, Stage, StageMark, Suspicion,
    bodies::Head,
    envelope,
    records::{Records, short},
    resolve, scripts,
};
use crate::{mail::UnixMillis, store::StoreError, telemetry::log::mask_id};

/// What became of a dead process's claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Back in their lists.
    pub requeued: u64,
    /// Parked.
    pub held: u64,
    /// To be sent again by policy.
    pub resent: u64,
    /// To the dead letters as poison.
    pub poison: u64,
    /// Left alone, since the claim changed under our hands: its process lives, or someone else recovers it too.
    pub skipped: u64,
    /// The same decisions, without those skipped, by the stage of the mail and its outcome: `requeued`, `held`, `resent`,
    /// `poison`.
    #[serde(skip)]
    pub decisions: BTreeMap<(Stage, &'static str), u64>,
}

impl Recovery {
    /// Counts one answer of the script about a mail at this stage; whether the claim was moved.
    fn count(&mut self, stage: Stage, answer: &str) -> bool {
        let (counter, outcome) = match answer {
            "queue" => (&mut self.requeued, "requeued"),
            "held" => (&mut self.held, "held"),
            "resend" => (&mut self.resent, "resent"),
            "dead" => (&mut self.poison, "poison"),
            _ => return false,
        };
        *counter += 1;
        *self.decisions.entry((stage, outcome)).or_default() += 1;
        true
    }
}

/// How many claims one script call resolves.
const BATCH: usize = 32;

/// How many passes one call makes: a process that goes on claiming is not dead, and must not keep us here.
const PASSES: usize = 100;

/// How long a resend waits, so that a settlement still on its way finds the mail before anyone sends it again.
const RESEND_WAIT: Duration = Duration::from_secs(5);

impl Queue {
    /// Resolves every claim of a process that is proven dead, batch by batch; each decision is logged and counted.
    ///
    /// Safe to repeat and to run twice at once: a claim is moved only while it is at the stage that was judged.
    /// Cancelling leaves the rest for the next call.
    pub async fn recover(
        &self,
        process: &str,
        options: &RecoverOptions,
        at: impl Into<At>,
    ) -> Result<Recovery, StoreError> {
        let (mut recovery, at) = (Recovery::default(), at.into());
        // For what people read of these claims.
        self.time(at).await?;
        // Before any of them is moved.
        let sending = self.sending(process).await?;
        for _ in 0..PASSES {
            let (moved, skipped) = self.recover_pass(process, sending, options, at, &mut recovery).await?;
            recovery.skipped = skipped;
            // What a scan missed, or what changed meanwhile, is there in the next pass; without progress it ends.
            if moved == 0 {
                break;
            }
        }
        if recovery != Recovery::default() {
            tracing::warn!(
                process,
                requeued = recovery.requeued,
                held = recovery.held,
                resent = recovery.resent,
                poison = recovery.poison,
                skipped = recovery.skipped,
                "recovered the claims of a dead process"
            );
        }
        Ok(recovery)
    }

    /// The ids of all claims under a process's name.
    pub async fn claims_of(&self, process: &str) -> Result<Vec<String>, StoreError> {
        self.store.query(cmd("HKEYS").arg(self.names.claims(process)), SCRIPT_LIMIT).await
    }

    /// [`Queue::recover`] for these claims alone, of a process that lives but knows nothing of them.
    pub async fn recover_claims(
        &self,
        process: &str,
        claims: &[String],
        options: &RecoverOptions,
        at: impl Into<At>,
    ) -> Result<Recovery, StoreError> {
        let (mut recovery, at) = (Recovery::default(), at.into());
        // For what people read of these claims.
        self.time(at).await?;
        let sending = self.sending(process).await?;
        for ids in claims.chunks(BATCH) {
            let batch = self.heads_of(&self.names.claims(process), ids, 1).await?;
            for (stage, answer) in self.recover_batch(process, sending, &batch, options, at).await? {
                if !recovery.count(stage, &answer) {
                    recovery.skipped += 1;
                }
            }
        }
        Ok(recovery)
    }

    async fn recover_pass(
        &self,
        process: &str,
        sending: usize,
        options: &RecoverOptions,
        at: At,
        recovery: &mut Recovery,
    ) -> Result<(u64, u64), StoreError> {
        let (mut moved, mut skipped, mut cursor) = (0, 0, 0u64);
        loop {
            let (next, page) = self.heads(&self.names.claims(process), cursor, 1).await?;
            for batch in page.chunks(BATCH) {
                for (stage, answer) in self.recover_batch(process, sending, batch, options, at).await? {
                    if recovery.count(stage, &answer) {
                        moved += 1;
                    } else {
                        skipped += 1;
                    }
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        if moved == 0 && skipped == 0 {
            // Nothing left: an empty batch still forgets the process.
            self.recover_batch(process, sending, &[], options, at).await?;
        }
        Ok((moved, skipped))
    }

    async fn recover_batch(
        &self,
        process: &str,
        sending: usize,
        batch: &[Head],
        options: &RecoverOptions,
        at: At,
    ) -> Result<Vec<(Stage, String)>, StoreError> {
        let now = self.estimate(at);
        let marks = self.marks(process, batch).await?;
        let mut keys = vec![self.names.claims(process), self.names.stages(process)];
        let mut arguments: Vec<Vec<u8>> = vec![process.into(), at.word().into()];
        let mut judged = Vec::new();
        for (Head { field: claim, length, lines: entry }, mark) in batch.iter().zip(marks) {
            // Claim and stage are written together; a stage that is gone or unreadable tells nothing: the worst is assumed.
            let word = mark.as_deref().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned();
            let stage =
                mark.and_then(|mark| mark.parse::<StageMark>().ok()).map_or(Stage::Committing, |mark| mark.stage);
            let header = match Entry::decode(entry) {
                Entry::Sealed(header, _) => Some(*header),
                _ => None,
            };
            let crashes = header.as_ref().map_or(0, |header| header.crashes);
            let own = header.as_ref().and_then(|header| header.unknown_outcome);
            let options = RecoverOptions { unknown: own.unwrap_or(options.unknown), ..*options };
            let resolution = resolve(stage, crashes, Suspicion { sending, length: *length }, &options);
            // Only a dead letter has the payload in it.
            let whole = match resolution {
                Resolution::Poison { .. } => match self.entry(&self.names.claims(process), claim, *length).await? {
                    Some(whole) => Some(whole),
                    // It changed meanwhile, so it is somebody else's to resolve, or the next pass's.
                    None => continue,
                },
                _ => None,
            };
            let case = Case { process, claim, entry, stage, header, now };
            let (action, line, mut extra, wait, reason) = case.moves(resolution);
            let mut parts = None;
            if let (Resolution::Poison { crashes }, Some(whole)) = (resolution, whole) {
                let whole = Bytes::from(whole);
                let payload = whole.slice_ref(Entry::decode(&whole).payload());
                let brought = self.bring(&case.poison(crashes), &payload).await?;
                (extra, parts) = (brought.word, brought.key);
            }
            let (id, key, serial, message_id) = case
                .header
                .as_ref()
                .map_or(("", None, "", ""), |h| (&*h.id, h.key.as_deref(), &*h.serial, &*h.message_id));
            let Records { buckets, fields } = self.records(id, key);
            arguments.extend([
                claim.clone().into(),
                word.into(),
                action.into(),
                line,
                extra,
                wait.into(),
                id.into(),
                short(serial).into(),
                reason.into(),
                fields,
                message_id.into(),
            ]);
            keys.extend(buckets);
            keys.extend(parts);
            judged.push((id.to_owned(), stage));
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let answers: Vec<String> = self.run(&scripts::RECOVER, &keys, &arguments).await?;
        for ((id, stage), answer) in judged.iter().zip(&answers) {
            tracing::info!(
                mail.id = &*mask_id(id),
                stage = stage.as_str(),
                decision = answer,
                process,
                "resolved a dead process's claim"
            );
        }
        Ok(judged.into_iter().map(|(_, stage)| stage).zip(answers).collect())
    }

    /// How many mails a process was sending.
    async fn sending(&self, process: &str) -> Result<usize, StoreError> {
        let marks: Vec<String> = self.store.query(cmd("HVALS").arg(self.names.stages(process)), SCRIPT_LIMIT).await?;
        let stages = marks.iter().filter_map(|mark| mark.parse::<StageMark>().ok());
        Ok(stages.filter(|mark| matches!(mark.stage, Stage::Sending | Stage::Committing)).count())
    }

    async fn marks(&self, process: &str, batch: &[Head]) -> Result<Vec<Option<String>>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("HMGET");
        command.arg(self.names.stages(process));
        for head in batch {
            command.arg(&head.field);
        }
        self.store.query(&command, SCRIPT_LIMIT).await
    }
}

/// One claim of a dead process.
struct Case<'a> {
    process: &'a str,
    claim: &'a str,
    entry: &'a [u8],
    stage: Stage,
    header: Option<super::Header>,
    now: UnixMillis,
}

impl Case<'_> {
    /// Action, header line (empty keeps the entry), what is parked beside it, how long it waits, and why.
    fn moves(&self, resolution: Resolution) -> (&'static str, Vec<u8>, Vec<u8>, String, &'static str) {
        match resolution {
            Resolution::Requeue { crashes } => {
                ("queue", self.with_crashes(crashes), Vec::new(), String::new(), "ProcessEnded")
            }
            Resolution::Resend => {
                ("resend", Vec::new(), Vec::new(), RESEND_WAIT.as_millis().to_string(), "OutcomeUnknown")
            }
            Resolution::Hold => ("held", Vec::new(), self.held(), String::new(), "OutcomeUnknown"),
            // Its letter has to be brought.
            Resolution::Poison { .. } => ("dead", Vec::new(), Vec::new(), String::new(), "Poison"),
        }
    }

    fn with_crashes(&self, crashes: u32) -> Vec<u8> {
        match &self.header {
            Some(header) if header.crashes != crashes => {
                super::Header { crashes, ..header.clone() }.encode(envelope::priority(self.entry))
            }
            _ => Vec::new(),
        }
    }

    fn held(&self) -> Vec<u8> {
        let header = self.header.as_ref();
        HeldMail {
            claim_id: self.claim.to_owned(),
            id: header.map(|h| h.id.clone()).unwrap_or_default(),
            message_id: header.map(|h| h.message_id.clone()).unwrap_or_default(),
            reason: "OutcomeUnknown".into(),
            at: self.now,
            process: self.process.to_owned(),
            stage: Some(self.stage),
            reply: String::new(),
            first_seen: header.map(|h| h.first_seen).unwrap_or_default(),
            key: header.and_then(|h| h.key.clone()),
            serial: header.map(|h| h.serial.clone()).unwrap_or_default(),
        }
        .encode()
    }

    fn poison(&self, crashes: u32) -> DeadLetter {
        let header = self.header.clone().map(|header| super::Header { crashes, ..header });
        let reply = format!("{crashes} processes crashed while they sent this mail");
        DeadLetter::new(header.as_ref(), envelope::priority(self.entry), "Poison", &reply, Some(self.stage), self.now)
    }
}
