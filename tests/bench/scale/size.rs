//! The figures of one size of cluster.

use std::time::{Duration, Instant};

use testkit::within;
use tokio::time::sleep;

use crate::{
    figures::{Figure, Wanted, head},
    fleet::Fleet,
    gauge::{Commands, Writes, figure},
    house::House,
    process::Process,
};

/// How long anything may take before it is called endless.
const ENDLESS: Duration = Duration::from_secs(600);
/// No writes for so long, and the cluster has come to rest.
const REST: Duration = Duration::from_secs(12);
/// How long it is waited for that; what still moves then is measured as it is.
const REST_LIMIT: Duration = Duration::from_secs(180);
/// Pods that are added, one after the other.
const ADDED: usize = 30;
/// How long one of them is waited for, and how long all of them.
const ADDED_LIMIT: Duration = Duration::from_secs(60);
const ADDING_LIMIT: Duration = Duration::from_secs(300);

/// What one look at an idle cluster found.
struct Idle {
    commands: f64,
    most: String,
    cpu: f64,
    resident: f64,
    writes: f64,
    kinds: String,
}

/// Relays with so many pods each; `whole_worker` is what a real worker sends to Redis in a second when idle.
pub async fn measure(relays: usize, pods: usize, window: Duration, whole_worker: f64) -> Vec<Figure> {
    let count = relays * pods;
    let mut figures = Vec::new();
    let mut add = |name: &'static str, unit, value, wanted| {
        let figure = Figure { name, unit, pods: count, value, wanted };
        // At once, since the next one may take longer than somebody waits.
        figure.line();
        figures.push(figure);
    };
    let mut house = House::empty().await;
    let start = Instant::now();
    house.settle(relays, pods).await;
    println!("\n{relays} relays, {count} pods, made in {:.0} s; {}", start.elapsed().as_secs_f64(), load());
    head();

    let (start, controller) = (Instant::now(), house.controller("controller-0"));
    let mut done = 0;
    let first = within(ENDLESS, async || house.in_force(0, &mut done).await).await;
    let took = start.elapsed().as_secs_f64();
    add("first controller: all shares in force", "s", first.is_ok().then_some(took), Wanted::Nothing);
    let epoch = match first {
        Ok(epoch) => epoch,
        Err(behind) => {
            println!("  the shares are not in force within {ENDLESS:?}: {behind}");
            return figures;
        }
    };

    let alone = idle(&house, &controller, window).await;
    println!("  the controller alone, a second: {}", alone.most);
    let fleet = Fleet::start(&house).await;
    let all = within(REST_LIMIT, async || match fleet.missing() {
        0 => Ok(()),
        missing => Err(missing),
    });
    if let Err(missing) = all.await {
        println!("  {missing} workers did not get onto their ledgers within {REST_LIMIT:?}");
    }
    let quiet = idle(&house, &controller, window).await;
    println!("  with idle workers, a second: {}", quiet.most);
    println!("  writes to the API server in {window:?}: alone [{}], with workers [{}]", alone.kinds, quiet.kinds);
    let each = (quiet.commands - alone.commands) / figure(count as u64);
    let whole = alone.commands + whole_worker * figure(count as u64);
    add("Redis commands: the controller alone", "/s", Some(alone.commands), Wanted::Nothing);
    add("Redis commands: with SYNC of idle workers", "/s", Some(quiet.commands), Wanted::AtMost(2_000.0));
    add("Redis commands: SYNC of one idle worker", "/s", Some(each), Wanted::AtMost(0.2));
    add("Redis commands: with whole idle workers, reckoned", "/s", Some(whole), Wanted::AtMost(2_000.0));
    add("controller, quiet: processor, % of a core", "%", Some(quiet.cpu), Wanted::AtMost(5.0));
    add("controller, quiet: resident memory", "MiB", Some(quiet.resident), Wanted::AtMost(150.0));
    add("API writes but the Lease, quiet", "/s", Some(quiet.writes), Wanted::AtMost(0.0));

    let times = added(&house).await;
    let part = |part: usize| times.get((times.len() * part).div_ceil(100).saturating_sub(1)).map(|time| time * 1e3);
    add("a pod is added: share in force, p50", "ms", part(50), Wanted::Nothing);
    add("a pod is added: share in force, p99", "ms", part(99), Wanted::AtMost(300.0));

    // The chart has two: the second one observes and waits.
    let next = house.controller("controller-1");
    let waits = within(ENDLESS, async || if next.said("waiting to lead") { Ok(()) } else { Err("no standby") });
    if let Err(why) = waits.await {
        println!("  {why} within {ENDLESS:?}");
    }
    let start = Instant::now();
    drop(controller);
    let mut done = 0;
    let acts = within(ENDLESS, async || house.in_force(epoch, &mut done).await).await;
    let took = start.elapsed().as_secs_f64();
    add("the leader is killed: another acts for all", "s", acts.is_ok().then_some(took), Wanted::AtMost(10.0));
    drop(fleet);
    figures
}

async fn idle(house: &House, controller: &Process, window: Duration) -> Idle {
    if !house.quiet(REST, REST_LIMIT).await {
        println!("  it does not come to rest within {REST_LIMIT:?}");
    }
    let mut connection = house.connection.clone();
    let (writes, cpu, start) = (Writes::look(&house.client).await, controller.cpu(), Instant::now());
    let commands = Commands::look(&mut connection).await;
    sleep(window).await;
    let rates = Commands::look(&mut connection).await.since(&commands);
    let used = controller.cpu().saturating_sub(cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    let (writes, kinds) = Writes::look(&house.client).await.since(&writes);
    let most = rates.most();
    Idle { commands: rates.total, most, cpu: used * 100.0, resident: controller.resident(), writes, kinds }
}

/// Seconds from the status that says that its worker runs until the share of each pod is in force, sorted.
async fn added(house: &House) -> Vec<f64> {
    let mut times = Vec::new();
    let start = Instant::now();
    for number in 0..ADDED {
        // Ticks of the controller and additions shall meet in every way.
        let pause = Duration::from_millis(rand::random_range(0..500));
        let pod = house.create_pod(format!("added-{number}"), number * 37 % house.relays.len()).await;
        sleep(pause).await;
        let told = Instant::now();
        house.run_pod(&pod).await;
        let time = house.time_until_share(&pod, true, told, ADDED_LIMIT).await;
        times.push(time.unwrap_or(f64::INFINITY));
        house.delete_pod(&pod).await;
        house.time_until_share(&pod, false, Instant::now(), ADDED_LIMIT).await;
        if start.elapsed() > ADDING_LIMIT {
            println!("  only {} pods were added: it took too long", times.len());
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    times
}

/// How busy the machine is, by its last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("load {} on {cores} cores", text.split_whitespace().next().unwrap_or("?"))
}
