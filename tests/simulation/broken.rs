//! Worlds in which a rule is left out, to see that its absence is noticed.

use crate::plan::{Edit, Fault};

/// A rule that is left out, to see that its absence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Redis tells the same fence after every loss (R7).
    NoFence,
    /// A slot is free when our FIN was acknowledged, not when the server's came (R4).
    EofAtAck,
    /// `committing` is not written, so that what was in doubt is sent again blindly.
    NoCommitting,
    /// Nobody remembers a socket's first error, and what reads say after it passes for the server's end (R4).
    ErrorForgotten,
    /// The supervisor takes `FIN_WAIT2` for the server's end.
    FinWaitProves,
    /// The supervisor takes a port that vanished for one that has ended.
    VanishedProves,
    /// A process that could not write all its connections down accounts for all of them.
    IncompleteAccounts,
    /// A pod that is over frees what it held after `closeGrace` (R5b).
    StatusFrees,
    /// A pod that is silent does (R5c).
    SilenceFrees,
    /// A process that a new container of its pod succeeds does (R5a).
    SuccessorFrees,
    /// A session without a proper end does (R10).
    UncleanFrees,
    /// A ledger that is opened again forgets who did not come back (R8).
    MissingForgotten,
    /// Ledgers do not say which servers they are for: a budget that is renamed opens at once.
    RenamedOpens,
    /// Nobody compares versions: an older copy of a ledger passes for the ledger (R7).
    NoVersions,
    /// An older copy of a ledger is known only to those who heard of something newer (R7).
    NoTwin,
    /// A server's processes take longer to end than a slot rests.
    NoSettle,
    /// A raw mail is another one at each look, so that a late `admit` makes it a duplicate of itself.
    OtherAtEachLook,
    /// Nobody remembers who has a mail that others did not get.
    HavingForgotten,
    /// What a producer wrote is believed where only our scripts may write.
    ForgedBelieved,
    /// A `sending` that comes late takes `committing` back.
    CommittingTakenBack,
}

impl Broken {
    /// What befalls a world without that rule more often than others.
    pub fn weapons(self) -> &'static [Fault] {
        match self {
            Self::ErrorForgotten | Self::UncleanFrees => &[Fault::BoxResets { pod: 0, client: true, server: false }],
            Self::FinWaitProves | Self::IncompleteAccounts => &[Fault::KillWorker { pod: 0 }],
            Self::VanishedProves => &[Fault::KillWorkerCut { pod: 0, ms: 6_000 }, Fault::PauseWorkerCut { pod: 0 }],
            Self::StatusFrees => &[Fault::FailPod { pod: 0 }],
            Self::SilenceFrees => &[Fault::FreezePod { pod: 0, ms: 25_000 }],
            Self::SuccessorFrees => &[Fault::CrashContainer { pod: 0, ms: 400 }],
            Self::MissingForgotten => &[Fault::FreezePod { pod: 0, ms: 25_000 }, Fault::DeleteLedger],
            Self::RenamedOpens => &[Fault::EditSpec { edit: Edit::BudgetName }],
            Self::NoVersions => &[Fault::RestoredLedger, Fault::DeletePod { pod: 0, grace_ms: 5_000 }],
            Self::NoTwin => &[Fault::RestoredLedger],
            Self::NoSettle => &[Fault::ScriptFlush],
            _ => &[],
        }
    }

    /// Whether it is about mail, so that producers, recipients and single commands must be of all kinds.
    pub fn is_of_mail(self) -> bool {
        matches!(self, Self::OtherAtEachLook | Self::HavingForgotten | Self::ForgedBelieved | Self::CommittingTakenBack)
    }

    /// Words of the scripts, and those that take their place.
    pub fn scripts(self) -> &'static [(&'static str, &'static str)] {
        const NO_VERSIONS: (&str, &str) = ("math.max(version, seen or 0, known or 0)", "version");
        const NO_TWIN: (&str, &str) = ("twinned = stored[6] ~= false", "twinned = false");
        match self {
            Self::NoFence | Self::NoVersions => &[NO_VERSIONS, NO_TWIN],
            Self::NoTwin => &[NO_TWIN],
            Self::StatusFrees => &[(
                "remove(inc, record, seconds, why)\nkeep_totals(",
                "remove(inc, record, seq == 'dead' and 1 or seconds, why)\nkeep_totals(",
            )],
            Self::SilenceFrees => &[(
                "remove(inc, record, seconds, why)\nkeep_totals(",
                "remove(inc, record, seq == 'dead' and seconds or 1, why)\nkeep_totals(",
            )],
            Self::SuccessorFrees => {
                &[("accounted[older.process] and 0 or hold", "accounted[older.process] and 0 or 1")]
            }
            Self::UncleanFrees => &[(
                "  quarantine(id, slots, seconds, why)\n  note('op', 'quarantine'",
                "  quarantine(id, slots, 1, why)\n  note('op', 'quarantine'",
            )],
            Self::MissingForgotten => &[("if inc == '-' or redis.call('HEXISTS'", "if false and redis.call('HEXISTS'")],
            Self::RenamedOpens => {
                &[("'HSET', ledger, 'servers', servers)", "'HSET', ledger, 'servers', 'elsewhere:25')")]
            }
            Self::OtherAtEachLook => &[(
                "  local own, other, has = records[1], nil, nil\n",
                "  local function is_of() return true end\n  if envelope == 'raw' and stage == 'claimed' then serial = 'another look' end\n  local own, other, has = records[1], nil, nil\n",
            )],
            Self::HavingForgotten => &[("join(found.has, has), sum", "'', sum")],
            Self::ForgedBelieved => &[("(not own or own.serial ~= serial)", "false")],
            Self::CommittingTakenBack => {
                &[("sending = {claimed = true, sending = true}", "sending = {claimed = true, committing = true}")]
            }
            _ => &[],
        }
    }
}
