//! Reasons that several conditions have, and those of Events.

/// A reason.
#[derive(Clone, Copy, Debug)]
pub struct ReasonDoc {
    /// `reason`.
    pub word: &'static str,
    /// `status` of the condition; empty where it depends on the condition.
    pub status: &'static str,
    /// What is so.
    pub means: &'static str,
    /// What to do next; empty when nothing is to be done.
    pub next: &'static str,
}

/// Without field names, which would hide the words.
pub(super) const fn reason(
    word: &'static str,
    status: &'static str,
    means: &'static str,
    next: &'static str,
) -> ReasonDoc {
    ReasonDoc { word, status, means, next }
}

/// Why a relay or a mail server cannot be used before somebody changes a spec.
pub const SETUP: &[ReasonDoc] = &[
    reason(
        "InvalidSpec",
        "",
        "the spec breaks a rule that only the controller can check",
        "change the field that the message names",
    ),
    reason("QueueConflict", "", "a list or payload prefix is another relay's", "give spec.queue names of its own"),
    reason(
        "BudgetConflict",
        "",
        "a budget name is another tenant's",
        "give the server a budgetName of its own, or borrow from a MailServer",
    ),
    reason(
        "DuplicateBudget",
        "",
        "the server has a budget under another name already",
        "use that budget, or make a MailServer that both borrow from",
    ),
    reason("ServerNotFound", "", "there is no such MailServer", "kubectl get mailservers"),
    reason("InvalidServer", "", "the MailServer cannot be used as it is", "kubectl describe mailserver NAME"),
    reason(
        "NamespaceNotAllowed",
        "",
        "the MailServer does not allow this namespace",
        "label the namespace as its allowedNamespaces asks",
    ),
];

/// What stands still for reasons of Redis or the API server.
pub const STORE: &[ReasonDoc] = &[
    reason(
        "StoreUnreachable",
        "",
        "Redis cannot be reached; what is leased stays leased until it ends by itself",
        "look at Redis and the way to it",
    ),
    reason(
        "LedgerUnreadable",
        "",
        "the key of a ledger holds something else",
        "look at the key that the message names; other relays go on",
    ),
    reason("NewerVersion", "", "a newer version of mailrelay wrote what is to be read", "update what is older"),
    reason(
        "RecordNotWritten",
        "",
        "the record for the workers cannot be written; they go on with the last one",
        "look at the key that the message names",
    ),
    reason(
        "MarkNotWritten",
        "",
        "a new budget waits until it is written into the ConfigMap that outlives Redis",
        "look at the controller's rights and quota for that ConfigMap",
    ),
    reason(
        "LedgerRecovering",
        "",
        "Redis lost the ledger: workers say again what they hold, and nothing new is granted meanwhile",
        "",
    ),
    reason("ServerInOtherBudget", "", "sessions of an earlier budget of this server may still be counted", ""),
];

/// Why workers cannot use a server.
pub const WORKER: &[ReasonDoc] = &[
    reason(
        "ConnectFailed",
        "",
        "no connection that gets as far as an answer to EHLO",
        "look at host, port and network policy",
    ),
    reason(
        "GreetingRefused",
        "",
        "the greeting or the answer to EHLO was a refusal",
        "read the server's words in the message",
    ),
    reason("ServiceUnavailable", "", "the server says 421", ""),
    reason("OutOfStorage", "", "the server's disk is full", "tell whoever runs it"),
    reason("ConnectionLost", "", "connections break", "look at what lies on the way: proxies, firewalls, timeouts"),
    reason("TimedOut", "", "answers do not come in time", "look at the server's load, and at what lies on the way"),
    reason(
        "OutcomeUnknown",
        "",
        "the final answers of mails are lost",
        "mailrelay held list; look at what lies on the way",
    ),
    reason("Throttled", "", "the server asks to be slower", ""),
    reason("TemporaryFailure", "", "the server says later, and not why", "the server's log"),
    reason(
        "ProtocolError",
        "",
        "an answer that is no SMTP, or none",
        "look whether host and port are those of a mail server",
    ),
    reason(
        "TooManyConnections",
        "",
        "the server takes fewer connections than the budget has",
        "lower maxConnections, or raise the server's limit",
    ),
    reason("QuotaExceeded", "", "the server takes no more mail for now", "set rateLimits to what it takes"),
    reason(
        "TlsFailed",
        "",
        "no TLS, and no clear text instead",
        "the message names what is wrong with the certificate and the field or file that mends it",
    ),
    reason(
        "AuthenticationFailed",
        "",
        "the server does not take the login",
        "renew the login in the Secret; it is read again",
    ),
    reason(
        "RelayDenied",
        "",
        "the server does not send to others for us",
        "its networks or users that may send, or auth",
    ),
    reason(
        "LoginRequired",
        "",
        "the server wants a login, and there is none",
        "set auth, and give the worker its files",
    ),
    reason("HeloRefused", "", "the server does not like our name", "set heloName to a full name that the DNS knows"),
    reason(
        "ClientRefused",
        "",
        "the server does not like the address we come from",
        "its name in the DNS, the server's list of clients",
    ),
    reason(
        "Blocked",
        "",
        "a block list names us",
        "have the address or domain taken off the list that the message names",
    ),
    reason(
        "SenderRefused",
        "",
        "one sender after another is refused",
        "whether this login may send as it; its domain's records",
    ),
    reason("RecipientRefused", "", "one recipient after another is refused", "the server's log"),
    reason(
        "PolicyRefused",
        "",
        "one mail after another is refused without a reason that names anything",
        "the server's log",
    ),
    reason(
        "DeadLetterSurge",
        "",
        "most of the last mails died; the relay asks with one at a time",
        "mailrelay dead list",
    ),
    reason(
        "SecretMissing",
        "",
        "the files of the server's login or authority are not there",
        "mount the Secret that the message names",
    ),
    reason(
        "HostNotAllowed",
        "",
        "the login may not go to this host",
        "add the host to allowed-hosts in the Secret, if it may",
    ),
    reason("OutOfFileDescriptors", "", "the worker has no file descriptor left", "raise its limit"),
    reason(
        "NoDeadManSwitch",
        "",
        "nothing would end the worker's sessions in time, so that it opens none",
        "allow timer signals in its seccomp profile",
    ),
    reason("RecordUnreadable", "", "the relay's record makes no sense to the worker", "update what is older"),
];

/// Reasons of Events that are none of a condition.
pub const EVENTS: &[ReasonDoc] = &[
    reason("SharesRebalanced", "Normal", "who has which share from now on", ""),
    reason("LedgerOpened", "Normal", "slots of a budget are granted", ""),
    reason("LedgerRecovering", "Normal", "Redis lost a ledger", ""),
    reason("WorkerLost", "Warning", "a worker died or fell silent, and what is withheld of its slots", ""),
    reason(
        "MailRecovered",
        "Normal",
        "mail of a worker that ended went back, was held, or died (then it is a Warning)",
        "mailrelay held list",
    ),
    reason(
        "CleanupUnusual",
        "Warning",
        "more mail than usual had to be taken from dead workers",
        "look why workers die",
    ),
    reason("DeadLettersDiscarded", "Warning", "dead letters were older than queue.deadLetterRetention", ""),
];
