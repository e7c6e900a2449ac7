//! A model of the lease protocol.

mod config;
mod leader;
mod redis;
mod scenarios;
mod start;
mod state;
mod step;
mod world;

use std::time::Instant;

use config::{Scenario, Variant, timing};
use stateright::{Checker, HasDiscoveries, Model};
use world::{ALL_USED, GROWTH, INVARIANT};

/// Runs to the end of all states; returns the length of the path to a broken invariant.
fn check(scenario: Scenario) -> Option<usize> {
    let (name, variant) = (scenario.name, scenario.variant);
    let started = Instant::now();
    let checker = scenario.checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(300_000).spawn_bfs().join();
    let seconds = started.elapsed().as_secs_f64();
    let broken = checker.discovery(INVARIANT);
    let length = broken.clone().map(|path| path.into_actions().len());
    eprintln!(
        "model {name}, {variant:?}: {} states, {} unique, depth {}, {seconds:.1} s, {}, used {}, grown {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        length.map_or_else(|| "holds".to_owned(), |n| format!("broken after {n} steps")),
        checker.discovery(ALL_USED).is_some(),
        checker.discovery(GROWTH).is_some(),
    );
    if let Some(path) = broken {
        let steps: Vec<String> = path.into_actions().iter().map(|s| format!("{s:?}")).collect();
        eprintln!("   {}", steps.join(" "));
    }
    length
}

macro_rules! pair {
    ($($test:ident: $scenario:ident $($variant:ident)*;)*) => { $(
        #[test]
        fn $test() {
            $( assert!(check(scenarios::$scenario.broken(Variant::$variant)).is_some()); )*
            assert!(check(scenarios::$scenario).is_none());
        }
    )* };
}
pair! {
    t_pause: PAUSE ArmedAfterConnect NoSwitch;
    t_silence: SILENCE FreedByTtl FreedAtOnce;
    t_restart: RESTART FreedAtOnce;
    t_reboot: REBOOT ProofAcrossReboot;
    t_late: LATE NoSequence RaisedBeforeReply;
    t_late_twice: LATE_TWICE;
    t_repeat: REPEAT;
    t_close: CLOSE FreeAtAck;
    t_rollback: ROLLBACK NoFence;
    t_wipe: WIPE NoQuarantineAtOpen;
    t_promotion: PROMOTION EarlyInit;
    t_switch: SWITCH;
    t_two_leaders: TWO_LEADERS;
    t_new_leader: NEW_LEADER;
    t_unseen: UNSEEN;
    t_three: THREE;
}
#[test]
fn times() {
    timing().check().expect("the model's times hold together");
}
