//! A ledger with many workers on it, without the workers.

use mailrelay::{
    lease::{InitReply, InitRequest, LedgerStore, OpenReply, OpenRequest, Policy, SyncRequest, Timing},
    store::Store,
};

use crate::registration::register;

/// An open ledger, and the next SYNC of each of the processes that hold one of its slots, all of them together.
pub async fn gather(store: &Store, pool: &str, count: u32) -> (LedgerStore, Vec<SyncRequest>) {
    let ledger = LedgerStore::new(store.clone(), pool);
    let pods: Vec<String> = (0..count).map(|number| format!("pod-{number}")).collect();
    let policy = Policy {
        epoch: 1,
        revision: 1,
        budget: count,
        lease: Timing::default().lease,
        entitlements: pods.iter().map(|pod| (pod.clone(), 1)).collect(),
        servers: ["mx.example.com:25".to_owned()].into(),
    };
    let (fence, token) = (ledger.snapshot().await.expect("a look").node_fence, "t".to_owned());
    let init = InitRequest { fence, token: token.clone(), policy, quarantine: Vec::new(), version: 0 };
    assert_eq!(ledger.init(&init).await.expect("made"), InitReply::Ok);
    let open = OpenRequest { epoch: 1, token, missing: Vec::new() };
    assert_eq!(ledger.open(&open).await.expect("opened"), OpenReply::Ok);
    let mut requests = Vec::new();
    for pod in &pods {
        let (request, claim) = register(&ledger, pod).await;
        assert_eq!(claim, 1, "each has its share");
        requests.push(request);
    }
    (ledger, requests)
}

/// The first call of the next process of the pod whose process calls so.
pub fn next_process(request: &SyncRequest) -> SyncRequest {
    let generation = request.generation + 1;
    SyncRequest { inc: format!("{}.{generation}", request.process), generation, seq: 1, ..request.clone() }
}
