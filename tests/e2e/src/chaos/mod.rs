//! `make chaos`: the fault matrix on the local cluster, judged from outside.
//!
//! Every scenario gets a relay of its own (namespace, mail server, queue, pool), runs under load, does its harm at moments
//! that its seed decides, heals it, and ends. Then all oracles are judged by the same code, whatever the scenario was:
//! what the sink counted, what the producer had accepted, what Redis and the API server say, what the logs show.
//!
//! | file | what |
//! |---|---|
//! | `trial` | what a scenario works with: relay, load, seeded choices, figures, what the fault excuses |
//! | `load` | the producer, whose record of accepted mail is the truth |
//! | `oracles` | O1 to O6 |
//! | `logs` | every log line of every container, gone ones included |
//! | `report` | the table and `target/chaos/report.json` |
//! | `run` | which scenarios run, beside each other or alone |
//! | `setup` | relays to ask for, times, pods to choose from |
//! | `controller`, `api`, `resource`, `redis`, `store`, `worker`, `pod`, `network`, `server`, `clocks` | the scenarios, by what is harmed |
//! | `death` | what is dead, cut off or frozen while the server counts on |
//! | `resets` | boxes on the way that reset the client's side |
//! | `same_server` | one server by several names, and ledgers that are older than they look |
//! | `orderly` | what must cost nothing: updates, scaling, drains, sessions that come and go |

mod api;
mod clocks;
mod controller;
mod death;
mod load;
mod logs;
mod network;
mod oracles;
mod orderly;
mod pod;
mod redis;
mod report;
mod resets;
mod resource;
mod run;
mod same_server;
mod server;
mod setup;
mod store;
mod trial;
mod worker;

use std::{future::Future, pin::Pin};

use anyhow::Result;

use crate::{RelayOptions, Side};

pub use run::{Choice, run};
pub use trial::Trial;

/// What a scenario does between the first busy sessions and the judgement.
type Act = for<'t, 's> fn(&'t mut Trial<'s>) -> Pin<Box<dyn Future<Output = Result<()>> + 't>>;

/// One fault and what must come of it.
pub struct Scenario {
    /// `component_fault`, in lower case; names the namespace too.
    pub name: &'static str,
    /// The fault, in a few words.
    pub fault: &'static str,
    /// Whom it disturbs.
    pub reach: Reach,
    /// The mail servers that it runs against, each by itself.
    pub sides: &'static [Side],
    /// With which of them it is part of the slice that `make test` runs.
    pub slice: Option<Side>,
    /// The relay that it needs, given the name.
    pub relay: fn(&str) -> RelayOptions,
    /// The fault.
    pub act: Act,
}

/// Whom a scenario disturbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its own relay: others may run beside it.
    Own,
    /// Controller, Redis, API server or node: it runs alone.
    All,
}

impl Scenario {
    /// One that disturbs only its own relay.
    const fn own(name: &'static str, fault: &'static str, relay: fn(&str) -> RelayOptions, act: Act) -> Self {
        Self { name, fault, reach: Reach::Own, sides: SINK, slice: None, relay, act }
    }

    /// One that others would notice.
    const fn alone(name: &'static str, fault: &'static str, relay: fn(&str) -> RelayOptions, act: Act) -> Self {
        Self { name, fault, reach: Reach::All, sides: SINK, slice: None, relay, act }
    }

    /// The same against these servers.
    const fn against(self, sides: &'static [Side]) -> Self {
        Self { sides, ..self }
    }

    /// The same as part of the slice.
    const fn in_slice(self) -> Self {
        self.in_slice_with(Side::Sink)
    }

    /// The same as part of the slice, with one of its servers.
    const fn in_slice_with(self, side: Side) -> Self {
        Self { slice: Some(side), ..self }
    }
}

/// The usual server: it does on demand whatever a scenario needs.
const SINK: &[Side] = &[Side::Sink];

/// The sink, and servers whose count is taken elsewhere: one of ours, and two of Debian's.
const COUNTING: &[Side] = &[Side::Sink, Side::Processes, Side::Postfix, Side::Exim];

/// A scenario and the server that it runs against.
#[derive(Clone, Copy)]
pub struct Case {
    /// What happens.
    pub scenario: &'static Scenario,
    /// To whom.
    pub side: Side,
}

impl Case {
    /// The scenario's name, and the server's where there is a choice.
    pub fn name(&self) -> String {
        match self.scenario.sides {
            [_] => self.scenario.name.to_owned(),
            _ => format!("{}@{}", self.scenario.name, self.side.name()),
        }
    }

    /// The namespace of one of its runs.
    fn namespace(&self, number: usize) -> String {
        format!("{}-{number}", self.name().replace(['_', '@'], "-"))
    }

    fn relay(&self, namespace: &str) -> RelayOptions {
        RelayOptions { side: self.side, ..(self.scenario.relay)(namespace) }
    }
}

/// Every scenario with each of its servers, in the order of the report.
pub fn cases() -> impl Iterator<Item = Case> {
    scenarios().flat_map(|scenario| scenario.sides.iter().map(move |&side| Case { scenario, side }))
}

fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    [
        controller::ALL,
        api::ALL,
        resource::ALL,
        redis::ALL,
        store::ALL,
        worker::ALL,
        pod::ALL,
        network::ALL,
        server::ALL,
        clocks::ALL,
        death::ALL,
        resets::ALL,
        same_server::ALL,
        orderly::ALL,
    ]
    .into_iter()
    .flatten()
}
