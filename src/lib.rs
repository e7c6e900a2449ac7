//! mailrelay shares a mail server's connection budget among the pods of a Kubernetes cluster.
//!
//! # How mail and shares flow
//!
//! ```text
//!       MailRelay, MailServer objects, pods                           producers
//!                       │                                                │ LPUSH, `mailrelay send`
//!                       ▼                                                ▼
//!  controller: observe ▶ plan ▶ drive ──shares──▶ ledger        queue: lists, claims, dead letters
//!     ▲                           └──record──▶    (lease)          │ claim          ▲ settle
//!     │ status, conditions, Events                │ slots          ▼                │
//!     └──────────── reports, depths ─────────  worker: slot ▶ session ▶ claim ▶ transaction ▶ outcome
//!                                                           └──────── smtp ────────┘
//! ```
//!
//! Two programs share one Redis and nothing else. The **controller** ([`controller`]) reads the cluster, divides each
//! budget ([`budget`]) and writes the shares into the budget's ledger ([`lease`]) and the relay's spec, with its servers as
//! whoever owns them says, into a record ([`api::RelayRecord`]). The **worker** ([`worker`]), one process in each pod, needs no Kubernetes: it follows the record,
//! takes slots from the ledger, opens one SMTP session on each ([`smtp`]), claims mail for it from the queue ([`queue`]),
//! and settles what became of each mail. The command line ([`cli`]) reads and writes the same keys.
//!
//! # The promises, and where each is kept
//!
//! | promise | kept by |
//! |---|---|
//! | No connection beyond the budget is open | the ledger's scripts: `claims + quarantine <= budget`, whatever the shares are; the worker counts a slot before `connect()` and until the server's EOF ([`lease::Slot`]), and stops at its deadline ([`lease::Holder`]); the rules and their places are in [`lease`] |
//! | No mail is lost, and none is blindly sent twice | every move of a mail is one script ([`queue::Queue`]); `committing` is recorded before the last byte ([`smtp::Commit`]); a dead process's mail is resolved by its stage ([`queue::resolve`]); what only the server knows is held; [`queue::Audit`] adds it all up |
//! | Nothing idles, nothing is stuck | shares follow the pods ([`controller`]) and are heard at once ([`lease::SlotPool`]); idle workers block on arrivals ([`queue::Arrivals`]); silent holders are reaped ([`lease::Watch`]), claims of dead processes recovered, by whoever leads |
//!
//! The controller is not needed for the first two: dead, doubled or stale it makes shares unfair, never too many. Losing
//! Redis costs time, not safety: workers close their sessions at the end of their leases.
//!
//! # Modules, in the order in which data flows
//!
//! A module uses only those above it; `tests/architecture` holds that.
//!
//! | module | what | uses |
//! |---|---|---|
//! | [`system`] | clocks and randomness, so that a simulation can give its own | |
//! | [`api`] | the types of `MailRelay` and `MailServer`, their rules, the record and the reports | |
//! | [`budget`] | the division of a budget, pure | |
//! | [`store`] | the connection to Redis: limits, and what a failure means | |
//! | [`lease`] | the ledger: pure state machine, scripts, the worker's slots, the leader's watch | `store` |
//! | [`rate`] | how many mails a server takes in a time: token buckets | `api`, `store` |
//! | [`delivery_log`] | what the log of a mail server says of messages, pure | |
//! | [`mail`] | a mail apart from any queue: its JSON, addresses, ids, and the message made of it; pure but for new ids | `api` |
//! | [`queue`] | envelopes, stages, scripts, retries, the audit | `api`, `store`, `mail` |
//! | [`smtp`] | the reply table (pure), sessions, transactions | `api` |
//! | [`worker`], [`controller`] | the two programs; neither uses the other | all above |
//! | [`cli`] | one file for each command | all above |
//! | [`telemetry`] | logs, metrics, HTTP: a leaf that uses nothing of ours | |
//!
//! Decisions are pure functions with clock and randomness as arguments, tested where they stand; what talks to Redis, to a
//! mail server or to Kubernetes is tested against real ones under `tests/`.
//!
//! # Keys in Redis
//!
//! | key | type | module |
//! |---|---|---|
//! | `mailrelay:{<budget>}:ledger` | HASH: one budget's ledger, without expiry | [`lease::LedgerStore`] |
//! | `mailrelay:{<budget>}:log` | STREAM: grants, reaps, recoveries and refused writes, about the last 1,000 | [`lease::LedgerStore`] |
//! | `mailrelay:{<budget>}:twin` | STRING: the ledger's version once more, by which an older copy of it is known | [`lease::LedgerStore`] |
//! | `mailrelay:{<budget>}:events` | channel: a hint that a SYNC is worth it | [`lease::LedgerStore`] |
//! | `mailrelay:{<budget>}:rate` | HASH: the token buckets of its rate limits | [`rate::Buckets`] |
//! | `mailrelay:config:<namespace>/<name>` | STRING: the record; the channel of that name tells of changes | [`api::record_key`]; written by [`controller`] |
//! | `mailrelay:reports:<namespace>/<name>` | HASH: pod UID -> what a worker says of its servers | [`api::reports_key`]; written by [`worker`] |
//! | the queue's list and `{<queue>}:*`, the dead-letter list, `<payloadPrefix><id>` | mail in all its states | the table in [`queue`] |
//!
//! In Kubernetes the controller keeps a Lease (who leads), a `ConfigMap` (the epoch, and which budgets were ever opened), and
//! in each relay's status the holders and withheld slots of its budgets ([`controller::mirror`]), from which a new leader
//! starts when Redis has lost a ledger.

pub mod api;
pub mod budget;
pub mod cli;
pub mod controller;
pub mod delivery_log;
pub mod lease;
pub mod mail;
pub mod queue;
pub mod rate;
pub mod smtp;
pub mod store;
pub mod system;
pub mod telemetry;
pub mod worker;
