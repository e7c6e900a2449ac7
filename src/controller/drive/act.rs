//! What a step does to a ledger: makes it, opens it, takes slots back.

use std::time::Duration;

use super::{
    error::ApplyError,
    incident::{Happening, Incident},
    pool::Pool,
    turn::{Driven, Turn},
};
use crate::lease::{
    Action, BootTime, InitReply, InitRequest, LedgerView, Missing, OpenReply, OpenRequest, Policy, ProcessId,
    Quarantine, ReapReply,
};

impl Pool {
    pub(super) async fn act(
        &mut self,
        action: Action,
        target: &Policy,
        turn: &Turn<'_>,
        driven: &Driven,
        incidents: &mut Vec<Incident>,
    ) -> Result<(), ApplyError> {
        match action {
            Action::Condemn { version } => {
                self.ledger.condemn(version).await?;
                tracing::warn!(
                    pool = self.ledger.pool(),
                    ledger.version = version,
                    "the ledger is an older copy of itself: it counts as lost"
                );
            }
            Action::Init { fence, quarantine, version } => {
                let quarantine = self.with_inherited(quarantine);
                let token = ProcessId::random().to_string();
                let request = InitRequest { fence, token, policy: target.clone(), quarantine, version };
                self.init(&request, turn, incidents).await?;
            }
            Action::Open { token, missing } => self.open(token, missing, turn, incidents).await?,
            Action::Reap { token, inc, seq, quarantine } => {
                let pod = pod_of(driven.snapshot.in_force(), &inc);
                let reply = self.ledger.reap(&token, &inc, seq, quarantine, "silent").await?;
                self.reaped(&reply, pod, quarantine, incidents);
            }
            Action::ReapDead { token, inc, quarantine } => {
                let pod = pod_of(driven.snapshot.in_force(), &inc);
                let reply = self.ledger.reap_dead(&token, &inc, quarantine, "dead").await?;
                self.reaped(&reply, pod, quarantine, incidents);
            }
            Action::Clear { token, ids } => {
                self.ledger.clear(&token, &ids).await?;
                tracing::info!(pool = self.ledger.pool(), quarantine.ids = ids.join(" "), "quarantines are over");
            }
        }
        Ok(())
    }

    /// What a new ledger begins with, with what pools of before withhold of its servers.
    fn with_inherited(&self, mut quarantine: Vec<Quarantine>) -> Vec<Quarantine> {
        let known = |entry: &Quarantine| quarantine.iter().any(|other| other.id == entry.id);
        let inherited: Vec<_> = self.standing.inherits.iter().filter(|entry| !known(entry)).cloned().collect();
        quarantine.extend(inherited);
        quarantine
    }

    async fn init(
        &mut self,
        request: &InitRequest,
        turn: &Turn<'_>,
        incidents: &mut Vec<Incident>,
    ) -> Result<(), ApplyError> {
        self.watch.sent(request.policy.epoch, &request.policy.entitlements, BootTime::now());
        let reply = self.ledger.init(request).await?;
        self.watch.answered();
        let pool = self.ledger.pool();
        match reply {
            InitReply::Ok if self.fresh == Some(true) => tracing::info!(pool, "made the ledger of a new pool"),
            InitReply::Ok => {
                tracing::warn!(pool, "the ledger is new: recovery starts");
                incidents.push(self.happened(Happening::RecoveryStarted));
            }
            InitReply::Exists { epoch, .. } | InitReply::Old { epoch } => self.check(epoch, Some("init"), turn)?,
            InitReply::Wait(_) => {}
        }
        Ok(())
    }

    async fn open(
        &mut self,
        token: String,
        missing: Vec<Missing>,
        turn: &Turn<'_>,
        incidents: &mut Vec<Incident>,
    ) -> Result<(), ApplyError> {
        let withheld: u32 = missing.iter().map(|missing| missing.quarantine.slots).sum();
        let longest = missing.iter().map(|missing| missing.quarantine.seconds).max().unwrap_or(0);
        self.watch.opening(BootTime::now());
        // From now on workers may be granted slots, whether or not we ever see the ledger open, or hear the answer.
        let fresh = self.fresh.replace(false);
        let reply = self.ledger.open(&OpenRequest { epoch: turn.epoch, token, missing }).await?;
        self.watch.answered();
        if !matches!(reply, OpenReply::Ok | OpenReply::Already) {
            self.fresh = fresh;
        }
        match reply {
            OpenReply::Ok => {
                tracing::info!(pool = self.ledger.pool(), pool.withheld = withheld, "the ledger is open");
                incidents.push(self.happened(Happening::Opened));
                if withheld > 0 {
                    let hold = Duration::from_secs(longest);
                    incidents.push(self.happened(Happening::Withheld { slots: withheld, hold }));
                }
            }
            OpenReply::Old { epoch } => self.check(epoch, Some("open"), turn)?,
            OpenReply::Already | OpenReply::Wait(_) | OpenReply::Token { .. } => {}
        }
        Ok(())
    }

    fn happened(&self, what: Happening) -> Incident {
        Incident { pool: self.ledger.pool().to_owned(), what }
    }

    fn reaped(&self, reply: &ReapReply, pod: String, hold: Duration, incidents: &mut Vec<Incident>) {
        let ReapReply::Ok { slots } = *reply else { return };
        let pool = self.ledger.pool();
        tracing::warn!(pool, pod, slots, quarantine_seconds = hold.as_secs(), "took back the slots of a lost worker");
        incidents.push(self.happened(Happening::WorkerLost { pod, slots, hold }));
    }
}

fn pod_of(ledger: Option<&LedgerView>, inc: &str) -> String {
    ledger.and_then(|ledger| ledger.holder(inc)).map_or_else(String::new, |holder| holder.pod.clone())
}
