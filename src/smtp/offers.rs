//! What the server offers (EHLO reply).

use super::connect::{Credentials, Mechanism};
use crate::api::Auth;

/// What the server offers (EHLO reply).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one keyword of the EHLO reply, independent of the others")]
pub struct Offers {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtp_utf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870; `Some(None)` is SIZE without a limit.
    pub size: Option<Option<usize>>,
    /// The mechanisms of AUTH in upper case.
    pub auth: Vec<String>,
}

impl Offers {
    /// From the lines of an EHLO reply; the first one is the server's greeting.
    pub(super) fn read(lines: &[String]) -> Self {
        let mut offers = Self::default();
        for line in lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            // "AUTH=PLAIN" is how some old servers write it for older clients.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("PIPELINING") => offers.pipelining = true,
                Some("CHUNKING") => offers.chunking = true,
                Some("8BITMIME") => offers.eight_bit = true,
                Some("SMTPUTF8") => offers.smtp_utf8 = true,
                Some("STARTTLS") => offers.starttls = true,
                Some("SIZE") => {
                    offers.size = Some(words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0));
                }
                Some("AUTH") => offers.auth.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        offers
    }

    /// The mechanism to log in with, and the secret for it: the one wanted, or the other that sends the same user and password in the
    /// same way.
    pub(super) fn login_by<'a>(&self, wanted: Auth, credentials: &'a Credentials) -> Option<(Mechanism, &'a str)> {
        let offered = |mechanism: &&Mechanism| self.auth.iter().any(|offered| offered == mechanism.keyword());
        fitting(wanted).iter().filter(offered).find_map(|mechanism| Some((*mechanism, credentials.secret(*mechanism)?)))
    }
}

/// The mechanisms that may serve what is wanted, the best first.
pub(super) fn fitting(wanted: Auth) -> &'static [Mechanism] {
    use Mechanism::{Login, Plain, XOAuth2};
    match wanted {
        Auth::Auto => &[XOAuth2, Plain, Login],
        Auth::Plain => &[Plain, Login],
        Auth::Login => &[Login, Plain],
        Auth::XOAuth2 => &[XOAuth2],
    }
}
