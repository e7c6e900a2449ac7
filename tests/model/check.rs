//! Runs a scenario through the checker and says what came out.

use std::{fmt::Debug, hash::Hash, time::Instant};

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::{
    config::{Scenario, Variant},
    renamed::Renamed,
    world::{ALL_USED, GROWTH, INVARIANT},
};

/// What a check found.
struct Found<M: Model> {
    broken: Option<Path<M::State, M::Action>>,
    used: bool,
    grown: bool,
}

/// Visits every state, nearest first, unless the invariant breaks before; prints one line.
fn run<M>(name: &str, variant: &dyn Debug, model: M) -> Found<M>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let started = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let seconds = started.elapsed().as_secs_f64();
    let found = Found {
        broken: checker.discovery(INVARIANT),
        used: checker.discovery(ALL_USED).is_some(),
        grown: checker.discovery(GROWTH).is_some(),
    };
    let outcome = found.broken.as_ref().map_or_else(
        || "holds in all".to_owned(),
        |path| format!("broken after {} steps", path.clone().into_actions().len()),
    );
    println!(
        "model: {name}, {variant:?}: {} states, {} of them unique, depth {}, {seconds:.1} s: {outcome}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
    );
    found
}

/// The invariant holds in every state of the scenario, and the budget can be used up in it.
pub fn holds(scenario: &Scenario) -> bool {
    let found = run(scenario.name, &scenario.variant, scenario.clone());
    if let Some(path) = found.broken {
        panic!("{}: too many sessions after {}", scenario.name, told(path));
    }
    assert!(found.used, "{}: all slots can be used, or the scenario shows nothing", scenario.name);
    found.grown
}

/// As [`holds`], and sessions are opened again after a recovery.
pub fn holds_and_recovers(scenario: &Scenario) {
    assert!(holds(scenario), "{}: growth after recovery, or the scenario shows nothing", scenario.name);
}

/// The checker finds a way to break the invariant in the scenario with this variant.
pub fn breaks(scenario: &Scenario, variant: Variant) {
    let found = run(scenario.name, &variant, scenario.broken(variant));
    let path = found.broken.unwrap_or_else(|| panic!("{}: {variant:?} must be found", scenario.name));
    println!("    {}", told(path));
}

/// A rename holds.
pub fn renames(variant: Renamed) {
    let found = run("renamed", &variant, variant);
    if let Some(path) = found.broken {
        panic!("renamed: too many sessions after {}", told(path));
    }
    assert!(found.used, "renamed: the new pool can be used, or the world shows nothing");
}

/// The checker finds a way to break a rename with this variant.
pub fn breaks_renamed(variant: Renamed) {
    let found = run("renamed", &variant, variant);
    let path = found.broken.unwrap_or_else(|| panic!("renamed: {variant:?} must be found"));
    println!("    {}", told(path));
}

fn told<S: Debug + PartialEq, A: Debug + PartialEq>(path: Path<S, A>) -> String {
    let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
    steps.join(", ")
}
