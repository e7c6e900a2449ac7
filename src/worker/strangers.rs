//! Claims under this process's name that it knows nothing of.
//!
//! A Redis that comes back from an older copy brings back claims that this process has long ended. While it lives, nobody
//! else would ever resolve them, and their mail would stay in flight. What became of it is not known any more: this
//! process may have delivered it since the copy was made.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// How long a claim must be unknown here: longer than an answer to a claim is on its way, or one that was lost is looked
/// for.
const AGE: Duration = Duration::from_secs(10);

/// The claims that nobody knows, and since when.
#[derive(Debug, Default)]
pub struct Strangers {
    seen: BTreeMap<String, Instant>,
}

impl Strangers {
    /// Of the claims that Redis has under our name, those that have been nobody's for long enough.
    pub fn look(&mut self, claims: Vec<String>, is_in_hand: impl Fn(&str) -> bool, now: Instant) -> Vec<String> {
        let unknown = claims.into_iter().filter(|claim| !is_in_hand(claim));
        self.seen = unknown.map(|claim| (claim.clone(), self.seen.get(&claim).copied().unwrap_or(now))).collect();
        let old = self.seen.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= AGE);
        old.map(|(claim, _)| claim.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_stranger_only_when_it_was_nobodys_all_the_time() {
        let start = Instant::now();
        let mut strangers = Strangers::default();
        let mut look = |second, claims: &[&str], in_hand: &[&str]| {
            let claims = claims.iter().map(|claim| (*claim).to_owned()).collect();
            strangers.look(claims, |claim| in_hand.contains(&claim), start + Duration::from_secs(second))
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(look(0, &["mine", "old", "late"], &["mine"]), none);
        assert_eq!(look(5, &["mine", "old", "late"], &["mine", "late"]), none, "its answer was on its way");
        assert_eq!(look(10, &["mine", "old", "late"], &["mine"]), ["old"]);
        assert_eq!(look(12, &["late", "old"], &[]), ["old"], "it is still there");
        assert_eq!(look(19, &["late"], &[]), none);
        assert_eq!(look(20, &["late"], &[]), ["late"]);
        assert_eq!(look(21, &[], &[]), none);
        assert_eq!(look(40, &["old"], &[]), none, "it begins anew");
    }
}
