//! The end of a case: everything comes to rest.

use std::time::Duration;

use mailrelay::{
    api::UnknownOutcome,
    queue::{Advance, Audit, OperationId, PerRecipient, RecoverOptions, Stage},
};

use super::{
    super::{courier::Disorder, support::*},
    life::{Hand, Life, Worker},
};

/// A process that ended, and nothing is said against any mail.
const ENDED: RecoverOptions =
    RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: false, out_of_memory: false };

impl Life<'_> {
    /// Everything comes to rest: what is under way arrives, who is dead is recovered, what waits is sent.
    pub async fn rest(&mut self) {
        self.courier.disorder(Disorder::default());
        for _ in 0..20 {
            while self.courier.under_way() > 0 {
                self.courier.arrive().await;
            }
            self.finish_all().await;
            self.drain().await;
            let waiting = |audit: &Audit| audit.queued + audit.in_flight + audit.delayed;
            let Some(waits) = self.audits().await.iter().position(|audit| waiting(audit) > 0) else { break };
            // What waits in a queue that the relay had is sent when it has it again.
            self.rename(waits).await;
        }
    }

    /// The sums of all queues.
    pub async fn audits(&self) -> Vec<Audit> {
        let mut audits = Vec::new();
        for queue in &self.queues {
            audits.push(queue.audit().await.expect("audit"));
        }
        audits
    }

    /// Workers finish what they have and go; the claims of all that are gone are resolved.
    async fn finish_all(&mut self) {
        let workers = std::mem::take(&mut self.workers);
        self.graves.extend(workers);
        for Worker { process, hands, .. } in std::mem::take(&mut self.graves) {
            for mut hand in hands {
                while let Some(next) = self.go_on(&process, hand).await {
                    hand = next;
                }
            }
        }
        // Of processes too that nobody remembers: a take that came late gave mails to them.
        for process in self.queue.processes().await.expect("processes") {
            self.queue.recover(&process.process, &ENDED, self.now).await.expect("recovered");
        }
        self.start();
    }

    /// One worker sends what waits, to a server that takes all of it.
    async fn drain(&mut self) {
        for _ in 0..200 {
            self.now = self.now.after(Duration::from_secs(20));
            let moved = self.queue.promote_due(self.now, 100).await.expect("promoted");
            let yielded = self.claim(0, 5).await;
            let Worker { process, hands, .. } = &mut self.workers[0];
            let process = process.clone();
            for Hand { queue, claim, .. } in std::mem::take(hands) {
                let committed = queue.advance(&process, &claim.claim_id, Stage::Committing, self.now).await;
                if committed.expect("advanced") == Advance::Done {
                    for recipient in &claim.mail.recipients {
                        *self.has.entry(recipient.clone()).or_default() += 1;
                    }
                    let (operation, progress) = (OperationId::random(), PerRecipient::default());
                    let settled = queue.settle(&process, &claim, &operation, &delivered(), &progress, self.now).await;
                    settled.expect("settled");
                }
            }
            if moved == 0 && yielded == 0 {
                break;
            }
        }
        let audit = self.queue.audit().await.expect("audit");
        if audit.queued > 0 {
            self.wrong.push(format!("waits: a claim yielded nothing, and {} mails wait", audit.queued));
        }
    }

    /// A mail whose id or key must be free is sent again; whether it is dropped.
    pub async fn is_blocked(&mut self, number: usize) -> bool {
        self.marks += 1;
        let made = self.made[number].clone();
        self.rename(made.queue).await;
        let blocked = self.enqueue(&made, self.marks, 1).await.expect("an answer");
        self.drain().await;
        blocked
    }
}
