//! Every condition type and reason, in one place: what it means, and what to do next. `docs/conditions.md` is written from it.

mod reasons;

use reasons::reason;
pub use reasons::{EVENTS, ReasonDoc, SETUP, STORE, WORKER};

/// A condition type.
#[derive(Clone, Copy, Debug)]
pub struct ConditionDoc {
    /// `type`.
    pub kind: &'static str,
    /// What it tells when it is `True`.
    pub tells: &'static str,
    /// The status that calls for attention; none when it only tells.
    pub alarm: Option<&'static str>,
    /// What is said of it.
    pub reasons: &'static [ReasonDoc],
    /// Groups of reasons that occur as well: [`SETUP`], [`STORE`], [`WORKER`].
    pub others: &'static [&'static [ReasonDoc]],
}

/// All condition types in the order in which they are shown.
pub const CONDITIONS: &[ConditionDoc] = &[
    ConditionDoc {
        kind: "Ready",
        tells: "mail is sent, or could be",
        alarm: Some("False"),
        reasons: &[
            reason("AllSharesGranted", "True", "every worker has its share", ""),
            reason("SharesMoving", "True", "shares are on their way from one worker to another", ""),
            reason("SlotsWithheld", "True", "the workers share what is not withheld", "see SlotsQuarantined"),
            reason("Granting", "True", "a MailServer's relays share its budget", ""),
            reason(
                "NotBorrowed",
                "True",
                "no relay borrows from a MailServer",
                "name it in spec.servers[].serverRef of a MailRelay",
            ),
            reason(
                "Suspended",
                "False",
                "somebody suspended the relay: mail is accepted and not sent",
                "set suspend to false",
            ),
            reason(
                "ScaledToZero",
                "False",
                "no pod is selected: mail is accepted and waits",
                "scale up the pods, or look at their labels",
            ),
            reason(
                "WaitingForWorkers",
                "False",
                "pods are there, and no worker in them asked for its share",
                "look at the container mailrelay and at MAILRELAY_NAME",
            ),
            reason(
                "NoNamespaceAllowed",
                "False",
                "no namespace may borrow from a MailServer",
                "set spec.allowedNamespaces; {} is all of them",
            ),
        ],
        others: &[SETUP, STORE, WORKER],
    },
    ConditionDoc {
        kind: "Reconciling",
        tells: "the controller is behind what the spec says",
        alarm: None,
        reasons: &[reason("Progressing", "True", "shares are being written", "")],
        others: &[STORE],
    },
    ConditionDoc {
        kind: "Stalled",
        tells: "nothing moves until a person changes something",
        alarm: Some("True"),
        reasons: &[],
        others: &[SETUP, STORE, WORKER],
    },
    ConditionDoc {
        kind: "QueueDepthHigh",
        tells: "more mails wait than queue.depthThreshold",
        alarm: Some("True"),
        reasons: &[
            reason(
                "AboveThreshold",
                "True",
                "more mails wait",
                "mailrelay status; scale up, or look why the server is slow",
            ),
            reason("BelowThreshold", "False", "at most so many wait", ""),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "QueueFull",
        tells: "the queue is at queue.maxLength, and new mail is refused",
        alarm: Some("True"),
        reasons: &[
            reason("AtCapacity", "True", "`mailrelay send` refuses new mail", "mailrelay queue"),
            reason("BelowCapacity", "False", "there is room", ""),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "MailDelayed",
        tells: "the oldest mail has waited longer than queue.oldestThreshold",
        alarm: Some("True"),
        reasons: &[
            reason("OldestTooOld", "True", "it has waited too long", "mailrelay queue; the other conditions say why"),
            reason("InTime", "False", "none has", ""),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "DeadLettersPresent",
        tells: "mails wait for a person",
        alarm: Some("True"),
        reasons: &[
            reason("DeadLetters", "True", "mails were given up", "mailrelay dead list"),
            reason("NoDeadLetters", "False", "none was", ""),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "OutcomeUnknown",
        tells: "mails are held, since the server's final answer was lost",
        alarm: Some("True"),
        reasons: &[
            reason(
                "AnswerLost",
                "True",
                "nobody knows whether the server took them",
                "mailrelay held resolve --log FILE",
            ),
            reason("NothingHeld", "False", "none is", ""),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "AuditMismatch",
        tells: "what was accepted and what is accounted for differ",
        alarm: Some("True"),
        reasons: &[
            reason("MailMissing", "True", "mail was removed from Redis by something else", "mailrelay audit"),
            reason("MailUnaccounted", "True", "mail was put there by something else", "mailrelay audit"),
            reason("NotVerified", "Unknown", "not all could be counted", "mailrelay audit"),
            reason("AllAccountedFor", "False", "they agree", ""),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "ServerUnavailable",
        tells: "every worker says of a server that it cannot be used",
        alarm: Some("True"),
        reasons: &[reason("ServersAvailable", "False", "no server is", "")],
        others: &[WORKER, SETUP, STORE],
    },
    ConditionDoc {
        kind: "ServerRefusesUs",
        tells: "a server refuses us, not single mails: no mail is lost, and one at a time asks again",
        alarm: Some("True"),
        reasons: &[],
        others: &[WORKER],
    },
    ConditionDoc {
        kind: "DeadLetterSurge",
        tells: "most of the last mails died; the relay rests and asks with one at a time",
        alarm: Some("True"),
        reasons: &[reason(
            "MostMailDies",
            "True",
            "most of the last mails went to the dead letters",
            "mailrelay dead list; retry.deadLetterGuard: false goes on all the same",
        )],
        others: &[],
    },
    ConditionDoc {
        kind: "ServerSaturated",
        tells: "a server takes fewer connections than its budget",
        alarm: Some("True"),
        reasons: &[reason(
            "ServerLimitBelowBudget",
            "True",
            "it said that there are too many",
            "lower maxConnections, or raise the server's limit",
        )],
        others: &[],
    },
    ConditionDoc {
        kind: "RateLimited",
        tells: "mail waits for rateLimits",
        alarm: None,
        reasons: &[reason("MailWaits", "True", "the limit is used up for now", "")],
        others: &[],
    },
    ConditionDoc {
        kind: "WorkersMissing",
        tells: "a worker cannot take its share; the others have it meanwhile",
        alarm: Some("True"),
        reasons: &[reason(
            "NotRegistered",
            "True",
            "a pod runs, and no worker in it asked for its share",
            "the message names the likely cause and the log to read",
        )],
        others: &[WORKER],
    },
    ConditionDoc {
        kind: "StoreUnsafe",
        tells: "Redis may lose what it acknowledged",
        alarm: Some("True"),
        reasons: &[
            reason("Durable", "False", "it keeps every write that it acknowledged", ""),
            reason("VersionTooOld", "True", "Redis is older than 7.0", "update it"),
            reason("ReadOnlyReplica", "True", "the node is no primary", "give the primary's address"),
            reason("AofOff", "True", "a restart loses mail", "appendonly yes"),
            reason("FsyncNotAlways", "True", "a crash may lose mail that was accepted", "appendfsync always"),
            reason("RdbOff", "True", "there are no snapshots to go back to", "save '3600 1'"),
            reason("EvictionAllowed", "True", "mail may be evicted", "maxmemory-policy noeviction"),
            reason("MemoryFull", "True", "Redis takes no new mail", "raise maxmemory, or drain"),
            reason("WritesFailing", "True", "Redis cannot write its files", "look at its disk"),
            reason(
                "SplitBrainPossible",
                "True",
                "a primary that is cut off goes on taking writes",
                "min-replicas-to-write and min-replicas-max-lag",
            ),
            reason(
                "SettingsHidden",
                "Unknown",
                "the login may not read the settings",
                "mailrelay redis-acl controller, or check them by hand",
            ),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "VersionSkew",
        tells: "versions do not understand one another",
        alarm: Some("True"),
        reasons: &[reason(
            "NewerVersion",
            "True",
            "a newer version wrote what an older one is to read",
            "update the older one",
        )],
        others: &[],
    },
    ConditionDoc {
        kind: "SlotsQuarantined",
        tells: "slots are withheld, since the server may still count their connections",
        alarm: None,
        reasons: &[
            reason(
                "SessionsMayLinger",
                "True",
                "they come back at the time that the message names, or by proof before",
                "sessionTimeout says how long the server keeps a dead client",
            ),
            reason(
                "HeldByVanishedPod",
                "True",
                "a pod is gone from the API server, and its process may go on",
                "look for it on the node that the message names",
            ),
        ],
        others: &[],
    },
    ConditionDoc {
        kind: "SharedBudget",
        tells: "other relays draw on the same budget",
        alarm: None,
        reasons: &[reason("NamedByOthers", "True", "they do", "")],
        others: &[],
    },
];

/// Whether somebody reading the documentation finds this reason under this condition.
pub fn is_documented(kind: &str, word: &str) -> bool {
    let condition = CONDITIONS.iter().find(|condition| condition.kind == kind);
    condition.is_some_and(|of| {
        let mut reasons = of.reasons.iter().chain(of.others.iter().copied().flatten());
        reasons.any(|reason| reason.word == word)
    })
}
