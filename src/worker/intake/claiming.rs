//! Claims for the sessions that wait, and gives them what comes.

use std::{collections::VecDeque, sync::Arc};

use futures::FutureExt;
use tokio::time::Instant;

use super::{BATCH, Task, claim::Claim, give::give};
use crate::{
    queue::{At, Batch, Queue},
    worker::{
        pace::{Pace, Permits},
        requests::Wish,
        settle::Work,
    },
};

impl Task {
    /// Starts a claim for all sessions that wait and may send.
    pub(super) fn claim(&mut self, queue: Queue) {
        let now = Instant::now();
        let (mut sessions, mut others) = (VecDeque::new(), VecDeque::new());
        for wish in self.waiting.drain(..) {
            let takes_part = sessions.len() < BATCH && wish.pace.rests_until(now).is_none();
            if takes_part { sessions.push_back(wish) } else { others.push_back(wish) }
        }
        self.waiting = others;
        let handles = Arc::clone(&self.handles);
        let claim = async move {
            let permits = permits_for(&sessions).await;
            let wanted = permits.iter().map(Permits::count).sum();
            let (process, pod) = (handles.process.as_str(), &handles.pod);
            let claimed = match wanted {
                0 => Ok(Batch::default()),
                wanted => queue.claim(process, pod, wanted, At::Redis).await,
            };
            Claim { queue, sessions, permits, wanted, claimed }
        };
        self.claims.push(claim.boxed());
    }

    /// Gives what was claimed to the sessions; those that get nothing wait on.
    pub(super) fn hand_out(&mut self, claim: Claim) {
        let Claim { queue, mut sessions, mut permits, wanted, claimed } = claim;
        match claimed {
            // No server may get mail now.
            Ok(_) if wanted == 0 => self.look = true,
            Ok(Batch { mails, ended }) => {
                let count = mails.len();
                // Entries that yield nothing must not hold up the mail behind them.
                let went_on = count + ended > 0;
                if went_on {
                    self.backoff.reset();
                }
                self.handles.metrics.claims.inc_by(count as u64);
                for claimed in mails {
                    let work = Work::new(claimed, queue.clone(), self.handles.settler.clone());
                    if let Some(work) = give(work, &mut sessions, Some(&mut permits))
                        .and_then(|work| give(work, &mut self.waiting, Some(&mut permits)))
                    {
                        self.keep(work);
                    }
                }
                self.look = true;
                self.dry = (count < wanted).then_some(went_on);
            }
            Err(error) => self.failed(&error),
        }
        // They came first.
        sessions.extend(self.waiting.drain(..));
        self.waiting = sessions;
    }

    /// After a claim that brought less than was asked for: whether to ask again.
    pub(super) async fn is_worth_it(&mut self, queue: &Queue) -> bool {
        let Some(went_on) = self.dry.take() else { return true };
        match queue.depths(At::Redis).await {
            Ok(depths) if depths.pending == 0 => self.look = false,
            // Something came of it: what was dropped or put off hid more.
            Ok(_) if went_on => return true,
            // What waits cannot be claimed, which is not worth a hot loop.
            Ok(_) => self.pause(),
            Err(error) => self.failed(&error),
        }
        false
    }
}

/// Leave for a mail of each of these sessions, as far as their servers' rate limits have any.
async fn permits_for(sessions: &VecDeque<Wish>) -> Vec<Permits> {
    let mut paces: Vec<(Arc<Pace>, usize)> = Vec::new();
    for wish in sessions {
        match paces.iter_mut().find(|(pace, _)| Arc::ptr_eq(pace, &wish.pace)) {
            Some((_, count)) => *count += 1,
            None => paces.push((Arc::clone(&wish.pace), 1)),
        }
    }
    let mut permits = Vec::with_capacity(paces.len());
    for (pace, count) in paces {
        permits.extend(pace.permits(count).await);
    }
    permits
}
