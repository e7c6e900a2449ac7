//! What a SYNC costs with few holders on the ledger and with many.

use std::time::{Duration, Instant};

use mailrelay::{
    lease::{LedgerStore, SyncReply, SyncRequest},
    store::{Store, StoreOptions},
};
use testkit::{Persistence, RedisServer};

use crate::{
    crowd::gather,
    figures::{Figure, Wanted},
};

const LIMIT: Duration = Duration::from_secs(5);
const FEW: u32 = 10;
const MANY: u32 = 1_000;
/// In turns, so that a busy machine disturbs both.
const ROUNDS: usize = 40;
/// SYNCs of a round.
const SYNCS: usize = 50;

/// Times with many, by times with few.
pub async fn measure() -> Vec<Figure> {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("a store");
    let mut few = gather(&store, "few", FEW).await;
    let mut many = gather(&store, "many", MANY).await;
    let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        of_few.push(syncs(&mut few, round).await);
        of_many.push(syncs(&mut many, round).await);
    }
    let middle = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (few, many) = (middle(of_few), middle(of_many));
    let of = |name, unit, value, wanted| Figure { name, unit, pods: MANY as usize, value: Some(value), wanted };
    vec![
        of("SYNC with 10 holders, and the way there and back", "us", few * 1e6, Wanted::Nothing),
        of("SYNC with 1,000 holders, and the way there and back", "us", many * 1e6, Wanted::Nothing),
        of("SYNC with 1,000 holders against 10", "x", many / few, Wanted::AtMost(2.0)),
    ]
}

type Holders = (LedgerStore, Vec<SyncRequest>);

/// Seconds of one SYNC, on the average of a round.
async fn syncs((ledger, requests): &mut Holders, round: usize) -> f64 {
    let start = Instant::now();
    for number in 0..SYNCS {
        let place = (round * SYNCS + number) % requests.len();
        let request = &mut requests[place];
        let reply = ledger.sync(request, LIMIT).await.expect("an answer");
        assert!(matches!(reply, SyncReply::Ok(_)), "{reply:?}");
        request.seq += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(u32::try_from(SYNCS).expect("few"))
}
