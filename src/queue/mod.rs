//! The queue: how a mail travels through Redis without being lost or sent twice.
//!
//! # The life of a mail
//!
//! ```text
//!  LPUSH / enqueue          claim                advance             advance              settle
//!  ─────────────▶ queued ─────────▶ claimed ─────────▶ sending ─────────▶ committing ─────────▶ delivered
//!                   ▲  ▲             │    │                │                   │      ├────────▶ delayed ──▶ queued
//!    promote_due ───┘  └─ recover ◀──┘    └─▶ duplicate    └─▶ recover: queued │      ├────────▶ dead ──▶ queued
//!                                             expired                          │      └────────▶ held ──▶ queued
//!                                             delayed, dead                    └─▶ recover: held or resend
//! ```
//!
//! 1. A producer pushes JSON (see [`crate::mail::parse()`]) or a bare id onto a list, or hands it to [`Queue::enqueue`], which also
//!    refuses what does not fit and recognises duplicates at the door.
//! 2. An idle worker waits ([`Arrivals`]): BLMOVE takes a mail from the tail of a list into the shared list `arrived`,
//!    where the next claim of anyone finds it, should the waiter be gone by then. Its answer, the mail, is not sent.
//! 3. [`Queue::claim`] runs two scripts. The first moves entries into the claims of the process (`taken`). Then each is
//!    looked at in Rust, since no script may decode a payload. The second fixes the header of those that can be sent
//!    (`claimed`) and writes their records, or drops duplicates and expired mail, delays early mail and puts what can't
//!    be parsed to the dead letters. A process that dies between the two leaves entries exactly as they were. What the
//!    script can't decide it gives back to be thought over, and is asked again: a header that is not ours, a duplicate of
//!    a mail that may be gone, recipients who have the mail already.
//! 4. [`Queue::advance`] notes `sending`, and `committing` before the bytes that complete the mail are handed to the
//!    socket. It compares the claim: a worker whose claim was taken over aborts.
//! 5. [`Queue::settle`] ends the claim with its outcome, counters, state record and event in one script. A repetition
//!    with the same [`OperationId`] changes nothing.
//! 6. [`Queue::recover`] resolves the claims of a dead process by stage ([`resolve`]): before `committing` they go back
//!    to the end that is taken next, `committing` is held for a person or resent with the same Message-ID, as the
//!    relay's policy says. A definite reply that comes after all still moves a held mail to its true outcome.
//!
//! Payloads are bytes: no script decodes or re-encodes them. An entry that mailrelay has counted carries an envelope
//! ([`Header`]) in front of them; an entry without one was pushed by a producer and never looked at. Producers push to
//! the same lists, so bytes that look like a header prove nothing: it is believed when the record of its id names its
//! serial, which nobody else knows. Otherwise the entry is what its producer pushed, and the header is ignored.
//!
//! Time is Redis': scripts ask for it (`TIME`) and compare `notBefore`, `expiresAt` and due times there; workers say only
//! how long to wait. Promotion of due mail takes at most every second place while other mail waits, all workers together.
//!
//! # Keys
//!
//! `Q` is the queue's name; `{Q}` hashes like `Q`, so all but the dead-letter list lie in one Redis Cluster slot. Every
//! script names that list too: in Cluster mode its name must carry the tag ([`QueueNames::fits_cluster`]), while a single
//! node does not care.
//!
//! | key | type | what | written by |
//! |---|---|---|---|
//! | `Q`, `{Q}:high`, `{Q}:low` | LIST | what waits; pushed at the head, taken from the tail | producers, enqueue, promote, recover, re-drive |
//! | `{Q}:arrived` | LIST | what blocked workers moved; taken first | BLMOVE |
//! | `{Q}:claims:<process>` | HASH | claim -> entry | take, admit |
//! | `{Q}:stages:<process>` | HASH | claim -> `stage since`, with the list's letter while `taken`; `last` -> number of the last take | take, admit, advance |
//! | `{Q}:processes` | HASH | process -> pod, of all that claim | take; removed with the last claim recovered |
//! | `{Q}:delayed` | ZSET | token by due time (ms) | admit, settle, enqueue, recover (resend) |
//! | `{Q}:delayed:mails` | HASH | token -> entry | the same |
//! | `{Q}:held` | HASH | claim -> a line of JSON, newline, entry ([`HeldMail`]) | settle, recover |
//! | the dead-letter list | LIST | JSON objects ([`DeadLetter`]), newest first | admit, settle, recover |
//! | `{Q}:letters:<number>` | STRING | parts of a long dead letter, until the script that puts it among the others; for 10 minutes at most | bring |
//! | `{Q}:records:<0..16383>` | HASH | the records whose digests fall there: a mail's state ([`MailStatus`]) and serial by its id, and the same by its idempotency key | all |
//! | `{Q}:counters` | HASH | the audit's counters ([`Audit`]), recoveries, tries | all |
//! | `{Q}:events` | STREAM | outcomes ([`Outcome`], docs/events.md); about the last 10,000, or as many as [`Queue::keep_events`] said | all |
//! | `{Q}:samples` | LIST | how many had arrived when, for the age of raw mail | depths |
//! | `{Q}:corrections` | LIST | differences of the audit that a person accepted ([`Correction`]), newest first | `mailrelay audit --accept` |
//! | `{Q}:batch:<name>` | HASH | how many mails a batch has ([`BatchSent`]), for 30 days | `mailrelay send --batch` |
//! | `<payloadPrefix><id>` | STRING | the JSON of a mail that waits as a bare id | producers |
//!
//! # Never twice
//!
//! A record says which mail (by its `serial`) holds an id or key. A second mail with either is dropped and counted while
//! the first waits, flies, is held, or was delivered not longer ago than final records are kept (the counters' field
//! `retention`, or 24 h); after dead letter, discard or expiry it is allowed. A mail that comes back by retry or recovery carries its serial and so meets its own record. The serial is the
//! first claim's id: whoever looks at that claim again, since an answer was lost, sees the same mail.
//!
//! The record also says who has the mail (`has`), whatever became of the rest: a repeat goes to the others alone. A held
//! mail that a person discards counts as delivered to everybody: whoever knows better releases it.
//!
//! A second mail that is dropped though it is another one (`sum`, a fingerprint, differs) is counted apart and logged as a
//! warning. And a mail that is nowhere any more, since somebody deleted a list, forbids nothing: when its record says a
//! place where it is not, and all lists were seen empty since it can have come into one (`drains`), it is looked for in
//! all hands and given up as `lost`.
//!
//! A final record ends when its time is over, whatever still lies there, and one that is not final 30 days after its last
//! change, unless its mail may still be where it says: a mail that waits stays the one of its id. What has ended is taken
//! out of a bucket when others come into it, and a bucket that nothing comes into ends by itself after some months.
//!
//! # Memory
//!
//! A payload is in memory once (see [`crate::mail`]). [`Room`] says how many bytes of payloads a process may hold; who has
//! no room claims small mail only, and a mail that is larger than all the room goes with no other long one beside it. What is
//! long is read, and a long dead letter written, in parts by a connection of its own.
//!
//! # Quiet when idle
//!
//! Who has nothing to do is told: of mail by a blocking move on each list ([`Arrivals`]), of the first delayed mail that is due by
//! what is published on the channel called like `{Q}:delayed` ([`Queue::dues`]), and, on the one called like `{Q}:arrived`, of mail
//! that was moved there for somebody who does not come ([`Queue::call`]). What is published is a hint, and what is missed is found
//! by looking, some minutes later.
//!
//! # At maxmemory
//!
//! All scripts but enqueue carry `allow-oom`: they drain. BLMOVE fails then, so [`Arrivals::wait`] says [`Wake::Failed`]
//! once a second, and the claim that follows works.

pub mod access;
mod arrivals;
mod at;
mod attempts;
mod audit;
mod batch;
mod bodies;
mod claim;
mod claimed;
mod correct;
mod dead;
mod enqueue;
mod envelope;
mod events;
mod handle;
mod header;
mod held;
mod ids;
mod inspect;
mod letter;
mod long;
mod lost;
mod names;
mod patience;
mod payload;
mod presence;
mod promote;
mod records;
mod recover;
mod retry;
mod room;
mod schedule;
mod scripts;
mod settle;
mod settlement;
mod stage;

pub use arrivals::{Arrivals, Wake};
pub use at::At;
pub use audit::Audit;
pub use batch::{BatchName, BatchProgress, BatchSent};
pub use claim::Batch;
pub use claimed::Claimed;
pub use correct::{Acceptance, Correction};
pub use dead::{Action, Bulk, DeadLetter, Filter};
pub use enqueue::{EnqueueError, EnqueueLimits, Enqueued};
pub use envelope::Entry;
pub use events::Outcome;
pub use handle::{Queue, SCRIPT_LIMIT};
pub use header::{Header, MAX_REPLY, MAX_TRIES, Refusal, Try};
pub use held::{HeldDetails, HeldMail};
pub use ids::{ClaimId, OperationId};
pub use inspect::{Depths, InFlight, MailStatus, ProcessClaims};
pub use names::QueueNames;
pub use patience::Patience;
pub use presence::Presence;
pub use promote::Dues;
pub use recover::Recovery;
pub use retry::{Failure, TOO_OLD, backoff, is_too_old, next_step, wait};
pub use room::Room;
pub use schedule::{Counted, Schedule};
pub use settlement::{Advance, PerRecipient, Settled, Settlement};
pub use stage::{ALONE_FROM, POISON_FROM, RecoverOptions, Resolution, Stage, StageMark, Suspicion, resolve};
