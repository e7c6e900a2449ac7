//! A model of the lease protocol.

mod config;
mod leader;
mod redis;
mod start;
mod state;
mod step;
mod world;

use std::time::Instant;

use config::{Faults, Scenario, Variant, timing};
use stateright::{Checker, HasDiscoveries, Model};
use world::INVARIANT;

/// Runs to the end of all states; returns the length of the path to a broken invariant.
fn check(scenario: Scenario) -> Option<usize> {
    let (name, variant) = (scenario.name, scenario.variant);
    let started = Instant::now();
    let checker = scenario.checker().finish_when(HasDiscoveries::AnyFailures).timeout(std::time::Duration::from_secs(40)).spawn_bfs().join();
    let seconds = started.elapsed().as_secs_f64();
    let broken = checker.discovery(INVARIANT);
    let length = broken.clone().map(|path| path.into_actions().len());
    eprintln!(
        "model {name}, {variant:?}: {} states, {} unique, depth {}, {seconds:.1} s, done {}, {}, used {}, grown {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        checker.is_done(),
        length.map_or_else(|| "holds".to_owned(), |n| format!("broken after {n} steps")),
        checker.discovery(world::ALL_USED).is_some(),
        checker.discovery(world::GROWTH).is_some(),
    );
    if let Some(path) = broken {
        for step in path.into_actions() {
            eprintln!("    {step:?}");
        }
    }
    length
}


const CONTENDED: Scenario = Scenario { plans: &[&[2, 2]], ticks: 6, ..Scenario::PLAIN };
const MOVED: Scenario = Scenario { plans: &[&[2, 0], &[1, 1]], ..Scenario::PLAIN };

fn faults(name: &'static str, base: Scenario, ticks: u64, faults: Faults) -> Scenario {
    Scenario { name, ticks, faults, ..base }
}
fn pause() -> Scenario { faults("pause", CONTENDED, 6, Faults { pause: 1, ..Faults::default() }) }
fn kill() -> Scenario { faults("kill", CONTENDED, 8, Faults { kill: 1, cut: 1, ..Faults::default() }) }
fn messages() -> Scenario { faults("messages", MOVED, 3, Faults { slow: 2, repeat: 1, close: 1, ..Faults::default() }) }
fn rollback() -> Scenario { faults("rollback", MOVED, 6, Faults { copy: 1, rollback: 1, ..Faults::default() }) }
fn wipe() -> Scenario { faults("wipe", CONTENDED, 8, Faults { wipe: 1, kill: 1, cut: 1, ..Faults::default() }) }
fn failover() -> Scenario { Scenario { old_primary: 9, session_timeout: 2, ..faults("failover", CONTENDED, 10, Faults { failover: 1, ..Faults::default() }) } }
fn close() -> Scenario { faults("close", MOVED, 3, Faults { close: 1, ..Faults::default() }) }
fn reboot() -> Scenario { faults("reboot", CONTENDED, 6, Faults { reboot: 1, ..Faults::default() }) }
fn leaders() -> Scenario { Scenario { slow_leader: true, ..faults("leaders", MOVED, 6, Faults { leader: 1, kill: 1, ..Faults::default() }) } }

macro_rules! pair {
    ($($test:ident: $scenario:ident $($variant:ident)*;)*) => { $(
        #[test]
        fn $test() {
            $( assert!(check($scenario().broken(Variant::$variant)).is_some()); )*
            assert!(check($scenario()).is_none());
        }
    )* };
}
pair! {
    t_pause: pause ArmedAfterConnect NoSwitch;
    t_kill: kill FreedByTtl FreedAtOnce;
    t_messages: messages NoSequence RaisedBeforeReply;
    t_rollback: rollback NoFence;
    t_wipe: wipe NoQuarantineAtOpen;
    t_failover: failover EarlyInit;
    t_close: close FreeAtAck;
    t_reboot: reboot ProofAcrossReboot;
    t_leaders: leaders;
}
