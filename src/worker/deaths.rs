//! Watches how mails end: should too much of it die, all servers rest.

use std::sync::{Mutex, PoisonError};

use super::{
    fleet::Fleet,
    guard::DeathGuard,
    outcome::{Conclusion, Policy},
    settle::Settler,
};
use crate::queue::{Settlement, TOO_OLD};

/// What is known of the last mails, and who rests for it.
pub struct DeathWatch {
    guard: Mutex<DeathGuard>,
    settler: Settler,
    fleet: Fleet,
}

impl DeathWatch {
    /// Nothing has died yet.
    pub fn new(settler: Settler, fleet: Fleet) -> Self {
        Self { guard: Mutex::default(), settler, fleet }
    }

    /// Notes how a mail ended. What is left of a mail that others have is none.
    pub fn note(&self, recipient: &str, Conclusion { settlement, per_recipient, .. }: &Conclusion) {
        let Policy { retry, .. } = self.settler.policy();
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let was_taken = matches!(settlement, Settlement::Delivered { .. }) || !per_recipient.accepted.is_empty();
        let rest = match settlement {
            _ if !retry.dead_letter_guard => {
                *guard = DeathGuard::default();
                None
            }
            _ if was_taken => {
                guard.taken();
                None
            }
            // Time killed it, not a server.
            Settlement::Dead { reason, .. } if reason != TOO_OLD => guard.died(recipient),
            _ => None,
        };
        drop(guard);
        if let (Some(rest), Settlement::Dead { reply, .. }) = (rest, settlement) {
            let rested = self.fleet.servers().iter().filter(|server| server.rest_from_deaths(rest, reply)).count();
            if rested > 0 {
                self.guard.lock().unwrap_or_else(PoisonError::into_inner).rested();
            }
        }
    }
}
