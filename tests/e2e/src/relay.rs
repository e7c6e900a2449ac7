//! One relay under test: its namespace, its mail server (the sink), its worker pods.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use mailrelay::{
    api::{MailRelay, RELAY_LABEL},
    lease::{HolderView, LedgerStore, LedgerView},
    mail::UnixMillis,
    queue::{Audit, Depths, Filter, Queue, QueueNames},
};
use mailsink::Stats;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    Stage,
    command::{self, Output, apply, kubectl},
    mails::{self, id_of},
    options::{DEPLOYMENT, RELAY, RelayOptions},
    process::worker_of,
    server::Server,
    stage::PODS,
    wait::{Look, until},
};

/// A relay under test.
pub struct Relay<'a> {
    stage: &'a Stage,
    /// Its namespace.
    pub namespace: String,
    /// Its mail server.
    pub server: Arc<Server>,
    /// Connections in its budget.
    pub budget: u32,
    /// Its queue.
    pub queue: Queue,
    queue_name: String,
    /// The name of its pool at the start.
    pub budget_name: String,
    /// How the first pods got their shares.
    pub raised: Option<Rebalance>,
    ledger: LedgerStore,
}

/// How a change of the number of pods went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Rebalance {
    /// Worker pods asked for.
    pub pods: u32,
    /// The shares in force, largest first.
    pub shares: Vec<u32>,
    /// Milliseconds from the pods being Ready or gone until the shares were in force; 0 when they were before.
    pub milliseconds: u64,
    /// Milliseconds from asking for that many pods until the shares were in force; most of it is Kubernetes' own.
    pub milliseconds_since_asked: u64,
}

impl<'a> Relay<'a> {
    /// Starts the sink, applies the `MailRelay` and the Deployment of the examples, and waits until the pods are ready
    /// and the shares in force.
    pub async fn raise(stage: &'a Stage, options: RelayOptions) -> Result<Relay<'a>> {
        let server = options.start(stage.address).await?;
        let relay = Relay {
            stage,
            namespace: options.name.clone(),
            budget: options.budget,
            queue: Queue::new(stage.store.clone(), QueueNames::new(&options.queue, &options.dead_letters())),
            queue_name: options.queue.clone(),
            budget_name: options.budget_name.clone(),
            raised: None,
            ledger: LedgerStore::new(stage.store.clone(), &options.budget_name),
            server,
        };
        stage.create_namespace(&relay.namespace).await?;
        apply(&options.relay(stage.address, &relay.server)).await?;
        let asked = Instant::now();
        apply(&options.workload(stage.address, &relay.server).await?).await?;
        // What a relay that borrows gets depends on the others.
        let raised = match &options.borrowed {
            Some(_) => relay.await_pods(options.replicas).await.map(|()| None)?,
            None => Some(relay.await_rebalance(options.replicas, asked).await?),
        };
        Ok(Relay { raised, ..relay })
    }

    /// Scales the workers without waiting for anything.
    pub async fn scale(&self, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        kubectl(&["-n", &self.namespace, "scale", &format!("deployment/{DEPLOYMENT}"), &replicas]).await.map(drop)
    }

    /// Scales the workers, waits until the pods are Ready or gone and the shares in force, and tells how long that took.
    pub async fn rebalance(&self, replicas: u32) -> Result<Rebalance> {
        let asked = Instant::now();
        self.scale(replicas).await?;
        self.await_rebalance(replicas, asked).await
    }

    async fn await_rebalance(&self, pods: u32, asked: Instant) -> Result<Rebalance> {
        let there = async {
            self.await_pods(pods).await?;
            Ok::<_, anyhow::Error>(Instant::now())
        };
        let in_force = async {
            let shares = self.await_shares(pods, self.budget).await?;
            Ok::<_, anyhow::Error>((shares, Instant::now()))
        };
        let (ready_at, (shares, shared_at)) = tokio::try_join!(there, in_force)?;
        let millis = |from| u64::try_from(shared_at.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX);
        Ok(Rebalance { pods, shares, milliseconds: millis(ready_at), milliseconds_since_asked: millis(asked) })
    }

    /// Waits until exactly `replicas` worker pods exist and all are Ready.
    pub async fn await_pods(&self, replicas: u32) -> Result<()> {
        until(&format!("{replicas} ready worker pods"), PODS, async || {
            let pods = self.pods().await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let wanted = usize::try_from(replicas)?;
            Ok(Look::when(ready == wanted && pods.len() == wanted, (), || format!("{ready} of {} ready", pods.len())))
        })
        .await
        .map(drop)
    }

    /// Waits until the ledger's claims are the equal division of `budget` over `pods` holders; returns them, largest first.
    pub async fn await_shares(&self, pods: u32, budget: u32) -> Result<Vec<u32>> {
        let expected: Vec<u32> = match pods {
            0 => Vec::new(),
            _ => (0..pods).map(|index| budget / pods + u32::from(index < budget % pods)).collect(),
        };
        let (shares, _) = until(&format!("shares {expected:?}"), PODS, async || {
            let shares = self.shares().await?;
            Ok(Look::when(shares == expected, shares.clone(), || format!("{shares:?}")))
        })
        .await?;
        Ok(shares)
    }

    /// Waits until so many pods have a process in the ledger and hold all slots but those that are withheld.
    pub async fn await_all_but_withheld(&self, pods: usize, budget: u32) -> Result<()> {
        until("all slots but the withheld ones claimed", PODS, async || {
            let ledger = self.ledger().await?;
            let claimed: u32 = ledger.holders.iter().map(|holder| holder.claim).sum();
            let (holders, withheld) = (ledger.holders.len(), ledger.quarantined());
            Ok(Look::when(holders == pods && claimed + withheld == budget, (), || {
                format!("{holders} processes, {claimed} claimed, {withheld} withheld")
            }))
        })
        .await?;
        Ok(())
    }

    /// The ledger, when there is one and it is in force.
    pub async fn ledger(&self) -> Result<LedgerView> {
        self.ledger.snapshot().await?.in_force().cloned().context("no ledger in force")
    }

    /// The key of the ledger in Redis.
    pub fn ledger_key(&self) -> &str {
        self.ledger.key()
    }

    /// The slots that the ledger counts for each holder, largest first. Who neither has nor gets a slot does not count:
    /// a pod on its way out, say, which the runtime had told to end before it could hear that.
    pub async fn shares(&self) -> Result<Vec<u32>> {
        let snapshot = self.ledger.snapshot().await?;
        let ledger = snapshot.ledger.context("no ledger yet")?;
        let mut by_pod = BTreeMap::<&str, u32>::new();
        let counts = |holder: &&HolderView| holder.claim > 0 || ledger.entitlements.contains_key(&holder.pod_uid);
        for holder in ledger.holders.iter().filter(counts) {
            *by_pod.entry(&holder.pod_uid).or_default() += holder.claim;
        }
        let mut shares: Vec<u32> = by_pod.into_values().collect();
        shares.sort_unstable_by(|a, b| b.cmp(a));
        Ok(shares)
    }

    /// The worker pods, those that are terminating included.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.stage.client.clone(), &self.namespace);
        let list = api.list(&ListParams::default().labels(&format!("{RELAY_LABEL}={RELAY}"))).await?;
        Ok(list.items)
    }

    /// Sends SIGKILL to the worker process of one pod; returns the pod's name. Its supervisor stays.
    pub async fn kill_a_worker(&self) -> Result<String> {
        let pods = self.pods().await?;
        let pod = pods.first().context("no worker pod")?;
        let uid = pod.metadata.uid.as_deref().context("a pod without UID")?;
        worker_of(uid)?.signal(Signal::SIGKILL)?;
        Ok(pod.metadata.name.clone().unwrap_or_default())
    }

    /// Deletes one worker pod at once, as a lost node would: SIGKILL, no grace.
    pub async fn delete_a_pod_at_once(&self) -> Result<()> {
        let pods = self.pods().await?;
        let name = pods.first().and_then(|pod| pod.metadata.name.clone()).context("no worker pod")?;
        kubectl(&["-n", &self.namespace, "delete", "pod", &name, "--grace-period=0", "--force"]).await.map(drop)
    }

    /// The relay as the API server has it.
    pub async fn object(&self) -> Result<MailRelay> {
        let api: Api<MailRelay> = Api::namespaced(self.stage.client.clone(), &self.namespace);
        Ok(api.get(RELAY).await?)
    }

    /// Changes the relay's spec by a merge patch.
    pub async fn patch(&self, spec: Value) -> Result<()> {
        let api: Api<MailRelay> = Api::namespaced(self.stage.client.clone(), &self.namespace);
        api.patch(RELAY, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
        Ok(())
    }

    /// Waits until a condition has the status given; returns how long that took.
    pub async fn await_condition(&self, kind: &str, status: &str, limit: Duration) -> Result<Duration> {
        let ((), took) = until(&format!("condition {kind}={status}"), limit, async || {
            let conditions = self.object().await?.status.unwrap_or_default().conditions;
            let seen = conditions.iter().find(|condition| condition.type_ == kind);
            Ok(Look::when(seen.is_some_and(|condition| condition.status == status), (), || format!("{seen:?}")))
        })
        .await?;
        Ok(took)
    }

    /// Waits until the status says that nothing waits or is on its way and that every share is granted.
    pub async fn await_quiet_status(&self, limit: Duration) -> Result<()> {
        until("a status without anything on its way", limit, async || {
            let status = self.object().await?.status.unwrap_or_default();
            let queue = status.queue.clone().unwrap_or_default();
            let granted = status.conditions.iter().any(|one| one.type_ == "Ready" && one.reason == "AllSharesGranted");
            // What is withheld is not on its way: it comes back when its time is over.
            let withheld = status.conditions.iter().any(|one| one.type_ == "SlotsQuarantined" && one.status == "True");
            let quiet = (granted || withheld) && queue.pending + queue.delayed + queue.in_flight == 0;
            Ok(Look::when(quiet, (), || format!("{status:?}")))
        })
        .await
        .map(drop)
    }

    /// Runs the product's command line against this installation's Redis.
    pub async fn mailrelay(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut words: Vec<String> =
            self.stage.cli_environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.push(command::mailrelay()?.to_string_lossy().into_owned());
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        command::run("env", &words, input).await
    }

    /// Sends a batch through `mailrelay send`; returns when all are accepted.
    pub async fn send(&self, batch: &str, count: usize) -> Result<()> {
        let relay = format!("{}/{RELAY}", self.namespace);
        let output =
            self.mailrelay(&["send", "--relay", &relay, "--lines", "-o", "json"], &mails::lines(batch, count)).await?;
        ensure!(output.code == Some(0), "mailrelay send failed: {}{}", output.stdout, output.stderr);
        Ok(())
    }

    /// Pushes raw bytes as a producer in any language does.
    pub async fn push(&self, mail: &[u8]) -> Result<()> {
        let mut command = redis::cmd("LPUSH");
        command.arg(&self.queue_name).arg(mail);
        let _: u64 = self.stage.store.query(&command, Duration::from_secs(5)).await?;
        Ok(())
    }

    /// Mails by stage.
    pub async fn depths(&self) -> Result<Depths> {
        Ok(self.queue.depths(UnixMillis::now()).await?)
    }

    /// The conservation sum.
    pub async fn audit(&self) -> Result<Audit> {
        Ok(self.queue.audit().await?)
    }

    /// Waits until the sink has accepted `count` different mails.
    pub async fn await_delivered(&self, count: usize, limit: Duration) -> Result<Duration> {
        let ((), took) = until(&format!("{count} delivered mails"), limit, async || {
            let stats = self.server.stats();
            let depths = self.depths().await;
            Ok(Look::when(stats.unique_message_ids >= count, (), || format!("{stats:?}, {depths:?}")))
        })
        .await?;
        Ok(took)
    }

    /// The ids of the mails that are held, and of the dead letters.
    pub async fn parked(&self) -> Result<(Vec<String>, Vec<String>)> {
        let everything = Filter::default();
        let held = self.queue.held_list(&everything, usize::MAX).await?;
        let dead = self.queue.dead_list(&everything, usize::MAX).await?;
        Ok((held.into_iter().map(|held| held.id).collect(), dead.into_iter().map(|dead| dead.id).collect()))
    }

    /// The mails of the batches that are neither at the sink nor anywhere in the queue's keeping.
    pub async fn lost(&self, batches: &[(&str, usize)]) -> Result<Vec<String>> {
        let mut found: HashSet<String> =
            self.server.taken().iter().filter_map(|id| id_of(id).map(str::to_owned)).collect();
        let (held, dead) = self.parked().await?;
        found.extend(held.into_iter().chain(dead));
        let sent = batches.iter().flat_map(|(batch, count)| (0..*count).map(move |index| format!("{batch}-{index}")));
        Ok(sent.filter(|id| !found.contains(id)).collect())
    }

    /// Waits until no mail waits or is being sent: every one is delivered, held or a dead letter.
    pub async fn await_settled(&self, limit: Duration) -> Result<Depths> {
        let (depths, _) = until("every mail settled", limit, async || {
            let depths = self.depths().await?;
            let settled = depths.pending + depths.delayed + depths.in_flight == 0;
            Ok(Look::when(settled, depths.clone(), || format!("{depths:?}")))
        })
        .await?;
        Ok(depths)
    }

    /// Checks what must hold at the end of every scenario: the cap (O1), nothing lost (O2), nothing twice (O3). Mail may be
    /// held only where a worker was killed.
    pub async fn check(&self, batches: &[(&str, usize)]) -> Result<Stats> {
        let (stats, lost, audit) = (self.server.stats(), self.lost(batches).await?, self.audit().await?);
        ensure!(stats.peak <= 16 && stats.rejected == 0, "the cap was exceeded: {stats:?}");
        ensure!(stats.duplicates == 0, "mails were delivered twice: {stats:?}");
        ensure!(lost.is_empty(), "{} mails were lost, {:?} among them", lost.len(), &lost[..lost.len().min(5)]);
        ensure!(audit.difference == 0, "the audit does not add up: {audit:?}");
        Ok(stats)
    }

    /// Takes the relay and its namespace away; the finalizer must let the relay go.
    pub async fn lower(self) -> Result<()> {
        self.stage.delete_namespace(&self.namespace).await
    }
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}
