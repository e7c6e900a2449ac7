//! Which status is written next, pure. Writes are few (20 a second in all), and relays may be many: whoever has waited longest
//! comes first, whatever its name.
//!
//! What the next leader needs, should Redis lose a ledger (`mirror`), goes before what people read, so that no flood of moving
//! figures delays it. It cannot starve the rest either: every fourth write is for that.

use std::{collections::VecDeque, time::Duration};

use crate::{controller::plan::RelayKey, lease::BootTime};

/// One in so many writes is not for a mirror.
const IN_TURN: u32 = 4;

/// What of a status is not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// Who holds what, which the next leader needs.
    Mirror,
    /// What people should see soon.
    Change,
    /// Figures that move all the time.
    Figures,
}

/// A status that is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Whose it is.
    pub relay: RelayKey,
    /// What is not written yet.
    pub owed: Owed,
    /// Since when.
    pub since: BootTime,
    /// How long it may wait.
    pub patience: Duration,
}

/// Takes turns between debts.
#[derive(Debug, Default)]
pub struct Debts {
    mirrors: VecDeque<Debt>,
    others: VecDeque<Debt>,
    paid: u32,
}

impl Debts {
    /// All that is owed now, in place of what was owed before.
    pub fn set(&mut self, debts: Vec<Debt>) {
        let (mut mirrors, mut others): (Vec<Debt>, Vec<Debt>) =
            debts.into_iter().partition(|debt| debt.owed == Owed::Mirror);
        for debts in [&mut mirrors, &mut others] {
            debts.sort_by(|a, b| (a.since + a.patience, &a.relay).cmp(&(b.since + b.patience, &b.relay)));
        }
        (self.mirrors, self.others) = (mirrors.into(), others.into());
    }

    /// The status to write next.
    pub fn next(&mut self) -> Option<Debt> {
        let is_others_turn = self.paid % IN_TURN == IN_TURN - 1;
        let (first, second) =
            if is_others_turn { (&mut self.others, &mut self.mirrors) } else { (&mut self.mirrors, &mut self.others) };
        let next = first.pop_front().or_else(|| second.pop_front())?;
        self.paid = self.paid.wrapping_add(1);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt(name: &str, owed: Owed, since: u64) -> Debt {
        let patience = Duration::from_secs(if owed == Owed::Figures { 5 } else { 0 });
        let relay = RelayKey { namespace: "mail".into(), name: name.into() };
        Debt { relay, owed, since: BootTime::after_boot(Duration::from_secs(since)), patience }
    }

    fn order(debts: Vec<Debt>) -> Vec<String> {
        let mut all = Debts::default();
        all.set(debts);
        std::iter::from_fn(|| all.next()).map(|debt| debt.relay.name).collect()
    }

    #[test]
    fn whoever_waits_longest_comes_first_and_figures_may_wait_longer() {
        let debts = vec![
            debt("a", Owed::Figures, 104),
            debt("b", Owed::Figures, 100),
            debt("c", Owed::Change, 106),
            debt("d", Owed::Change, 103),
        ];
        assert_eq!(order(debts), ["d", "b", "c", "a"]);
    }

    #[test]
    fn mirrors_go_before_all_else_and_every_fourth_write_is_for_the_rest() {
        let mut debts: Vec<Debt> = (0..6).map(|n| debt(&format!("m{n}"), Owed::Mirror, 200 - n)).collect();
        debts.extend([debt("x", Owed::Change, 1), debt("y", Owed::Figures, 1)]);
        assert_eq!(order(debts), ["m5", "m4", "m3", "x", "m2", "m1", "m0", "y"]);
    }

    #[test]
    fn turns_are_taken_over_many_looks() {
        let mut all = Debts::default();
        let mut paid = Vec::new();
        for _ in 0..8 {
            // New mirrors come faster than they can be written.
            all.set(vec![debt("x", Owed::Change, 1), debt("m", Owed::Mirror, 200)]);
            paid.extend(all.next().map(|debt| debt.relay.name));
        }
        assert_eq!(paid.iter().filter(|name| *name == "x").count(), 2);
    }
}
