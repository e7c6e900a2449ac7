//! More relays move than statuses may be written: each is written in its turn.

use std::time::{Duration, Instant};

use testkit::eventually;

use crate::house::{House, LIMIT, seconds_since};

const RELAYS: usize = 200;

fn name(number: usize) -> String {
    format!("relay-{number:03}")
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_hundred_busy_relays_the_last_ones_are_written_too_and_who_holds_what_comes_first() {
    let mut house = House::empty();
    for number in 0..RELAYS {
        house.relay(&name(number), 1);
    }
    house.lead();
    // The figures of all of them move all the time.
    let store = house.store.clone();
    let busy = tokio::spawn(async move {
        loop {
            for number in 0..RELAYS {
                let mut push = redis::cmd("LPUSH");
                let _: Result<i64, _> = store.query(push.arg(name(number)).arg("{"), LIMIT).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    eventually("each of them has a status with figures", async || {
        let missing = (0..RELAYS).filter(|number| house.status(&name(*number)).queue.is_none()).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} have none")) }
    })
    .await;
    let writes = |number: usize| house.api.requests("PATCH", "mailrelays", Some(&format!("mail/{}", name(number))));
    let before: Vec<u64> = (0..RELAYS).map(writes).collect();
    let written = || -> Vec<u64> { (0..RELAYS).map(|number| writes(number) - before[number]).collect() };
    eventually("as many are written as there are, and as many again", async || {
        let sum: u64 = written().iter().sum();
        if sum >= 2 * RELAYS as u64 { Ok(()) } else { Err(format!("{sum} writes")) }
    })
    .await;
    let (fewest, most) = (written().into_iter().min(), written().into_iter().max());
    assert!(fewest >= Some(1) && most <= Some(4), "each in its turn: {:?}", written());
    // What a leader after this one would need.
    let last = name(RELAYS - 1);
    let start = Instant::now();
    house.pod("last-0", &last);
    eventually("the status says who may hold what", async || {
        let leases = house.status(&last).leases;
        let held = leases.iter().flat_map(|lease| &lease.holders).any(|holder| holder.share == 16);
        if held { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
    assert!(seconds_since(start) < 5.0, "{} s", seconds_since(start));
    busy.abort();
}
