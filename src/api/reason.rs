//! Why a worker cannot use a server, or not follow its record, in one word.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One list for the variants and for the words that they are in a report and in a condition: their own names.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A condition reason, as a report has it. The message beside it says the rest.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
            /// A word that this version has no name for: it is shown as it is, and nothing follows from it.
            Other(String),
        }

        impl Reason {
            /// `UpperCamelCase`, stable.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    Self::Other(word) => word,
                }
            }
        }

        impl FromStr for Reason {
            type Err = Infallible;

            fn from_str(word: &str) -> Result<Self, Infallible> {
                Ok(match word {
                    $(stringify!($name) => Self::$name,)+
                    other => Self::Other(other.to_owned()),
                })
            }
        }
    };
}

reasons! {
    /// No connection, or none that gets as far as a greeting and an EHLO reply.
    ConnectFailed,
    /// The greeting or the EHLO reply was a refusal.
    GreetingRefused,
    /// 421.
    ServiceUnavailable,
    /// The server's disk is full.
    OutOfStorage,
    /// The connection broke.
    ConnectionLost,
    /// No answer came in time.
    TimedOut,
    /// The final answer of one mail after another was lost.
    OutcomeUnknown,
    /// The server asks to be slower.
    Throttled,
    /// The server says later, and not why.
    TemporaryFailure,
    /// A reply out of sequence, or none at all in SMTP's terms.
    ProtocolError,
    /// The server takes fewer sessions than the budget allows; it is used as far as that goes.
    TooManyConnections,
    /// No more mail for now, says the server.
    QuotaExceeded,
    /// No TLS, and no clear text instead.
    TlsFailed,
    /// The server does not take our login.
    AuthenticationFailed,
    /// The server does not send to others for us.
    RelayDenied,
    /// The server wants a login, and we have none.
    LoginRequired,
    /// The server does not like our name in EHLO.
    HeloRefused,
    /// The server does not like the address that we come from, or its name.
    ClientRefused,
    /// The server has us on a block list.
    Blocked,
    /// The server refuses one sender after another.
    SenderRefused,
    /// The server refuses one recipient after another.
    RecipientRefused,
    /// The server refuses one mail after another and names nothing that it judges.
    PolicyRefused,
    /// Most of the last mails went to the dead letters.
    DeadLetterSurge,
    /// The files of the server's login or authority are not there, or of no use.
    SecretMissing,
    /// The server's host is not one that its files may be sent to.
    HostNotAllowed,
    /// No file descriptor was left to the worker.
    OutOfFileDescriptors,
    /// Nothing would end the worker's sessions in time, so that it opens none.
    NoDeadManSwitch,
    /// A newer version of mailrelay wrote the record.
    NewerVersion,
    /// The record makes no sense.
    RecordUnreadable,
}

impl From<String> for Reason {
    fn from(word: String) -> Self {
        let Ok(reason) = word.parse();
        reason
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Other(word) => word,
            named => named.as_str().to_owned(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_has_the_words_of_the_conditions_and_words_of_newer_workers_stay_as_they_are() {
        for (reason, word) in [
            (Reason::DeadLetterSurge, "DeadLetterSurge"),
            (Reason::TlsFailed, "TlsFailed"),
            (Reason::Other("DnsDown".into()), "DnsDown"),
        ] {
            assert_eq!(serde_json::to_value(&reason).expect("JSON"), json!(word));
            assert_eq!(serde_json::from_value::<Reason>(json!(word)).expect("a reason"), reason);
            assert_eq!(reason.to_string(), word);
        }
    }
}
