//! A deterministic simulation: the production code of workers and controllers, whole, against a simulated network, Redis,
//! API server and mail server, on virtual clocks, under random faults. One number, the seed, decides everything, so a
//! failing seed replays the same.
//!
//! - `make simulation`: 5,000 seeds; `SEEDS=n` more or fewer; `SEED=n` one of them, told step by step, and with
//!   `RUST_LOG=mailrelay=debug` also by the processes' own logs.
//! - What is judged: [`judge`]. What may befall a world: [`plan::Fault`].
//! - Built without `--cfg tokio_unstable` (a plain `cargo test`), tokio chooses freely among branches that are ready at
//!   once: a few seeds run, but do not replay exactly.
//!
//! | file | what |
//! |---|---|
//! | `process` | a process: a tokio runtime with a clock of its own, stepped through short windows |
//! | `net` | connections as Linux has them, with latency, cuts, boxes on the way, network namespaces that vanish |
//! | `supervisor` | what outlives a worker: the list of its connections, watched in the kernel's table |
//! | `mail` | the mail server; the API server is [`testkit::ApiServer`] |
//! | `cluster` | nodes, pods, the machine under a worker |
//! | `courier` | what befalls single commands on their way to Redis |
//! | `post` | what producers send: mails of all kinds, forgeries, garbage |
//! | `observer` | the producer of mails, and the one who looks at the end |
//! | `plan`, `world` | what a seed stands for, and how it comes to pass |
//! | `judge` | the oracles |

mod broken;
mod cluster;
mod courier;
mod judge;
mod mail;
mod net;
mod observer;
mod plan;
mod post;
mod process;
#[path = "../replica/mod.rs"]
mod replica;
mod supervisor;
mod trace;
mod world;

use std::{
    collections::BTreeMap,
    env, fs,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use broken::Broken;
use judge::{Outcome, run};

/// The value of an environment variable.
fn number(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Runs seeds on all cores; `each` sees every outcome and says whether to go on.
fn run_all(seeds: std::ops::Range<u64>, broken: Broken, each: impl Fn(&Outcome) -> bool + Sync) {
    let next = AtomicU64::new(seeds.start);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if !each(&run(seed, broken, false)) {
                        next.store(seeds.end, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    time: Duration,
    counts: BTreeMap<String, u64>,
    failed: Vec<(u64, Vec<String>)>,
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("SEED") {
        trace::log();
        let outcome = run(seed, Broken::Nothing, true);
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        return;
    }
    let seeds = number("SEEDS").unwrap_or(if cfg!(tokio_unstable) { 500 } else { 20 });
    let first = number("FIRST").unwrap_or(0);
    let most = number("MOST").map_or(10, |most| usize::try_from(most).expect("few"));
    let start = Instant::now();
    let sum = Mutex::new(Sum::default());
    run_all(first..first + seeds, Broken::Nothing, |outcome| {
        let mut sum = sum.lock().expect("no panic inside");
        sum.seeds += 1;
        sum.time += outcome.time;
        for (what, count) in &outcome.counts {
            *sum.counts.entry(what.clone()).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            eprintln!("{}", outcome.story(number("LINES").map_or(60, |lines| usize::try_from(lines).expect("few"))));
            sum.failed.push((outcome.seed, outcome.violations.clone()));
        }
        sum.failed.len() < most
    });
    let sum = sum.into_inner().expect("no panic inside");
    println!(
        "simulation: {} seeds, {:.1} virtual hours, {:.0} s",
        sum.seeds,
        sum.time.as_secs_f64() / 3_600.0,
        start.elapsed().as_secs_f64()
    );
    for (what, count) in &sum.counts {
        println!("  {what:<30} {count:>9}");
    }
    for (seed, violations) in &sum.failed {
        println!("seed {seed}: {violations:?}; again: make simulation SEED={seed}");
    }
    assert!(sum.failed.is_empty(), "{} of {} seeds break a promise", sum.failed.len(), sum.seeds);
}

#[test]
#[cfg_attr(not(tokio_unstable), ignore = "tokio's choices are seeded only with --cfg tokio_unstable: make simulation")]
fn a_seed_replays_the_same() {
    for seed in 0..20 {
        let (first, second) = (run(seed, Broken::Nothing, false), run(seed, Broken::Nothing, false));
        if first.digest != second.digest {
            let (one, two) = (first.trace.tail(10_000), second.trace.tail(10_000));
            let at = one.iter().zip(&two).position(|(one, two)| one != two).unwrap_or(one.len().min(two.len()));
            let around = |lines: &[String]| lines[at.saturating_sub(5)..lines.len().min(at + 5)].join("\n");
            panic!("seed {seed} differs:\n{}\n---- and\n{}", around(&one), around(&two));
        }
    }
}

/// Looks for a seed in which a world without a rule breaks the promise that the rule keeps.
fn is_noticed(broken: Broken, oracle: &str, within: u64) {
    let found = Mutex::new(None);
    run_all(0..within, broken, |outcome| {
        if !outcome.violations.iter().any(|violation| violation.starts_with(oracle)) {
            return true;
        }
        *found.lock().expect("no panic inside") = Some((outcome.seed, outcome.violations.clone()));
        false
    });
    let found = found.into_inner().expect("no panic inside");
    println!("{broken:?}: {found:?}");
    assert!(found.is_some(), "{broken:?} was not noticed in {within} seeds");
}

/// A test for each rule that is left out: within so many seeds the oracle says so.
macro_rules! noticed {
    ($($name:ident: $broken:ident, $oracle:literal, $within:literal;)*) => {
        const BROKEN: &[Broken] = &[$(Broken::$broken),*];
        $(
        #[test]
        #[cfg_attr(not(tokio_unstable), ignore = "takes hundreds of seeds: make simulation")]
        fn $name() {
            is_noticed(Broken::$broken, $oracle, $within);
        }
        )*
    };
}

noticed! {
    a_world_without_a_fence_is_noticed: NoFence, "O1", 1_000;
    slots_that_are_free_before_the_servers_end_are_noticed: EofAtAck, "O1", 1_000;
    mail_that_is_sent_again_blindly_is_noticed: NoCommitting, "O3", 1_000;
    an_end_that_counts_after_an_error_is_noticed: ErrorForgotten, "O1", 1_000;
    a_supervisor_that_takes_fin_wait_for_the_servers_end_is_noticed: FinWaitProves, "O1", 500;
    a_supervisor_that_takes_a_vanished_port_for_proof_is_noticed: VanishedProves, "O1", 500;
    accounts_of_a_process_that_could_not_write_all_down_are_noticed: IncompleteAccounts, "O1", 500;
    slots_of_pods_that_are_over_and_free_soon_are_noticed: StatusFrees, "O1", 500;
    slots_of_silent_pods_that_are_free_soon_are_noticed: SilenceFrees, "O1", 500;
    slots_of_a_container_before_that_are_free_soon_are_noticed: SuccessorFrees, "O1", 500;
    slots_without_a_proper_end_that_are_free_soon_are_noticed: UncleanFrees, "O1", 500;
    a_ledger_that_forgets_who_did_not_come_back_is_noticed: MissingForgotten, "O1", 500;
    an_older_copy_of_a_ledger_that_passes_for_the_ledger_is_noticed: NoVersions, "O1", 500;
    an_older_copy_that_only_those_know_who_heard_more_is_noticed: NoTwin, "O1", 500;
    a_slot_that_does_not_rest_is_noticed: NoSettle, "O1", 1_000;
    a_renamed_budget_that_opens_at_once_is_noticed: RenamedOpens, "O1", 500;
    a_raw_mail_that_is_another_at_each_look_is_noticed: OtherAtEachLook, "O2", 500;
    recipients_who_have_a_mail_and_are_forgotten_are_noticed: HavingForgotten, "O3", 500;
    headers_of_producers_that_are_believed_are_noticed: ForgedBelieved, "O2", 500;
    a_late_command_that_takes_committing_back_is_noticed: CommittingTakenBack, "O3", 1_000;
}

/// Otherwise a world would be called broken in which every rule holds.
#[test]
fn the_words_of_scripts_that_are_replaced_stand_in_one_place_each() {
    let mut scripts = BTreeMap::new();
    for folder in ["src/lease/scripts", "src/queue/lua"] {
        for entry in fs::read_dir(folder).expect("the scripts") {
            let path = entry.expect("a script").path();
            scripts.insert(path.clone(), fs::read_to_string(path).expect("text"));
        }
    }
    for broken in BROKEN {
        for (from, to) in broken.scripts() {
            let places: usize = scripts.values().map(|text| text.matches(from).count()).sum();
            assert_eq!(places, 1, "{broken:?}: {from:?}");
            assert_ne!(from, to, "{broken:?}");
        }
    }
}
