//! What is checked: how many pods, which faults how often, and what is broken on purpose.

use std::time::Duration;

use mailrelay::lease::{Holds, Timing};

/// How often each fault, and each thing that nobody does in a quiet run, may happen in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// SIGSTOP of a worker.
    pub pause: u8,
    /// SIGKILL of a worker.
    pub kill: u8,
    /// A dead worker is started again by its supervisor or the kubelet.
    pub restart: u8,
    /// The kernel of a node crashes: no FIN, and another boot.
    pub reboot: u8,
    /// A node's network is cut: its FINs, its calls of Redis and the renewals of its Lease are lost.
    pub cut: u8,
    /// The process and its pod end for good, as the API says.
    pub end: u8,
    /// A call of Redis takes time, there or back; it may be lost, or come after its caller gave up.
    pub slow: u8,
    /// A slow call of Redis comes twice.
    pub repeat: u8,
    /// A copy of the ledger is made: a dump, or the last that a replica heard. The first state is one already.
    pub copy: u8,
    /// Redis comes back with the copy.
    pub rollback: u8,
    /// The ledger is deleted.
    pub wipe: u8,
    /// The replica (with the copy, if one was made) is promoted while the old primary goes on for a while.
    pub failover: u8,
    /// A second leader comes, with another epoch, what the first one wrote down, and that one still at work.
    pub second_leader: u8,
    /// The leader dies and another one begins, with another epoch and what the one before wrote down after its last look.
    pub new_leader: u8,
    /// A session that nobody revoked is closed.
    pub close: u8,
    /// The FIN of a session that is closed is lost for good, so that no EOF comes.
    pub lost_fin: u8,
    /// A worker is told to end, as by SIGTERM.
    pub leave: u8,
}

/// What is broken on purpose. Each is made outside the production functions, by what surrounds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Correct,
    /// The ledger forgets a holder when its lease has run out, and frees its slots.
    FreedByTtl,
    /// The ledger takes absolute counts whatever their sequence number.
    NoSequence,
    /// A ledger that lost writes goes on, under the fence of the node that lost them.
    NoFence,
    /// The slots of a dead process are free at once, even when its FIN was lost.
    FreedAtOnce,
    /// A worker takes its request for granted when it sends it.
    RaisedBeforeReply,
    /// INIT without the wait for the end of the old primary.
    EarlyInit,
    /// The dead-man switch is armed after `connect()`, not before the check of the limit.
    ArmedAfterConnect,
    /// A slot is free when the server's kernel acknowledged the FIN, not at EOF.
    FreeAtAck,
    /// The slots of a silent process are withheld for `closeGrace` and the reclaim time, however long its node took to prove
    /// that it lives: what a bound on the whole of it would ask for.
    HeldForTheReclaimTime,
    /// OPEN withholds nothing for those who did not re-assert.
    NoQuarantineAtOpen,
    /// The leader does not remember the shares that it sent before it sees them in the ledger.
    SentSharesForgotten,
    /// A new leader does not read what the one before wrote down.
    NoMirror,
    /// A process after a reboot proves the death of the one before as if in the same boot.
    ProofAcrossReboot,
    /// No dead-man switch at all.
    NoSwitch,
}

/// One scenario: the world's size and its faults.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, for the printed line.
    pub name: &'static str,
    /// Slots in all.
    pub budget: u32,
    /// The shares of the pods, one list for each policy that the leader writes in turn.
    pub plans: &'static [&'static [u32]],
    /// How many pods, from the first, faults of processes and nodes may strike.
    pub victims: usize,
    /// How many ticks of a second are looked at.
    pub ticks: u64,
    /// How many ticks the old primary goes on after a promotion (R8's wait).
    pub old_primary: u64,
    /// The server's session timeout, in ticks.
    pub session_timeout: u32,
    /// How many ticks a leader waits for a silent worker's node to prove that it lives.
    pub renewal: u32,
    /// How often a process may SYNC in one tick.
    pub syncs: u8,
    /// Whether the leader's decisions are carried out one by one, later than they were taken.
    pub slow_leader: bool,
    /// Whether the leader's last look was before the pods registered.
    pub unseen: bool,
    /// What may happen, and how often.
    pub faults: Faults,
    /// What is broken.
    pub variant: Variant,
}

impl Scenario {
    /// Two pods with one slot each out of two; no fault.
    pub const PLAIN: Self = Self {
        name: "plain",
        budget: 2,
        plans: &[&[1, 1]],
        victims: 1,
        ticks: 4,
        old_primary: 0,
        session_timeout: 6,
        renewal: 1,
        syncs: 2,
        slow_leader: false,
        unseen: false,
        faults: Faults {
            pause: 0,
            kill: 0,
            restart: 0,
            reboot: 0,
            cut: 0,
            end: 0,
            slow: 0,
            repeat: 0,
            copy: 0,
            rollback: 0,
            wipe: 0,
            failover: 0,
            second_leader: 0,
            new_leader: 0,
            close: 0,
            lost_fin: 0,
            leave: 0,
        },
        variant: Variant::Correct,
    };

    /// How many pods there are.
    pub fn pods(&self) -> usize {
        self.plans[0].len()
    }

    /// The server's times.
    pub fn holds(&self) -> Holds {
        Holds { close_grace: TICK, session_timeout: TICK * self.session_timeout }
    }

    /// The leader's times.
    pub fn timing(&self) -> Timing {
        Timing { node_renewal: TICK * self.renewal, ..timing() }
    }

    /// The same, broken.
    pub fn broken(&self, variant: Variant) -> Self {
        Self { variant, ..self.clone() }
    }
}

/// The length of a tick. All times of the model are whole ticks.
pub const TICK: Duration = Duration::from_secs(1);

/// The shortest times in whole ticks that fulfil the inequalities ([`Timing::check`] is asserted by the tests).
pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        retry: Duration::from_millis(50),
        lease: 2 * TICK,
        reclaim: 3 * TICK,
        clock_error: 0.01,
        start_margin: Duration::from_millis(30),
        commit_margin: Duration::from_millis(20),
        close_margin: Duration::from_millis(10),
        node_renewal: TICK,
        drain_margin: Duration::ZERO,
        settle: Duration::ZERO,
    }
}

/// How many ticks a server may go on counting a session that it is to forget within `hold`: the most that a quarantine
/// of `hold` must outlast.
pub fn ghost(hold: Duration) -> u64 {
    let watched = timing().quarantine_watch(hold);
    watched.as_secs() + u64::from(watched.subsec_nanos() > 0)
}
