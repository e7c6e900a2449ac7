//! The stages of a claimed mail, as a pure transition function.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{api::UnknownOutcome, mail::UnixMillis};

/// How far the process that claimed a mail has come with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Taken from a list, not looked at yet: no header, no idempotency record.
    Taken,
    /// Checked, header and records written; nothing of it was sent.
    Claimed,
    /// A mail transaction is under way; the server can't have accepted the mail.
    Sending,
    /// The bytes that complete the mail may have been handed to the socket: the only ambiguous stage.
    Committing,
}

impl Stage {
    /// As stored in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Claimed => "claimed",
            Self::Sending => "sending",
            Self::Committing => "committing",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Stage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Taken, Self::Claimed, Self::Sending, Self::Committing]
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or(())
    }
}

/// How a process ended, and what to do with mail whose outcome nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverOptions {
    /// The relay's policy.
    pub unknown: UnknownOutcome,
    /// The store's fence changed while the process lived, and the store may have lost a `committing`: everything it
    /// claimed is an unknown outcome. Leave false for a single node with `appendfsync always`.
    pub fence_changed: bool,
    /// The process ended by a signal, out of memory or a panic, so that a mail it was sending may be what killed it.
    /// Leave false for a scale-down or a lost node.
    pub crashed: bool,
    /// The kernel killed it since memory ran out, which a small mail does not bring about.
    pub out_of_memory: bool,
}

/// What speaks for a mail and against it, when its process crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// How many mails the process was sending, this one included.
    pub sending: usize,
    /// Bytes of the mail's payload.
    pub length: usize,
}

/// From this length on, in bytes, a mail may be why memory ran out.
const HEAVY: usize = 1024 * 1024;

impl Suspicion {
    /// Whether it can have been this mail: nothing else was being sent, and it is large enough for what happened.
    fn is_proof(self, out_of_memory: bool) -> bool {
        self.sending <= 1 && (!out_of_memory || self.length >= HEAVY)
    }
}

/// After how many crashes a mail is sent with nothing beside it.
pub const ALONE_FROM: u32 = 2;
/// After how many crashes a mail goes to the dead letters.
pub const POISON_FROM: u32 = 3;

/// What becomes of a dead process's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Back to the end that is taken next; `crashes` is the new count.
    Requeue {
        /// Crashes counted for this mail, this one included.
        crashes: u32,
    },
    /// Parked for a person.
    Hold,
    /// Sent again with the same Message-ID.
    Resend,
    /// To the dead letters: it was being sent at each of too many crashes.
    Poison {
        /// Crashes counted for this mail, this one included.
        crashes: u32,
    },
}

/// Decides by stage what becomes of a dead process's claim. A mail that may be innocent is counted until it is sent alone,
/// and no further: then the next crash tells.
pub fn resolve(stage: Stage, crashes: u32, suspicion: Suspicion, options: &RecoverOptions) -> Resolution {
    let unknown = match options.unknown {
        UnknownOutcome::Hold => Resolution::Hold,
        UnknownOutcome::Resend => Resolution::Resend,
    };
    if stage == Stage::Committing || options.fence_changed {
        return unknown;
    }
    if stage != Stage::Sending || !options.crashed {
        return Resolution::Requeue { crashes };
    }
    let more = crashes.saturating_add(1);
    if !suspicion.is_proof(options.out_of_memory) {
        return Resolution::Requeue { crashes: crashes.max(more.min(ALONE_FROM)) };
    }
    let crashes = more;
    if crashes >= POISON_FROM { Resolution::Poison { crashes } } else { Resolution::Requeue { crashes } }
}

/// A stage with its time, as stored: `sending 1763683734123 n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMark {
    /// The stage.
    pub stage: Stage,
    /// Since when.
    pub since: UnixMillis,
}

impl FromStr for StageMark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let stage = words.next().ok_or(())?.parse()?;
        let since = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        Ok(Self { stage, since: UnixMillis(since) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Stage; 4] = [Stage::Taken, Stage::Claimed, Stage::Sending, Stage::Committing];

    fn options(unknown: UnknownOutcome, fence_changed: bool, crashed: bool) -> RecoverOptions {
        RecoverOptions { unknown, fence_changed, crashed, out_of_memory: false }
    }

    /// A small mail that nothing else was sent beside.
    const LONE: Suspicion = Suspicion { sending: 1, length: 1_000 };

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as what it stands for")]
    fn resolve(stage: Stage, crashes: u32, options: &RecoverOptions) -> Resolution {
        super::resolve(stage, crashes, LONE, options)
    }

    #[test]
    fn a_mail_that_was_not_sent_alone_is_never_poison() {
        let crashed = options(UnknownOutcome::Hold, false, true);
        let company = Suspicion { sending: 2, ..LONE };
        let mut count = 0;
        for _ in 0..20 {
            let Resolution::Requeue { crashes: counted } = super::resolve(Stage::Sending, count, company, &crashed)
            else {
                panic!("it is not blamed")
            };
            count = counted;
        }
        assert_eq!(count, ALONE_FROM, "from now on it is sent alone");
    }

    #[test]
    fn a_small_mail_is_not_why_memory_ran_out_and_a_large_one_may_be() {
        let killed = RecoverOptions { out_of_memory: true, ..options(UnknownOutcome::Hold, false, true) };
        let large = Suspicion { sending: 1, length: HEAVY };
        assert_eq!(super::resolve(Stage::Sending, 2, LONE, &killed), Resolution::Requeue { crashes: 2 });
        assert_eq!(super::resolve(Stage::Sending, 2, large, &killed), Resolution::Poison { crashes: 3 });
    }

    #[test]
    fn before_committing_mail_goes_back_and_committing_is_held() {
        let hold = options(UnknownOutcome::Hold, false, false);
        for stage in [Stage::Taken, Stage::Claimed, Stage::Sending] {
            assert_eq!(resolve(stage, 0, &hold), Resolution::Requeue { crashes: 0 });
        }
        assert_eq!(resolve(Stage::Committing, 0, &hold), Resolution::Hold);
        assert_eq!(resolve(Stage::Committing, 0, &options(UnknownOutcome::Resend, false, true)), Resolution::Resend);
    }

    #[test]
    fn after_a_change_of_the_fence_every_stage_is_unknown() {
        for stage in ALL {
            assert_eq!(resolve(stage, 0, &options(UnknownOutcome::Hold, true, true)), Resolution::Hold);
        }
    }

    #[test]
    fn only_crashes_while_sending_count_and_the_third_is_poison() {
        let crashed = options(UnknownOutcome::Hold, false, true);
        assert_eq!(resolve(Stage::Claimed, 2, &crashed), Resolution::Requeue { crashes: 2 });
        assert_eq!(resolve(Stage::Sending, 0, &crashed), Resolution::Requeue { crashes: 1 });
        assert_eq!(resolve(Stage::Sending, 2, &crashed), Resolution::Poison { crashes: 3 });
        assert_eq!(resolve(Stage::Committing, 2, &crashed), Resolution::Hold);
    }

    #[test]
    fn a_stage_mark_reads_what_the_scripts_write() {
        let mark: StageMark = "sending 1763683734123 n".parse().expect("a mark");
        assert_eq!(mark, StageMark { stage: Stage::Sending, since: UnixMillis(1_763_683_734_123) });
        assert!("nonsense".parse::<StageMark>().is_err());
    }
}
