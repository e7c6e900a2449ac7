//! The worlds that are exhausted: each with the faults that together could break one rule.

use crate::config::{ABSENT, Faults, Scenario};

const NONE: Faults = Scenario::PLAIN.faults;
/// The first pod holds both slots, the second one wants them.
const CONTENDED: Scenario = Scenario { plans: &[&[2, 2]], ..Scenario::PLAIN };
/// The first pod holds the only slot, the second one wants it.
const ONE: Scenario = Scenario { budget: 1, plans: &[&[1, 1]], ..Scenario::PLAIN };
/// One pod with the only slot: whoever comes after its worker must not take too early what that one left.
const ALONE: Scenario = Scenario { budget: 1, plans: &[&[1]], ..Scenario::PLAIN };
/// The same with two slots.
const ALONE_WITH_TWO: Scenario = Scenario { plans: &[&[2]], ..Scenario::PLAIN };
/// One slot moves from the first pod to the second.
const MOVED: Scenario = Scenario { plans: &[&[2, 0], &[1, 1]], ..Scenario::PLAIN };

/// A worker is stopped, also between check and connect, and goes on.
pub const PAUSE: Scenario =
    Scenario { name: "pause", ticks: 7, session_timeout: 1, faults: Faults { pause: 1, ..NONE }, ..CONTENDED };
/// A worker dies, its FIN may be lost with its node's network, which may come back late; it is reaped by silence.
pub const SILENCE: Scenario =
    Scenario { name: "silence", ticks: 12, session_timeout: 3, faults: Faults { kill: 1, cut: 1, ..NONE }, ..ONE };
/// The same, and another process of the pod proves its death.
pub const RESTART: Scenario = Scenario {
    name: "restart",
    ticks: 6,
    session_timeout: 2,
    faults: Faults { kill: 1, cut: 1, restart: 1, ..NONE },
    ..ALONE
};
/// A node reboots and starts the worker again.
pub const REBOOT: Scenario =
    Scenario { name: "reboot", ticks: 7, faults: Faults { reboot: 1, restart: 1, ..NONE }, ..CONTENDED };
/// A SYNC takes long, gets lost, or comes late, while a slot moves.
pub const LATE: Scenario = Scenario { name: "late", ticks: 2, faults: Faults { slow: 1, ..NONE }, ..MOVED };
/// Two of them.
pub const LATE_TWICE: Scenario =
    Scenario { name: "late twice", ticks: 1, faults: Faults { slow: 2, close: 1, ..NONE }, ..MOVED };
/// A SYNC comes twice.
pub const REPEAT: Scenario =
    Scenario { name: "repeat", ticks: 2, faults: Faults { slow: 1, repeat: 1, ..NONE }, ..MOVED };
/// Sessions are closed while a slot moves.
pub const CLOSE: Scenario = Scenario { name: "close", ticks: 3, faults: Faults { close: 1, ..NONE }, ..MOVED };
/// Redis restarts from an older copy.
pub const ROLLBACK: Scenario = Scenario { name: "rollback", ticks: 5, faults: Faults { rollback: 1, ..NONE }, ..MOVED };
/// The ledger is deleted, and a worker dies about the same time.
pub const WIPE: Scenario =
    Scenario { name: "wipe", ticks: 5, faults: Faults { wipe: 1, kill: 1, cut: 1, ..NONE }, ..CONTENDED };
/// A replica is promoted while the old primary goes on for long, and so must the leader wait.
pub const PROMOTION: Scenario = Scenario {
    name: "promotion",
    ticks: 10,
    old_primary: 10,
    session_timeout: 1,
    faults: Faults { failover: 1, ..NONE },
    ..ONE
};
/// A replica that missed the last writes is promoted while the old primary goes on for a tick.
pub const SWITCH: Scenario = Scenario {
    name: "switch",
    ticks: 5,
    old_primary: 1,
    session_timeout: 2,
    faults: Faults { copy: 1, failover: 1, ..NONE },
    ..CONTENDED
};
/// Two leaders at work, whose decisions are carried out late.
pub const TWO_LEADERS: Scenario = Scenario {
    name: "two leaders",
    ticks: 5,
    slow_leader: true,
    faults: Faults { second_leader: 1, kill: 1, ..NONE },
    ..MOVED
};
/// The leader is replaced, and a pod ends after its node was cut off.
pub const NEW_LEADER: Scenario =
    Scenario { name: "new leader", ticks: 7, faults: Faults { new_leader: 1, kill: 1, cut: 1, end: 1, ..NONE }, ..ONE };
/// The leader has not seen the pods register when the ledger is deleted.
pub const UNSEEN: Scenario = Scenario {
    name: "unseen",
    ticks: 5,
    unseen: true,
    faults: Faults { wipe: 1, kill: 1, cut: 1, ..NONE },
    ..CONTENDED
};
/// Three pods for two slots; one dies and comes back.
pub const THREE: Scenario = Scenario {
    name: "three pods",
    plans: &[&[1, 1, 1]],
    ticks: 3,
    faults: Faults { kill: 1, restart: 1, ..NONE },
    ..Scenario::PLAIN
};
/// A session's FIN is lost: its worker waits for EOF in vain, or dies while it waits.
pub const NO_EOF: Scenario = Scenario {
    name: "no eof",
    ticks: 5,
    session_timeout: 1,
    lingers: true,
    faults: Faults { close: 1, kill: 1, restart: 1, ..NONE },
    ..ALONE
};
/// A worker ends as told and comes back, while one of its SYNCs is late.
pub const LEAVE: Scenario =
    Scenario { name: "leave", ticks: 3, faults: Faults { leave: 1, slow: 1, restart: 1, ..NONE }, ..ONE };
/// A share grows and is used before the leader looks again; then the ledger is deleted and the node cut off.
pub const UNSEEN_SHARE: Scenario = Scenario {
    name: "unseen share",
    plans: &[&[1, 0], &[2, 2]],
    ticks: 6,
    session_timeout: 5,
    faults: Faults { wipe: 1, cut: 1, ..NONE },
    ..CONTENDED
};
/// A worker rests and wakes; the ledger is deleted about then, and the node cut off.
pub const REST: Scenario =
    Scenario { name: "rest", ticks: 5, session_timeout: 2, faults: Faults { rest: 1, wipe: 1, cut: 1, ..NONE }, ..ONE };
/// A worker rests and wakes, with a SYNC that takes long, and dies.
pub const REST_LATE: Scenario =
    Scenario { name: "rest, late", ticks: 5, faults: Faults { rest: 1, slow: 1, kill: 1, ..NONE }, ..ONE };
/// The ledger is deleted while a worker is stopped.
pub const WIPE_PAUSE: Scenario =
    Scenario { name: "wipe, pause", ticks: 7, session_timeout: 2, faults: Faults { pause: 1, wipe: 1, ..NONE }, ..ONE };
/// The ledger is deleted, and a node reboots.
pub const WIPE_REBOOT: Scenario =
    Scenario { name: "wipe, reboot", ticks: 5, faults: Faults { wipe: 1, reboot: 1, restart: 1, ..NONE }, ..CONTENDED };
/// The ledger is deleted while a SYNC is late.
pub const WIPE_LATE: Scenario =
    Scenario { name: "wipe, late", ticks: 4, faults: Faults { wipe: 1, slow: 1, ..NONE }, ..CONTENDED };
/// The ledger is deleted under two leaders, and a worker dies.
pub const WIPE_TWO_LEADERS: Scenario = Scenario {
    name: "wipe, two leaders",
    ticks: 6,
    faults: Faults { wipe: 1, kill: 1, second_leader: 1, ..NONE },
    ..CONTENDED
};
/// The leader is replaced while a worker falls silent.
pub const SILENCE_NEW_LEADER: Scenario = Scenario {
    name: "silence, new leader",
    ticks: 7,
    faults: Faults { new_leader: 1, kill: 1, cut: 1, ..NONE },
    ..ONE
};
/// The leader is replaced about when the ledger is deleted and a node is cut off: only the mirror knows of its worker.
pub const WIPE_NEW_LEADER: Scenario = Scenario {
    name: "wipe, new leader",
    ticks: 5,
    faults: Faults { wipe: 1, new_leader: 1, cut: 1, ..NONE },
    ..CONTENDED
};
/// A worker dies and comes back while one of its SYNCs is late.
pub const RESTART_LATE: Scenario = Scenario {
    name: "restart, late",
    ticks: 4,
    session_timeout: 1,
    faults: Faults { slow: 1, kill: 1, restart: 1, ..NONE },
    ..ALONE
};

/// A worker dies and its pod is over, as the API says: its kernel is gone, whatever it had not yet sent.
pub const OVER: Scenario =
    Scenario { name: "pod over", ticks: 8, session_timeout: 6, faults: Faults { kill: 1, end: 1, ..NONE }, ..ONE };
/// A worker dies and is started again, while its FINs wait, are read late, or never come.
pub const KILLED: Scenario = Scenario {
    name: "killed",
    ticks: 5,
    session_timeout: 2,
    acks: true,
    faults: Faults { kill: 1, restart: 1, vanish: 1, ..NONE },
    ..ALONE_WITH_TWO
};
/// A worker is frozen with its sockets.
pub const FROZEN: Scenario =
    Scenario { name: "frozen", ticks: 12, session_timeout: 10, faults: Faults { freeze: 1, ..NONE }, ..ONE };
/// A box on the way resets the client's side of a session.
pub const BOX: Scenario =
    Scenario { name: "box", ticks: 4, session_timeout: 2, faults: Faults { box_reset: 1, ..NONE }, ..ALONE_WITH_TWO };
/// The same, and the worker may die before it notices, and come back.
pub const BOX_KILLED: Scenario = Scenario {
    name: "box, killed",
    ticks: 3,
    session_timeout: 2,
    faults: Faults { box_reset: 1, kill: 1, restart: 1, ..NONE },
    ..ALONE
};
/// An older copy is written into the running Redis.
pub const RESTORED: Scenario = Scenario { name: "restored", ticks: 3, faults: Faults { restore: 1, ..NONE }, ..MOVED };
/// A worker leaves the ledger and joins it again while slots of it are withheld.
pub const REJOINED: Scenario = Scenario {
    name: "rejoined",
    ticks: 3,
    session_timeout: 6,
    faults: Faults { leave: 1, rejoin: 1, box_reset: 2, ..NONE },
    ..ALONE_WITH_TWO
};
/// A worker and its supervisor die together, and another supervisor knows nothing of their connections.
pub const UNSUPERVISED: Scenario = Scenario {
    name: "supervisor killed",
    ticks: 6,
    session_timeout: 2,
    faults: Faults { kill_all: 1, restart: 1, ..NONE },
    ..ALONE
};
/// A pod is not named for a while, and comes back while the registration of an earlier worker of it is still late.
pub const FORGOTTEN: Scenario = Scenario {
    name: "forgotten",
    ticks: 5,
    plans: &[&[1, 1], &[ABSENT, 1], &[1, 1]],
    session_timeout: 1,
    late_registration: true,
    faults: Faults { restart: 1, ..NONE },
    ..ONE
};
/// A slot is withheld by its worker, and the ledger is lost and the worker dies before anybody else has seen that.
pub const WIPE_BOX: Scenario = Scenario {
    name: "wipe, box",
    ticks: 6,
    session_timeout: 6,
    faults: Faults { wipe: 1, box_reset: 1, kill: 1, restart: 1, ..NONE },
    ..ALONE
};
