//! What can be done to a ledger, and operations at random that reach deep states.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeMap, time::Duration};

use mailrelay::lease::{InitRequest, Ledger, LedgerState, Missing, OpenRequest, Policy, Quarantine, SyncRequest};
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub const PODS: [&str; 4] = ["uid-a", "uid-b", "uid-c", "uid-d"];

/// How a copy comes back, and so what its twin says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// Without its twin.
    Alone,
    /// Together with it, as RESTORE does.
    Together,
    /// Redis and all, as a virtual machine that is set back: nothing shows it.
    Machine,
}

/// Everything that can be done to a ledger.
#[derive(Debug, Clone)]
pub enum Operation {
    Sync(SyncRequest),
    Leave {
        token: String,
        inc: String,
        seq: u64,
    },
    Policy(Policy),
    Reap {
        token: String,
        inc: String,
        seq: Option<u64>,
        quarantine: Duration,
    },
    Init(InitRequest),
    Open(OpenRequest),
    Clear {
        token: String,
        ids: Vec<String>,
    },
    Condemn(u64),
    /// The key is copied elsewhere.
    Copy,
    /// The copy is brought back.
    Restore(Back),
    /// The key is deleted.
    Delete,
    /// The ledger becomes a stale copy of another node's.
    Stale,
}

impl Operation {
    /// Whether a release of mailrelay does it, and not some mishap.
    pub fn is_script(&self) -> bool {
        !matches!(self, Self::Copy | Self::Restore(_) | Self::Delete | Self::Stale)
    }
}

/// Draws operations that are mostly sensible, so that deep states are reached.
pub struct Generator {
    pub random: StdRng,
    pub tokens: u32,
    pub revision: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), tokens: 0, revision: 0 }
    }

    pub fn below(&mut self, n: u32) -> u32 {
        self.random.random_range(0..n)
    }

    pub fn likely(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    pub fn next(&mut self, ledger: &Ledger) -> Operation {
        let token = match &ledger.view {
            Some(view) if self.likely(97) => view.token.clone(),
            _ => "other".to_owned(),
        };
        let in_force = ledger.snapshot().in_force().is_some();
        if !in_force && self.likely(35) {
            return self.init(ledger);
        }
        if !in_force && self.likely(10) {
            return self.open(ledger, token);
        }
        if ledger.view.as_ref().is_some_and(|view| view.state == LedgerState::Rec) && self.likely(15) {
            return self.open(ledger, token);
        }
        match self.below(1000) {
            0..640 => Operation::Sync(self.sync(ledger, token)),
            640..700 => {
                let (inc, seq) = self.target(ledger);
                Operation::Leave { token, inc, seq: seq + 1 }
            }
            700..800 => Operation::Policy(self.policy()),
            800..880 => {
                let (inc, seq) = self.target(ledger);
                let dead = self.likely(30);
                let quarantine = Duration::from_millis(u64::from(self.below(3)) * 1500);
                Operation::Reap { token, inc, seq: (!dead).then_some(seq), quarantine }
            }
            880..960 => {
                let ids = (0..self.below(3)).map(|_| self.quarantine_id(ledger)).collect();
                Operation::Clear { token, ids }
            }
            960..966 => Operation::Condemn(self.version(ledger)),
            966..972 => Operation::Copy,
            972..976 => Operation::Restore([Back::Alone, Back::Together, Back::Machine][self.below(3) as usize]),
            976..983 => self.init(ledger),
            983..990 => self.open(ledger, token),
            990..995 => Operation::Delete,
            _ => Operation::Stale,
        }
    }

    /// A holder that is there, mostly, and its seq, mostly.
    pub fn target(&mut self, ledger: &Ledger) -> (String, u64) {
        let holders = ledger.view.as_ref().map_or(&[][..], |view| &view.holders);
        if holders.is_empty() || self.likely(5) {
            return ("nobody".to_owned(), 1);
        }
        let holder = &holders[self.below(u32::try_from(holders.len()).unwrap()) as usize];
        (holder.inc.clone(), holder.seq - u64::from(self.likely(20)))
    }

    /// What was heard last, mostly.
    pub fn version(&mut self, ledger: &Ledger) -> u64 {
        let version = ledger.view.as_ref().map_or(0, |view| view.version);
        if self.likely(2) {
            version + 1 + u64::from(self.below(3))
        } else {
            version - version.min(u64::from(self.below(4)))
        }
    }

    pub fn quarantine_id(&mut self, ledger: &Ledger) -> String {
        let entries = ledger.view.as_ref().map_or(&[][..], |view| &view.quarantine);
        if entries.is_empty() || self.likely(10) {
            return "nothing".to_owned();
        }
        entries[self.below(u32::try_from(entries.len()).unwrap()) as usize].id.clone()
    }

    pub fn quarantine(&mut self) -> Quarantine {
        Quarantine {
            id: format!("q{}", self.below(12)),
            slots: 1 + self.below(2),
            seconds: u64::from(self.below(300)),
            why: ["no-eof", "dropped"][self.below(2) as usize].to_owned(),
        }
    }

    pub fn sync(&mut self, ledger: &Ledger, token: String) -> SyncRequest {
        let pod = PODS[self.below(4) as usize];
        let view = ledger.view.as_ref();
        let last = view.and_then(|v| v.generations.get(pod).copied()).unwrap_or(0);
        let known: Vec<_> = view.map_or(Vec::new(), |v| v.holders.iter().filter(|h| h.pod_uid == pod).collect());
        let recovering = view.is_some_and(|v| v.state == LedgerState::Rec);
        let want = if self.likely(70) { 16 } else { self.below(12) };
        let mut request = SyncRequest {
            token,
            inc: String::new(),
            pod_uid: pod.to_owned(),
            pod: format!("mail/{pod}"),
            process: format!("process{}", self.below(3)),
            boot_id: format!("boot{}", self.below(4) / 3),
            generation: 0,
            seq: 0,
            need: 0,
            want,
            open: self.below(4),
            busy: self.below(3),
            hold: Duration::from_millis(u64::from(self.below(3)) * 900),
            seen: self.version(ledger),
            quarantine: Vec::new(),
            accounts: (0..self.below(3)).map(|_| format!("process{}", self.below(4))).collect(),
        };
        // One whose slots a leader withheld, if there is such.
        if let Some(withheld) = view.and_then(|view| view.quarantine.first()).filter(|_| self.likely(50)) {
            request.accounts.extend(withheld.id.split_once('.').map(|(process, _)| process.to_owned()));
        }
        if !known.is_empty() && self.likely(80) {
            let holder = known[self.below(u32::try_from(known.len()).unwrap()) as usize];
            request.inc.clone_from(&holder.inc);
            request.generation = holder.generation;
            request.seq = if self.likely(90) { holder.seq + 1 } else { holder.seq };
            let spare = self.below(holder.claim + 1);
            request.need = if self.likely(50) { holder.claim } else { spare };
            if self.likely(15) && holder.claim > 0 {
                request.need = request.need.min(holder.claim - 1);
                request.quarantine = vec![self.quarantine()];
            }
        } else {
            request.generation = match self.below(10) {
                0 => 0,
                1 => last,
                2 => last + 2,
                3 => last.saturating_sub(1),
                _ => last + 1,
            };
            request.inc = format!("{pod}.{}.{}", request.generation, self.below(3));
            request.seq = if self.likely(85) { 1 } else { 7 };
            request.need = if recovering || self.likely(5) { self.below(6) } else { 0 };
            if self.likely(10) {
                request.quarantine = vec![self.quarantine(), self.quarantine()];
            }
        }
        request
    }

    pub fn policy(&mut self) -> Policy {
        let advance = self.likely(85);
        self.revision += u64::from(advance);
        let budget = [16, 16, 8, 4][self.below(4) as usize];
        let mut entitlements = BTreeMap::new();
        let mut left = budget;
        for pod in PODS {
            if self.likely(75) {
                let share = self.below(left + 1);
                left -= share;
                entitlements.insert(pod.to_owned(), share);
            }
        }
        let back = u64::from(self.likely(10));
        Policy {
            epoch: 1 + self.revision / 40,
            revision: self.revision.saturating_sub(back),
            budget,
            lease: Duration::from_secs(if self.likely(90) { 6 } else { 15 }),
            entitlements,
            servers: ["mx:25", "10.0.0.1:25"].into_iter().take(self.below(3) as usize).map(str::to_owned).collect(),
        }
    }

    pub fn init(&mut self, ledger: &Ledger) -> Operation {
        self.tokens += 1;
        let wrong = self.likely(5);
        let quarantine = if self.likely(30) { vec![self.quarantine()] } else { Vec::new() };
        let mut policy = self.policy();
        if self.likely(10) {
            policy.epoch = 0;
        }
        Operation::Init(InitRequest {
            fence: if wrong { "elsewhere".to_owned() } else { ledger.node_fence.clone() },
            token: format!("t{}", self.tokens),
            policy,
            quarantine,
            version: self.version(ledger),
        })
    }

    pub fn open(&mut self, ledger: &Ledger, token: String) -> Operation {
        let mut missing = Vec::new();
        for _ in 0..self.below(3) {
            let quarantine = self.quarantine();
            let inc = if self.likely(50) { self.target(ledger).0 } else { String::new() };
            missing.push(Missing { inc, quarantine });
        }
        let epoch = if self.likely(10) { 0 } else { 1 + self.revision / 40 };
        Operation::Open(OpenRequest { epoch, token, missing })
    }
}
