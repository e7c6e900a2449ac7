//! What thousands of pods cost: Redis, the controller and the API server, each figure beside the one that is wanted.
//!
//! Redis, etcd, the API server and the controller are real processes. Pods are objects without a node, and their workers are
//! tasks that do what an idle worker does toward the ledger; what a whole worker does is measured of one real process.
//! Nothing here fails for being slow. `make bench-scale` runs it; `RELAYS=1,10` names the sizes, `PODS=10` the pods of each
//! relay, `WINDOW=20` the seconds of each look at an idle cluster; one idle worker is looked at for as long as its quietest interval.

mod control_plane;
#[expect(dead_code, reason = "others use the rest")]
#[path = "../../registration/crowd.rs"]
mod crowd;
mod figures;
mod fleet;
mod gauge;
mod house;
mod one_worker;
mod picture;
mod process;
#[path = "../../registration/mod.rs"]
mod registration;
mod size;
mod sync_cost;

use std::{env, fs, path::Path, process::ExitCode, time::Duration};

use figures::Figure;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Relays of each size, when nobody says otherwise.
const SIZES: &str = "1,10,100";

#[tokio::main]
async fn main() -> ExitCode {
    // Before anything else may use TLS, as the product's own `main` has it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut terminate = signal(SignalKind::terminate()).expect("signals");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals");
    // What is dropped here ends its processes and removes its folders.
    tokio::select! {
        () = run() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::from(143),
        _ = interrupt.recv() => ExitCode::from(130),
    }
}

async fn run() {
    let given =
        |name: &str, default: &str| env::var(name).ok().filter(|text| !text.is_empty()).unwrap_or(default.into());
    let number = |text: &str| text.trim().parse::<usize>().unwrap_or_else(|_| panic!("{text} is not a number"));
    let sizes: Vec<usize> = given("RELAYS", SIZES).split(',').map(number).collect();
    let pods = number(&given("PODS", "10"));
    let window = Duration::from_secs(number(&given("WINDOW", "20")) as u64);
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("{build} build; {}", size::load());
    let about =
        json!({ "build": build, "load": size::load(), "window_seconds": window.as_secs(), "pods_of_a_relay": pods });

    let mut all = sync_cost::measure().await;
    all.extend(one_worker::measure().await);
    let whole_worker = all.iter().find(|figure| figure.name == one_worker::COMMANDS).and_then(|figure| figure.value);
    figures::head();
    all.iter().for_each(Figure::line);
    // The folder of cargo's own, whichever it is.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&folder).expect("a folder beside cargo's own");
    for relays in sizes {
        let more = size::measure(relays, pods, window, whole_worker.expect("measured above")).await;
        all.extend(more);
        // After each size, since the next one may take longer than somebody waits.
        figures::write(&folder, &all, &about);
        picture::write(&folder, &all);
    }
    println!("\nwritten: {}/scale.json, scale.svg", folder.display());
}
