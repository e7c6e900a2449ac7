//! mailrelay on a real cluster: real kube-apiserver, kubelet, Redis; the sink as mail server.
//!
//! Each scenario is a contract; it gets a namespace, a queue, a pool and a sink of its own. They run one after the
//! other, since the machine is small and some of them take the controller or Redis away from everyone.

mod scenarios;

use std::{process::ExitCode, sync::Arc};

use e2e::Stage;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let runtime = Arc::new(Runtime::new().expect("a tokio runtime"));
    let stage = match runtime.block_on(Stage::raise()) {
        Ok(stage) => Arc::new(stage),
        Err(error) => {
            eprintln!("cannot install mailrelay on the cluster: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(Some((&runtime, &stage))));
    if conclusion.has_failed() {
        eprintln!("{}", runtime.block_on(stage.controller_log()).unwrap_or_default());
    }
    let lowered = Arc::into_inner(stage).map(|stage| runtime.block_on(stage.lower()));
    if let Some(Err(error)) = lowered {
        eprintln!("cannot clean up: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trials(ground: Option<(&Arc<Runtime>, &Arc<Stage>)>) -> Vec<Trial> {
    let ground = ground.map(|(runtime, stage)| (Arc::clone(runtime), Arc::clone(stage)));
    scenarios::ALL
        .iter()
        .map(|(name, scenario)| {
            let ground = ground.clone();
            Trial::test(*name, move || {
                let Some((runtime, stage)) = ground else { return Err("not set up".into()) };
                runtime.block_on(scenario(&stage)).map_err(|error| format!("{error:#}").into())
            })
        })
        .collect()
}
