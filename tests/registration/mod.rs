//! A worker as its ledger knows it, without the worker.

use std::time::Duration;

use mailrelay::lease::{LedgerStore, ProcessId, SyncReply, SyncRequest};

const LIMIT: Duration = Duration::from_secs(5);

/// Registers a worker of a pod of the namespace `mail` as the protocol has it, and has it claim its share. Returns its next
/// SYNC, and what it could claim.
pub async fn register(ledger: &LedgerStore, pod: &str) -> (SyncRequest, u32) {
    let mut request = SyncRequest {
        token: ledger.snapshot().await.expect("a look").ledger.expect("a ledger").token.clone(),
        inc: ProcessId::random().to_string(),
        pod_uid: pod.into(),
        pod: format!("mail/{pod}"),
        process: ProcessId::random().to_string(),
        boot_id: "boot-1".into(),
        generation: 0,
        seq: 1,
        need: 0,
        want: 100,
        open: 0,
        busy: 0,
        hold: Duration::from_secs(330),
        accounts: Vec::new(),
        seen: 0,
        quarantine: Vec::new(),
    };
    let SyncReply::Register { last } = ledger.sync(&request, LIMIT).await.expect("an answer") else {
        panic!("the first call asks for the generation");
    };
    request.generation = last + 1;
    let SyncReply::Ok(granted) = ledger.sync(&request, LIMIT).await.expect("an answer") else {
        panic!("the second call registers");
    };
    request.seq += 1;
    (request, granted.claim)
}
