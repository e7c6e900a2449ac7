//! Resolving what a dead process left, in one pass by stage.

mod case;

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::cmd;
use serde::Serialize;

use super::{
    At, Entry, Queue, RecoverOptions, Resolution, SCRIPT_LIMIT, Stage, StageMark, Suspicion,
    bodies::Head,
    records::{Records, short},
    scripts,
};
use crate::{mail::UnixMillis, store::StoreError, telemetry::log::mask_id};
use case::Case;

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

/// By what all claims of a process are resolved.
#[derive(Clone, Copy)]
struct Pass<'a> {
    process: &'a str,
    /// How many mails it was sending, before any of them is moved.
    sending: usize,
    options: &'a RecoverOptions,
    at: At,
}

/// A claim, and what the script is told of it.
struct Resolved {
    id: String,
    stage: Stage,
    words: [Vec<u8>; 11],
    /// Where its records lie, and the parts of its letter.
    keys: Vec<String>,
}

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
        let pass = Pass { process, sending: self.sending(process).await?, options, at };
        for _ in 0..PASSES {
            let (moved, skipped) = self.recover_pass(pass, &mut recovery).await?;
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
        let pass = Pass { process, sending: self.sending(process).await?, options, at };
        for ids in claims.chunks(BATCH) {
            let batch = self.heads_of(&self.names.claims(process), ids, 1).await?;
            for (stage, answer) in self.recover_batch(pass, &batch).await? {
                if !recovery.count(stage, &answer) {
                    recovery.skipped += 1;
                }
            }
        }
        Ok(recovery)
    }

    async fn recover_pass(&self, pass: Pass<'_>, recovery: &mut Recovery) -> Result<(u64, u64), StoreError> {
        let (mut moved, mut skipped, mut cursor) = (0, 0, 0u64);
        loop {
            let (next, page) = self.heads(&self.names.claims(pass.process), cursor, 1).await?;
            for batch in page.chunks(BATCH) {
                for (stage, answer) in self.recover_batch(pass, batch).await? {
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
            self.recover_batch(pass, &[]).await?;
        }
        Ok((moved, skipped))
    }

    async fn recover_batch(&self, pass: Pass<'_>, batch: &[Head]) -> Result<Vec<(Stage, String)>, StoreError> {
        let Pass { process, at, .. } = pass;
        let now = self.estimate(at);
        let marks = self.marks(process, batch).await?;
        let mut keys = vec![self.names.claims(process), self.names.stages(process)];
        let mut arguments: Vec<Vec<u8>> = vec![process.into(), at.word().into()];
        let mut judged = Vec::new();
        for (head, mark) in batch.iter().zip(marks) {
            let Some(resolved) = self.resolved(pass, head, mark, now).await? else { continue };
            arguments.extend(resolved.words);
            keys.extend(resolved.keys);
            judged.push((resolved.id, resolved.stage));
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

    /// Decides on one claim; none when it changed meanwhile, so that it is somebody else's to resolve, or the next pass's.
    async fn resolved(
        &self,
        pass: Pass<'_>,
        head: &Head,
        mark: Option<String>,
        now: UnixMillis,
    ) -> Result<Option<Resolved>, StoreError> {
        // Claim and stage are written together; a stage that is gone or unreadable tells nothing: the worst is assumed.
        let word = mark.as_deref().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned();
        let stage = mark.and_then(|mark| mark.parse::<StageMark>().ok()).map_or(Stage::Committing, |mark| mark.stage);
        let case = Case::of(pass.process, head, stage, now);
        let resolution = case.resolution(Suspicion { sending: pass.sending, length: head.length }, *pass.options);
        let (action, line, mut extra, wait, reason) = case.moves(resolution);
        let mut parts = None;
        if let Resolution::Poison { crashes } = resolution {
            // Only a dead letter has the payload in it.
            let claims = self.names.claims(pass.process);
            let Some(whole) = self.entry(&claims, &head.field, head.length).await? else { return Ok(None) };
            let whole = Bytes::from(whole);
            let payload = whole.slice_ref(Entry::decode(&whole).payload());
            let brought = self.bring(&case.poison(crashes), &payload).await?;
            (extra, parts) = (brought.word, brought.key);
        }
        let (id, key, serial, message_id) =
            case.header.as_ref().map_or(("", None, "", ""), |h| (&*h.id, h.key.as_deref(), &*h.serial, &*h.message_id));
        let Records { buckets: mut keys, fields } = self.records(id, key);
        keys.extend(parts);
        let words = [
            head.field.clone().into(),
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
        ];
        Ok(Some(Resolved { id: id.to_owned(), stage, words, keys }))
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
