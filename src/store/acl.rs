//! What a login may do in Redis: the rules of its ACL, in the words of `ACL SETUSER` of Redis 7.0 and later.
//!
//! A rule of Redis permits commands and keys apart from each other, so that whoever may read one key and write another may
//! do both with both. Selectors (the words in parentheses) keep them together: a [`Grant`] is one.

use std::fmt;

/// What every connection needs. Subcommands of CLIENT differ between versions of Redis, so they are permitted but for those
/// that concern others. CLIENT TRACKING is one of these: it tells of every key that anybody changes.
const CONNECTION: [&str; 6] = ["+client", "-@admin", "-@dangerous", "-client|tracking", "+ping", "+select"];

/// Which keys or channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// The one that is called so.
    One(String),
    /// All that begin so.
    Under(String),
}

impl Names {
    /// All that there are.
    pub fn all() -> Self {
        Self::Under(String::new())
    }

    /// Whether a name may be one of both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one == other,
            (Self::One(one), Self::Under(prefix)) | (Self::Under(prefix), Self::One(one)) => one.starts_with(prefix),
            (Self::Under(one), Self::Under(other)) => one.starts_with(other) || other.starts_with(one),
        }
    }
}

impl fmt::Display for Names {
    /// As a pattern of Redis; what means something there stands for itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::One(name) | Self::Under(name)) = self;
        for letter in name.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{letter}")?;
        }
        f.write_str(if matches!(self, Self::Under(_)) { "*" } else { "" })
    }
}

/// What may be done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Both,
}

/// Commands, and the keys and channels that they may be used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    commands: Vec<&'static str>,
    keys: Vec<(Access, Names)>,
    channels: Vec<Names>,
}

impl Grant {
    /// These commands, on nothing yet.
    pub fn of(commands: &[&'static str]) -> Self {
        Self { commands: commands.to_vec(), keys: Vec::new(), channels: Vec::new() }
    }

    /// On these keys, whose content may be read. What says only that a key is there, or how long it is, is not its content.
    #[must_use]
    pub fn reading(self, keys: impl IntoIterator<Item = Names>) -> Self {
        self.with(Access::Read, keys)
    }

    /// On these keys, which may be written and not read.
    #[must_use]
    pub fn writing(self, keys: impl IntoIterator<Item = Names>) -> Self {
        self.with(Access::Write, keys)
    }

    /// On these keys, which may be read and written. A script names its keys as such, whatever it does with them; each of its
    /// commands must be permitted as well.
    #[must_use]
    pub fn on(self, keys: impl IntoIterator<Item = Names>) -> Self {
        self.with(Access::Both, keys)
    }

    /// On these channels.
    #[must_use]
    pub fn channels(mut self, channels: impl IntoIterator<Item = Names>) -> Self {
        self.channels.extend(channels);
        self
    }

    fn with(mut self, access: Access, keys: impl IntoIterator<Item = Names>) -> Self {
        self.keys.extend(keys.into_iter().map(|names| (access, names)));
        self
    }

    /// Whether one of its keys may be one of these.
    pub fn reaches(&self, names: &Names) -> bool {
        self.keys.iter().any(|(_, own)| own.overlaps(names))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commands = self.commands.iter().map(|command| format!("+{command}"));
        let keys = self.keys.iter().map(|(access, names)| match access {
            Access::Read => format!("%R~{names}"),
            Access::Write => format!("%W~{names}"),
            Access::Both => format!("~{names}"),
        });
        let channels = self.channels.iter().map(|names| format!("&{names}"));
        write!(f, "({})", commands.chain(keys).chain(channels).collect::<Vec<_>>().join(" "))
    }
}

/// All that a login may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Commands that name neither keys nor channels.
    commands: Vec<&'static str>,
    grants: Vec<Grant>,
}

impl Rules {
    /// Connecting, and these commands, which name neither keys nor channels.
    pub fn new(commands: &[&'static str]) -> Self {
        Self { commands: commands.to_vec(), grants: Vec::new() }
    }

    /// And this.
    #[must_use]
    pub fn and(mut self, grants: impl IntoIterator<Item = Grant>) -> Self {
        self.grants.extend(grants);
        self
    }

    /// Whether a key that may be read or written may be one of these.
    pub fn reach(&self, names: &Names) -> bool {
        self.grants.iter().any(|grant| grant.reaches(names))
    }

    /// The words that follow the name of the user in `ACL SETUSER`. They take away whatever the user was permitted before, and
    /// leave its passwords as they are.
    pub fn words(&self) -> Vec<String> {
        let begin = ["on", "resetkeys", "resetchannels", "clearselectors", "-@all"].into_iter().chain(CONNECTION);
        let commands = self.commands.iter().map(|command| format!("+{command}"));
        begin.map(str::to_owned).chain(commands).chain(self.grants.iter().map(ToString::to_string)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Names {
        Names::One(name.into())
    }

    fn under(name: &str) -> Names {
        Names::Under(name.into())
    }

    #[test]
    fn what_redis_takes_for_a_pattern_stands_for_itself() {
        assert_eq!(one("{q}:high").to_string(), "{q}:high");
        assert_eq!(one(r"a*b?c[d]e\f").to_string(), r"a\*b\?c\[d\]e\\f");
        assert_eq!(under("{q}:").to_string(), "{q}:*");
        assert_eq!(Names::all().to_string(), "*");
    }

    #[test]
    fn a_grant_is_a_selector() {
        let grant = Grant::of(&["get", "subscribe"]).reading([one("r")]).writing([one("w")]).on([under("b:")]);
        assert_eq!(grant.channels([one("c")]).to_string(), "(+get +subscribe %R~r %W~w ~b:* &c)");
    }

    #[test]
    fn names_overlap_when_a_key_can_be_both() {
        assert!(one("a").overlaps(&one("a")) && !one("a").overlaps(&one("b")));
        assert!(one("mail:7").overlaps(&under("mail:")) && under("mail:").overlaps(&one("mail:7")));
        assert!(!one("mail").overlaps(&under("mail:")));
        assert!(under("mail:").overlaps(&under("mail:a:")) && under("mail:a:").overlaps(&under("mail:")));
        assert!(!under("a:").overlaps(&under("b:")));
        let rules = Rules::new(&[]).and([Grant::of(&["get"]).reading([under("a:")])]);
        assert!(rules.reach(&one("a:1")) && !rules.reach(&one("b:1")));
    }

    #[test]
    fn rules_take_away_what_was_permitted_before_and_leave_passwords() {
        let words = Rules::new(&["info"]).and([Grant::of(&["get"]).reading([one("k")])]).words();
        assert_eq!(words[..5], ["on", "resetkeys", "resetchannels", "clearselectors", "-@all"]);
        assert_eq!(words[words.len() - 2..], ["+info", "(+get %R~k)"]);
        let place = |word: &str| words.iter().position(|other| other == word);
        assert!(place("-@dangerous") < place("+info"), "INFO is one of the dangerous ones");
        assert!(!words.iter().any(|word| word.contains("pass")), "{words:?}");
    }
}
