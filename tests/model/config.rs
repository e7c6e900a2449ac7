//! What is checked: how many pods, which faults how often, and what is broken on purpose.

use std::time::Duration;

use mailrelay::lease::Timing;

/// How often each fault, and each thing that nobody does in a quiet run, may happen in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// SIGSTOP of a worker.
    pub pause: u8,
    /// SIGKILL of a worker.
    pub kill: u8,
    /// SIGKILL of a worker and its supervisor: what that one knew is lost.
    pub kill_all: u8,
    /// A worker is frozen, as by its cgroup: no signal reaches it until it thaws.
    pub freeze: u8,
    /// The kernel of a dead worker gives a connection up without the server's learning of it: its reset for unread bytes is
    /// lost, or its FIN too often.
    pub vanish: u8,
    /// A box on the way resets the client's side of a connection, and the server's stands.
    pub box_reset: u8,
    /// A dead worker is started again by its supervisor or the kubelet.
    pub restart: u8,
    /// The kernel of a node crashes: no FIN, and another boot.
    pub reboot: u8,
    /// A node's network is cut: its FINs, its calls of Redis and the renewals of its Lease are lost.
    pub cut: u8,
    /// A pod ends for good after its process, as the API says; its network namespace goes with it.
    pub end: u8,
    /// A call of Redis takes time, there or back; it may be lost, or come after its caller gave up.
    pub slow: u8,
    /// A slow call of Redis comes twice.
    pub repeat: u8,
    /// A copy of the ledger is made: a dump, or the last that a replica heard. The first state is one already.
    pub copy: u8,
    /// Redis comes back with the copy.
    pub rollback: u8,
    /// The copy is written into the running Redis.
    pub restore: u8,
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
    /// A worker is told to end, as by SIGTERM.
    pub leave: u8,
    /// A worker has nothing to do, gives back what it claims, and is quiet until it wakes.
    pub rest: u8,
    /// A worker that left the ledger joins it again: its relay was moved to another budget and back.
    pub rejoin: u8,
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
    /// A worker that comes after a dead one withholds its slots for a grace alone.
    FreedAfterGrace,
    /// The slots of a pod that is over, as the API says, are withheld for a grace alone.
    StatusIsProof,
    /// The slots of a silent process are withheld for a grace alone when its node is there to vouch for its kernel.
    NodeIsProof,
    /// OPEN withholds nothing for those who did not re-assert.
    NoQuarantineAtOpen,
    /// The leader does not remember the shares that it sent before it sees them in the ledger.
    SentSharesForgotten,
    /// A new leader does not read what the one before wrote down.
    NoMirror,
    /// A worker accounts for those of its pod that were before the supervisor or the kernel.
    AnyTableIsComplete,
    /// No dead-man switch at all.
    NoSwitch,
    /// EOF counts as the server's end though the socket had an error before.
    EofAfterError,
    /// The supervisor takes the server's ACK of a FIN for its end.
    AckIsProof,
    /// The supervisor takes a port that vanished for the server's end.
    VanishedIsProof,
    /// A slot that its worker withholds is struck out of the connection table: the ledger has it, as long as there is one.
    WithheldIsStruck,
    /// Nobody compares the ledger's version with what was seen before.
    NoVersion,
    /// POLICY forgets the generations of pods without a floor.
    NoFloor,
    /// A process that leaves a pool and joins it again begins to count anew.
    NumbersRepeat,
}

/// The share of a pod that a plan does not name.
pub const ABSENT: u32 = u32::MAX;

/// One scenario: the world's size and its faults.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of the world, independent of the others")]
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
    /// Whether the server's kernel may have a FIN long before its process reads it.
    pub acks: bool,
    /// Whether sockets whose EOF did not come in time are read on.
    pub lingers: bool,
    /// How often a process may SYNC in one tick.
    pub syncs: u8,
    /// Whether the leader's decisions are carried out one by one, later than they were taken.
    pub slow_leader: bool,
    /// Whether the leader's last look was before the pods registered.
    pub unseen: bool,
    /// Whether the first pod's worker died twice, the second time while its registration was on its way, was taken off the
    /// ledger, and is not named in the policy in force, the second one of the plans.
    pub late_registration: bool,
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
        acks: false,
        lingers: false,
        syncs: 2,
        slow_leader: false,
        unseen: false,
        late_registration: false,
        faults: Faults {
            pause: 0,
            kill: 0,
            kill_all: 0,
            freeze: 0,
            vanish: 0,
            box_reset: 0,
            restart: 0,
            reboot: 0,
            cut: 0,
            end: 0,
            slow: 0,
            repeat: 0,
            copy: 0,
            rollback: 0,
            restore: 0,
            wipe: 0,
            failover: 0,
            second_leader: 0,
            new_leader: 0,
            close: 0,
            leave: 0,
            rest: 0,
            rejoin: 0,
        },
        variant: Variant::Correct,
    };

    /// How many pods there are.
    pub fn pods(&self) -> usize {
        self.plans[0].len()
    }

    /// The server's `sessionTimeout`.
    pub fn session_timeout(&self) -> Duration {
        TICK * self.session_timeout
    }

    /// How long a slot is withheld, and how long the server may count its session after the last moment at which the process
    /// may have sent a byte: what it left in the kernel's buffer goes on for the drain margin.
    pub fn hold(&self) -> Duration {
        timing().hold(self.session_timeout())
    }

    /// Whether an older copy may come back under the same fence. Only then it matters which version a ledger has; else all
    /// are the same, so that states which differ in nothing else are equal.
    pub fn versions(&self) -> bool {
        self.faults.restore > 0
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
        rest: 100 * TICK,
        retry: Duration::from_millis(50),
        lease: 2 * TICK,
        reclaim: 3 * TICK,
        clock_error: 0.01,
        start_margin: Duration::from_millis(30),
        commit_margin: Duration::from_millis(20),
        close_margin: Duration::from_millis(10),
        drain_margin: TICK,
        settle: Duration::ZERO,
    }
}

/// How long a worker waits for EOF, and how long slots of the dead would be withheld by whoever takes a death for proof.
pub const GRACE: Duration = TICK;

/// How many ticks a server may go on counting a session that it is to forget within `hold`: the most that a quarantine
/// of `hold` must outlast.
pub fn ghost(hold: Duration) -> u64 {
    let watched = timing().quarantine_watch(hold);
    watched.as_secs() + u64::from(watched.subsec_nanos() > 0)
}
