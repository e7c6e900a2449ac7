//! The third step of a claim: the script decides, fixes the headers of those that can be sent, and moves the others.

use super::{
    decide::{Admission, Envelope},
    look::{Looked, Sight},
};
use crate::{
    queue::{
        At, Queue,
        at::word,
        records::{Records, short},
        scripts,
    },
    store::StoreError,
};

impl Queue {
    /// Lets the script decide, and thinks over what it does not decide by itself, which is rare.
    pub(super) async fn admit_all(
        &self,
        process: &str,
        looked_at: &mut [Looked],
        at: At,
    ) -> Result<Vec<String>, StoreError> {
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
            let (action, message_id) = match &looked.admission {
                Admission::Keep { header, mail } => {
                    (due, expires) = (word(mail.not_before), word(mail.expires_at));
                    if looked.rewrites || !matches!(looked.envelope, Envelope::Headed(..)) {
                        line = header.encode(mail.priority);
                    }
                    ("kept", &*header.message_id)
                }
                Admission::Duplicate(header) => ("duplicate", &*header.message_id),
                Admission::Dead(dead, payload) => {
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
