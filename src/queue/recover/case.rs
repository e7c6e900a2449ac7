//! One claim of a dead process, and what becomes of it. Pure.

use std::time::Duration;

use crate::{
    mail::UnixMillis,
    queue::{
        DeadLetter, Entry, Header, HeldMail, RecoverOptions, Resolution, Stage, Suspicion, bodies::Head, envelope,
        resolve,
    },
};

/// How long a resend waits, so that a settlement still on its way finds the mail before anyone sends it again.
const RESEND_WAIT: Duration = Duration::from_secs(5);

/// One claim of a dead process.
pub(super) struct Case<'a> {
    process: &'a str,
    claim: &'a str,
    entry: &'a [u8],
    stage: Stage,
    pub header: Option<Header>,
    now: UnixMillis,
}

impl<'a> Case<'a> {
    pub(super) fn of(process: &'a str, head: &'a Head, stage: Stage, now: UnixMillis) -> Self {
        let header = match Entry::decode(&head.lines) {
            Entry::Sealed(header, _) => Some(*header),
            _ => None,
        };
        Self { process, claim: &head.field, entry: &head.lines, stage, header, now }
    }

    /// `options` are the relay's; what the mail's producer said comes before them.
    pub(super) fn resolution(&self, suspicion: Suspicion, options: RecoverOptions) -> Resolution {
        let crashes = self.header.as_ref().map_or(0, |header| header.crashes);
        let own = self.header.as_ref().and_then(|header| header.unknown_outcome);
        let options = RecoverOptions { unknown: own.unwrap_or(options.unknown), ..options };
        resolve(self.stage, crashes, suspicion, &options)
    }

    /// Action, header line (empty keeps the entry), what is parked beside it, how long it waits, and why.
    pub(super) fn moves(&self, resolution: Resolution) -> (&'static str, Vec<u8>, Vec<u8>, String, &'static str) {
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
                Header { crashes, ..header.clone() }.encode(envelope::priority(self.entry))
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

    pub(super) fn poison(&self, crashes: u32) -> DeadLetter {
        let header = self.header.clone().map(|header| Header { crashes, ..header });
        let reply = format!("{crashes} processes crashed while they sent this mail");
        DeadLetter::new(header.as_ref(), envelope::priority(self.entry), "Poison", &reply, Some(self.stage), self.now)
    }
}
