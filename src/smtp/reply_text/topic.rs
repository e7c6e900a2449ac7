//! What the text of a reply may speak of.

/// What a phrase speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::smtp) enum Topic {
    /// More sessions at once than the server takes.
    Connections,
    /// More mails in this session than the server takes.
    SessionFull,
    /// More recipients in this transaction than the server takes.
    Recipients,
    /// More mail in a moment than the server takes.
    Rate,
    /// What the sender may send in a longer time.
    Quota,
    /// A quota, without a word of whose it is.
    VagueQuota,
    /// How often something may be in a time.
    Frequency,
    /// What we send, as opposed to what somebody gets.
    Outgoing,
    /// What a mailbox may hold or get.
    Mailbox,
    /// Come back later, on principle.
    Greylist,
    /// Our right to send through this server to others.
    Relay,
    /// A login that is missing.
    Login,
    /// Our name in EHLO.
    Helo,
    /// The address that we connect from, or its name.
    Client,
    /// The sender of the mail.
    Sender,
    /// A question to the sender's own server whether it exists.
    Callout,
    /// A list of senders or hosts that nobody wants mail of.
    List,
    /// Our address, host or server is named.
    Ourselves,
    /// A recipient that does not exist or takes no mail.
    Recipient,
    /// What Postfix puts before whatever a policy service says of a mail at RCPT.
    RecipientPrefix,
    /// A refusal that may be about anybody.
    Denial,
    /// Mail that nobody asked for.
    Spam,
    /// A limit that is counted by the hour.
    Hourly,
    /// What the server suffers from.
    Server,
    /// To come back, and no word of why.
    ComeBack,
    /// A session that was at rest for too long.
    Idle,
    /// A mail that goes round and round.
    Loop,
}

/// The phrases of a topic, in lower case. A star ends a phrase that may go on within the word; parts between `&` must all be
/// there, in any order.
pub(super) type Phrases = (Topic, &'static [&'static str]);
