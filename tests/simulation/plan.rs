//! What a seed stands for: how the world is, and what befalls it when.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    broken::Broken,
    courier::Disorder,
    mail::Habits,
    net::{Latency, Patience, Ways},
    post::Customs,
    process::Time,
};

/// Which way is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    There,
    Back,
    Both,
}

/// What is changed in the relay's spec; the next change of the same kind takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    BudgetName,
    /// Another address of the same server.
    Host,
    Port,
    MaxConnections,
    SessionTimeout,
}

/// What may befall the world. Spans are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    PauseWorker {
        pod: usize,
        ms: u64,
    },
    /// It is stopped until its dead-man switch kills it, and what its kernel says then is lost.
    PauseWorkerCut {
        pod: usize,
    },
    /// Its cgroup is frozen, supervisor and all: no signal reaches it, its sockets stay.
    FreezePod {
        pod: usize,
        ms: u64,
    },
    KillWorker {
        pod: usize,
    },
    /// The FIN of its connections to the mail server is lost, and sent again when the way is healed.
    KillWorkerCut {
        pod: usize,
        ms: u64,
    },
    CrashContainer {
        pod: usize,
        ms: u64,
    },
    RebootNode {
        node: usize,
        ms: u64,
    },
    DeletePod {
        pod: usize,
        grace_ms: u64,
    },
    /// The pod is gone from the API; its process goes on for a while.
    ForceDelete {
        pod: usize,
        ms: u64,
    },
    FailPod {
        pod: usize,
    },
    AddPod,
    KillController {
        replica: usize,
    },
    PauseController {
        replica: usize,
        ms: u64,
    },
    DeleteLease,
    DeleteEpoch,
    ApiDown {
        ms: u64,
    },
    ApiSilent {
        ms: u64,
    },
    ApiSlow {
        ms: u64,
    },
    ApiConflicts {
        ms: u64,
    },
    /// What the leader writes down outside of Redis is refused.
    NoMarks {
        ms: u64,
    },
    DropWatches {
        forget: bool,
    },
    RedisCrash {
        ms: u64,
    },
    RedisFreeze {
        ms: u64,
    },
    RedisEmpty {
        ms: u64,
    },
    RedisStale {
        ms: u64,
    },
    FlushAll,
    DeleteLedger,
    /// Someone wrote a field into the ledger that makes no sense, and takes it out again.
    GarbledLedger {
        ms: u64,
    },
    /// The ledger is as it was a while ago, in another replication.
    StaleLedger,
    /// The ledger is as it was a while ago, in the Redis that runs.
    RestoredLedger,
    ScriptFlush,
    CutWorkerRedis {
        pod: usize,
        ms: u64,
        cut: Cut,
    },
    CutWorkerMail {
        pod: usize,
        ms: u64,
        cut: Cut,
    },
    CutControllerRedis {
        replica: usize,
        ms: u64,
        cut: Cut,
    },
    /// A box on the way forgets a pod's connections to the mail server, and drops what comes, or resets the client.
    BoxForgets {
        pod: usize,
        answers: bool,
    },
    /// It resets one side, or both.
    BoxResets {
        pod: usize,
        client: bool,
        server: bool,
    },
    /// It holds packets back.
    BoxDelays {
        pod: usize,
        ms: u64,
        back: bool,
    },
    EditSpec {
        edit: Edit,
    },
    MailCrash {
        ms: u64,
    },
    /// Hours, forwards or back.
    WallClock {
        node: usize,
        hours: i64,
    },
}

impl Fault {
    /// The same, befalling another pod.
    pub fn aimed(self, at: usize) -> Self {
        match self {
            Self::KillWorker { .. } => Self::KillWorker { pod: at },
            Self::KillWorkerCut { ms, .. } => Self::KillWorkerCut { pod: at, ms },
            Self::PauseWorkerCut { .. } => Self::PauseWorkerCut { pod: at },
            Self::FreezePod { ms, .. } => Self::FreezePod { pod: at, ms },
            Self::FailPod { .. } => Self::FailPod { pod: at },
            Self::CrashContainer { ms, .. } => Self::CrashContainer { pod: at, ms },
            Self::BoxResets { client, server, .. } => Self::BoxResets { pod: at, client, server },
            other => other,
        }
    }

    /// The kind, for the table.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }
}

/// A world.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub broken: Broken,
    pub ways: Ways,
    /// How many connections a supervisor can write down.
    pub listed: usize,
    pub budget: u32,
    pub nodes: usize,
    pub pods: usize,
    /// How many mails a session takes.
    pub per_session: u32,
    /// Bytes of text in a mail, at least and at most.
    pub size: (usize, usize),
    /// When mails come, and how.
    pub arrivals: Vec<Time>,
    pub customs: Customs,
    /// What befalls single commands between the processes and Redis.
    pub disorder: Disorder,
    pub habits: Habits,
    /// Unknown outcomes are sent again.
    pub resend: bool,
    /// The queue may go with the store.
    pub loses_queue: bool,
    pub session_timeout: Duration,
    pub close_grace: Duration,
    pub faults: BTreeMap<Time, Fault>,
    /// No fault begins from then on, and what lasts of them ends.
    pub calm: Time,
}

impl Plan {
    /// The world of a seed.
    #[expect(clippy::too_many_lines, reason = "one line for each choice, in the order in which chance is drawn")]
    pub fn new(seed: u64, broken: Broken) -> Self {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut pick = |range: Range<u64>| chance.random_range(range);
        let rough = pick(0..3);
        let latency = Latency {
            least_ms: [6, 8, 10, 15, 25][usize::try_from(pick(0..5)).expect("small")],
            jitter_ms: pick(0..20),
            late_per_mille: u32::try_from([0, 0, 3, 10][usize::try_from(pick(0..4)).expect("small")]).expect("small"),
        };
        let budget = u32::try_from(pick(2..9)).expect("small");
        let (nodes, pods) = (2, usize::try_from(pick(1..5)).expect("small"));
        let some = |pick: &mut dyn FnMut(Range<u64>) -> u64, of: &[u32]| {
            of[usize::try_from(pick(0..of.len() as u64)).expect("small")]
        };
        let small = |number: u64| usize::try_from(number).expect("small");
        let saturated = pick(0..10) == 0;
        // One that reads slowly, into small buffers.
        let slow = pick(0..4) == 0;
        let process_ms = [None, None, None, None, Some((20, 80)), Some((50, 500))][small(pick(0..6))];
        let habits = Habits {
            own_limit: match process_ms {
                _ if saturated => budget.div_ceil(2),
                Some((_, 500)) => budget,
                _ => u32::MAX,
            },
            process_ms,
            rate: slow.then(|| small(pick(2_000..6_000))),
            room: if slow { small(pick(1_000..4_000)) } else { 64 << 10 },
            patience: Duration::from_millis(pick(4_000..6_500)),
            late_eof: Duration::from_millis(some(&mut pick, &[0, 0, 300, 700]).into()),
            slow_ms: some(&mut pick, &[0, 5, 40]).into(),
            mail_ms: some(&mut pick, &[5, 100, 400, 1_500, 5_000]).into(),
            defers: some(&mut pick, &[0, 0, 20, 100]),
            refuses: some(&mut pick, &[0, 0, 20]),
            defers_some: 0,
            refuses_some: 0,
            quits: some(&mut pick, &[0, 0, 10, 40]),
            breaks: some(&mut pick, &[0, 0, 10, 40]),
            pipelining: pick(0..4) > 0,
            chunking: pick(0..3) > 0,
        };
        let ways = Ways {
            latency,
            patience: Patience {
                orphan: Duration::from_millis(some(&mut pick, &[2_000, 20_000, 100_000]).into()),
                fin_wait: Duration::from_millis(some(&mut pick, &[3_000, 60_000]).into()),
                time_wait: Duration::from_millis(some(&mut pick, &[5_000, 60_000]).into()),
            },
            buffer: if slow { small(pick(2_000..8_000)) } else { 16 << 10 },
            ports: u16::try_from(some(&mut pick, &[40, 2_000])).expect("small"),
        };
        let calm = Duration::from_millis(pick(12_000..22_000));
        let many = pick(0..5) == 0;
        let mails = small(match (slow || habits.mail_ms > 2_000, many) {
            (true, _) => pick(10..30),
            (false, true) => pick(70..160),
            (false, false) => pick(20..60),
        });
        let start = 500;
        let end = u64::try_from(calm.as_millis()).expect("short");
        let mut arrivals: Vec<Time> = Vec::new();
        while arrivals.len() < mails {
            let at = pick(start..end);
            // Some come alone, some in bursts.
            let burst = if pick(0..3) == 0 { pick(2..12) } else { 1 };
            arrivals.extend((0..burst).map(|_| Duration::from_millis(at)));
        }
        arrivals.truncate(mails);
        arrivals.sort();
        let mut plan = Self {
            seed,
            broken,
            ways,
            listed: if pick(0..20) == 0 { 1 } else { 100 },
            budget,
            nodes,
            pods,
            per_session: some(&mut pick, &[1_000, 1_000, 1_000, 3, 1]),
            size: if slow { (500, 8_000) } else { (13, 200) },
            arrivals,
            customs: Customs::PLAIN,
            disorder: Disorder::default(),
            habits,
            resend: pick(0..3) == 0,
            loses_queue: pick(0..4) == 0,
            session_timeout: Duration::from_secs(8),
            close_grace: Duration::from_secs(1),
            faults: BTreeMap::new(),
            calm,
        };
        let count = [pick(0..4), pick(2..8), pick(4..14)][usize::try_from(rough).expect("small")];
        for _ in 0..count {
            let at = Duration::from_millis(pick(1_500..end));
            let fault = plan.fault(&mut pick);
            plan.faults.insert(at, fault);
            // Troubles seldom come alone.
            if pick(0..4) == 0 {
                let after = Duration::from_millis(pick(50..2_500));
                let fault = plan.fault(&mut pick);
                plan.faults.insert(at + after, fault);
            }
        }
        if pick(0..4) == 0 || broken == Broken::NoFence {
            // Pods come and go.
            for _ in 0..pick(3..8) {
                let fault = if pick(0..2) == 0 { Fault::AddPod } else { Fault::DeletePod { pod: 0, grace_ms: 8_000 } };
                plan.faults.insert(Duration::from_millis(pick(1_500..end)), fault);
            }
            let ledger = [Fault::StaleLedger, Fault::DeleteLedger, Fault::RestoredLedger][small(pick(0..3))];
            plan.faults.insert(Duration::from_millis(pick(4_000..end)), ledger);
        }
        if pick(0..60) == 0 {
            plan.stop_long(&mut pick);
        }
        if !broken.weapons().is_empty() {
            plan.press(&mut pick);
        } else if pick(0..3) > 0 || broken.is_of_mail() {
            plan.vary(&mut pick);
        }
        // What one key, or one object, may come to. Drawn last, so that all else of a seed is as it was before these faults.
        if broken == Broken::Nothing && pick(0..5) == 0 {
            let ms = pick(300..9_000);
            let fault = if pick(0..2) == 0 { Fault::GarbledLedger { ms } } else { Fault::NoMarks { ms } };
            plan.faults.insert(Duration::from_millis(pick(1..end)), fault);
        }
        plan
    }

    /// Producers and recipients of all kinds, and single commands that go astray.
    fn vary(&mut self, pick: &mut dyn FnMut(Range<u64>) -> u64) {
        let mut of = |of: &[u32]| of[usize::try_from(pick(0..of.len() as u64)).expect("small")];
        self.customs = Customs::VARIED;
        (self.habits.defers_some, self.habits.refuses_some) = (of(&[0, 60, 200]), of(&[0, 60, 200]));
        let often = if self.broken.is_of_mail() { 80 } else { of(&[0, 8, 30, 80]) };
        self.disorder = Disorder {
            late: of(&[0, often]),
            overtaken: of(&[0, often]),
            again: of(&[0, often]),
            unanswered: of(&[0, often]),
            most_ms: of(&[1_000, 3_000, 9_000]).into(),
        };
        if self.broken.is_of_mail() {
            self.disorder.late = match self.broken {
                Broken::CommittingTakenBack => 500,
                // Its admission must come after it was given up, and before the next one is through.
                Broken::OtherAtEachLook => 300,
                _ => often,
            };
            self.habits.refuses_some = 200;
            let end = u64::try_from(self.calm.as_millis()).expect("short");
            for pod in 0..6 {
                self.faults.insert(Duration::from_millis(pick(2_000..end)), Fault::KillWorker { pod });
            }
        }
    }

    /// All slots are wanted all the time, and what tells a world without a rule from the others befalls it several times.
    fn press(&mut self, pick: &mut dyn FnMut(Range<u64>) -> u64) {
        let ms = Duration::from_millis;
        self.budget = u32::try_from(pick(2..5)).expect("small");
        self.pods = 3;
        self.habits = Habits {
            own_limit: u32::MAX,
            process_ms: None,
            mail_ms: 3_000,
            defers: 0,
            refuses: 0,
            quits: 0,
            breaks: 0,
            ..self.habits.clone()
        };
        (self.per_session, self.calm) = (1_000, ms(20_000));
        self.arrivals = (1..20).flat_map(|second| vec![ms(second * 1_000); 3]).collect();
        let weapons = self.broken.weapons();
        for turn in 0..3 {
            for weapon in weapons {
                let at = pick(2_500..9_000) + turn * 1_500;
                self.faults.insert(ms(at), weapon.aimed(usize::try_from(pick(0..3)).expect("small")));
            }
            self.faults.insert(ms(pick(3_000..12_000)), Fault::AddPod);
        }
        match self.broken {
            Broken::NoSettle => {
                self.habits.process_ms = Some((120, 180));
                (self.habits.mail_ms, self.per_session) = (100, 1);
            }
            Broken::VanishedProves => self.ways.patience.orphan = ms(2_000),
            Broken::IncompleteAccounts => self.listed = 1,
            // One who came since the copy cannot say so, nor can the leader; the others begin anew and heard nothing.
            Broken::NoTwin => {
                self.faults.clear();
                let at = pick(8_200..9_500);
                self.faults.insert(ms(pick(4_100..5_000)), Fault::AddPod);
                self.faults.insert(ms(at), Fault::PauseWorkerCut { pod: 3 });
                for replica in 0..2 {
                    let fault = Fault::CutControllerRedis { replica, ms: 4_000, cut: Cut::Both };
                    self.faults.insert(ms(at + 1) + Duration::from_micros(replica as u64), fault);
                }
                for pod in 0..3 {
                    self.faults.insert(ms(at + 2 + pod as u64), Fault::KillWorker { pod });
                }
                self.faults.insert(ms(at + 10), Fault::RestoredLedger);
            }
            // Mails that are under way for longer than the new ledger needs to open.
            Broken::RenamedOpens => {
                self.habits.mail_ms = 9_000;
                self.arrivals.retain(|at| *at < ms(9_000));
            }
            _ => {}
        }
    }

    /// A worker is stopped for longer than others are kept from its slots, at a server that is patient, and others come
    /// and want them.
    fn stop_long(&mut self, pick: &mut dyn FnMut(Range<u64>) -> u64) {
        let ms = Duration::from_millis;
        (self.calm, self.session_timeout) = (ms(45_000), ms(60_000));
        (self.habits.patience, self.habits.mail_ms) = (ms(55_000), 1_500);
        (self.habits.rate, self.size) = (None, (13, 200));
        self.faults.insert(ms(pick(4_000..7_000)), Fault::PauseWorker { pod: 0, ms: 36_000 });
        for _ in 0..2 {
            self.faults.insert(ms(pick(8_000..15_000)), Fault::AddPod);
        }
        // In bursts that keep all slots busy.
        self.arrivals = (1..11).flat_map(|burst| vec![ms(burst * 4_000); 12]).collect();
    }

    fn fault(&self, pick: &mut dyn FnMut(Range<u64>) -> u64) -> Fault {
        let index = |pick: &mut dyn FnMut(Range<u64>) -> u64, below: usize| {
            usize::try_from(pick(0..below as u64)).expect("small")
        };
        let cut = [Cut::There, Cut::Back, Cut::Both][index(pick, 3)];
        let (pod, node, replica) = (index(pick, 4), index(pick, self.nodes), index(pick, 2));
        let span = |pick: &mut dyn FnMut(Range<u64>) -> u64| {
            [pick(100..1_500), pick(1_500..6_000), pick(6_000..12_000)][index(pick, 3)]
        };
        let ms = span(pick);
        match pick(0..56) {
            0 | 1 => Fault::PauseWorker { pod, ms },
            2 | 3 | 52 | 53 => Fault::KillWorker { pod },
            4 => Fault::KillWorkerCut { pod, ms },
            5 => Fault::CrashContainer { pod, ms },
            6 => Fault::RebootNode { node, ms },
            7 => Fault::DeletePod { pod, grace_ms: pick(0..8_000) },
            8 => Fault::ForceDelete { pod, ms },
            9 | 54 => Fault::FailPod { pod },
            10 | 11 => Fault::AddPod,
            12 => Fault::KillController { replica },
            13 | 14 => Fault::PauseController { replica, ms },
            15 => Fault::DeleteLease,
            16 => Fault::DeleteEpoch,
            17 => Fault::ApiDown { ms },
            18 => Fault::ApiSilent { ms },
            19 => Fault::ApiSlow { ms },
            20 => Fault::ApiConflicts { ms },
            21 => Fault::DropWatches { forget: pick(0..2) == 0 },
            22 => Fault::RedisCrash { ms: ms / 3 },
            23 => Fault::RedisFreeze { ms },
            24 if self.loses_queue => Fault::RedisEmpty { ms: ms / 6 },
            25 if self.loses_queue => Fault::RedisStale { ms: ms / 6 },
            26 if self.loses_queue => Fault::FlushAll,
            24 | 25 | 27 => Fault::DeleteLedger,
            26 | 28 => Fault::StaleLedger,
            29 => Fault::ScriptFlush,
            30 | 31 => Fault::CutWorkerRedis { pod, ms, cut },
            32 => Fault::CutWorkerMail { pod, ms, cut },
            33 => Fault::CutControllerRedis { replica, ms, cut },
            34 => Fault::MailCrash { ms: ms / 3 },
            36..=38 => {
                let edits = [Edit::BudgetName, Edit::Host, Edit::Port, Edit::MaxConnections, Edit::SessionTimeout];
                Fault::EditSpec { edit: edits[index(pick, 5)] }
            }
            39 | 40 => Fault::RestoredLedger,
            41 | 42 => Fault::FreezePod { pod, ms: 14_000 + 2 * ms },
            43 => Fault::PauseWorkerCut { pod },
            44 | 45 => Fault::BoxResets { pod, client: true, server: false },
            46 => Fault::BoxResets { pod, client: pick(0..2) == 0, server: true },
            47 | 48 => Fault::BoxForgets { pod, answers: pick(0..2) == 0 },
            49 => Fault::BoxDelays { pod, ms, back: pick(0..2) == 0 },
            50 | 51 => Fault::DeletePod { pod, grace_ms: pick(0..2_000) },
            _ => Fault::WallClock { node, hours: if pick(0..2) == 0 { 1 } else { -1 } },
        }
    }
}
