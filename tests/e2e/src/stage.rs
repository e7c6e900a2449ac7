//! An installation of mailrelay: Redis beside the cluster, the controller installed by Helm.

use std::{
    env,
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, Resource,
    core::{ApiResource, DynamicObject},
};
use mailrelay::store::{Store, StoreOptions};
use serde_json::json;
use tempfile::TempDir;
use testkit::{Persistence, RedisServer};

use crate::{
    command::{apply, kubectl, repository, run, succeed},
    options::SMTP_PASSWORD,
    process::Process,
    wait::{Look, until},
};

/// Namespace of the controller.
pub const SYSTEM: &str = "mailrelay-system";
/// Name of the Secret with the URL and the password of Redis, in every namespace that needs it, as in the examples.
const REDIS_SECRET: &str = "mailrelay-redis";
/// Password of the Redis of tests and demo; it must never show up in a log.
pub(crate) const REDIS_PASSWORD: &str = "canary-redis-password";
/// Where pods of the local cluster reach what runs beside it (hack/cluster).
const LOCAL_ADDRESS: &str = "10.88.0.1";
/// How long Kubernetes may take to remove a namespace with all that runs in it.
const GONE: Duration = Duration::from_secs(120);

/// A running installation. [`Stage::lower`] takes it away again.
pub struct Stage {
    /// A client of the cluster.
    pub client: Client,
    /// Where pods reach what this program starts.
    pub address: IpAddr,
    /// A handle on the installation's Redis.
    pub store: Store,
    redis: Mutex<RedisServer>,
    logs: TempDir,
    /// What to take away at the end, the latest last.
    namespaces: Mutex<Vec<String>>,
}

impl Stage {
    /// Starts Redis (AOF with `appendfsync always`, RDB) and installs the chart; waits until both replicas are ready.
    pub async fn raise() -> Result<Self> {
        // A second call finds the provider installed; both are the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = Config::infer().await.context("no cluster to talk to; run this through hack/cluster/run")?;
        let client = Client::try_from(config).context("cannot make a client of the cluster")?;
        let address = env::var("MAILRELAY_TEST_ADDRESS").unwrap_or_else(|_| LOCAL_ADDRESS.into());
        let address = address.parse().with_context(|| format!("MAILRELAY_TEST_ADDRESS={address} is not an address"))?;
        let redis = RedisServer::start_on(&format!("{address}"), Some(REDIS_PASSWORD), Persistence::Always);
        let store = store_of(&redis)?;
        let logs = tempfile::tempdir().context("cannot make a temporary folder")?;
        let stage = Self { client, address, store, redis: Mutex::new(redis), logs, namespaces: Mutex::default() };
        stage.create_namespace(SYSTEM).await?;
        stage.install(&[]).await?;
        Ok(stage)
    }

    /// Installs the chart, or upgrades to these values, and waits until both replicas are ready.
    pub async fn install(&self, values: &[&str]) -> Result<()> {
        let chart = repository().join("charts/mailrelay");
        let chart = chart.to_string_lossy();
        let redis = format!("redis.existingSecret={REDIS_SECRET}");
        let mut arguments = vec![
            "upgrade",
            "--install",
            "mailrelay",
            &chart,
            "--namespace",
            SYSTEM,
            "--set",
            &redis,
            "--wait",
            "--timeout",
            "2m",
        ];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        let installed = succeed("helm", &arguments, "").await;
        if installed.is_err() {
            let state = run("kubectl", &["-n", SYSTEM, "get", "pods,events", "-o", "wide"], "").await?;
            eprintln!("{}", state.stdout);
        }
        installed.map(drop)
    }

    /// Takes the release away: nobody leads any more. Its namespace, the definitions and all relays stay.
    pub async fn uninstall(&self) -> Result<()> {
        let arguments = ["uninstall", "mailrelay", "--namespace", SYSTEM, "--wait", "--timeout", "1m"];
        succeed("helm", &arguments, "").await.map(drop)
    }

    /// Makes a namespace with the Secret that says where Redis is. Waits for one of that name that a run before took away.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        until(&format!("the old namespace {name} is gone"), GONE, async || {
            let old = namespaces.get_opt(name).await?;
            let goes = old.is_some_and(|old| old.metadata.deletion_timestamp.is_some());
            Ok(Look::when(!goes, (), || "it is terminating".into()))
        })
        .await?;
        self.namespaces().push(name.to_owned());
        let url = self.with_redis(|redis| redis.url());
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted"
            }}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": REDIS_SECRET, "namespace": name},
             "stringData": {"url": url, "password": REDIS_PASSWORD}},
        ]});
        apply(&objects).await.map(drop)
    }

    /// Takes a namespace away without waiting for it to be gone; its relays first, while there is a controller to let them go.
    pub async fn delete_namespace(&self, name: &str) -> Result<()> {
        kubectl(&["-n", name, "delete", "mailrelays", "--all", "--timeout=60s"]).await?;
        kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait=false"]).await?;
        self.namespaces().retain(|namespace| namespace != name);
        Ok(())
    }

    fn namespaces(&self) -> MutexGuard<'_, Vec<String>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects of a kind as they come, of one namespace or of the cluster.
    pub fn objects<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// The environment that lets the product's command line find this Redis.
    pub fn cli_environment(&self) -> [(&'static str, String); 2] {
        self.with_redis(|redis| {
            let password_file = password_file(redis).to_string_lossy().into_owned();
            [("MAILRELAY_REDIS_URL", redis.url()), ("MAILRELAY_REDIS_PASSWORD_FILE", password_file)]
        })
    }

    /// Where programs that a test runs outside the cluster write their logs.
    pub fn log_folder(&self) -> PathBuf {
        self.logs.path().to_owned()
    }

    /// The secrets of this installation, as plain text: none of them may show up anywhere.
    pub fn canaries(&self) -> Vec<String> {
        vec![REDIS_PASSWORD.into(), SMTP_PASSWORD.into()]
    }

    /// The process of Redis.
    pub fn redis_process(&self) -> Result<Process> {
        let pid = self.with_redis(|redis| redis.pid()).context("Redis does not run")?;
        Ok(Process { pid, inner: pid })
    }

    /// Crashes Redis (SIGKILL) and starts it again with what it had persisted.
    pub fn restart_redis(&self) {
        self.with_redis(|redis| {
            redis.crash();
            redis.resume();
        });
    }

    /// Scales the controller, and waits until that many replicas are ready.
    pub async fn scale_controller(&self, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        kubectl(&["-n", SYSTEM, "scale", "deployment/mailrelay", &replicas]).await?;
        kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/mailrelay", "--timeout=60s"]).await.map(drop)
    }

    /// The controller's log, for a failure report.
    pub async fn controller_log(&self) -> Result<String> {
        let arguments = ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=mailrelay", "--tail=200", "--prefix"];
        Ok(run("kubectl", &arguments, "").await?.stdout)
    }

    /// Takes away all relays and namespaces, and the release. Redis ends with the value.
    pub async fn lower(self) -> Result<()> {
        let namespaces = self.namespaces().clone();
        for name in namespaces.iter().filter(|name| *name != SYSTEM) {
            self.delete_namespace(name).await?;
        }
        self.uninstall().await?;
        self.delete_namespace(SYSTEM).await?;
        if is_local() {
            // Helm keeps them on purpose; a cluster of our own starts each run without them.
            let definitions = ["mailrelays.mailrelay.dev", "mailservers.mailrelay.dev"];
            kubectl(&[&["delete", "crd"], &definitions[..], &["--timeout=30s"]].concat()).await?;
        }
        Ok(())
    }

    /// Does something with the Redis process.
    pub fn with_redis<T>(&self, act: impl FnOnce(&mut RedisServer) -> T) -> T {
        act(&mut self.redis.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether the cluster is our own (hack/cluster), where anything may be broken on purpose.
pub fn is_local() -> bool {
    env::var_os("CLUSTER").is_none_or(|cluster| cluster != "current")
}

fn store_of(redis: &RedisServer) -> Result<Store> {
    let path = password_file(redis);
    std::fs::write(&path, REDIS_PASSWORD).context("cannot write the password file")?;
    let mut options = StoreOptions::from_url(redis.url());
    options.password_file = Some(path);
    Ok(Store::new(&options)?)
}

fn password_file(redis: &RedisServer) -> PathBuf {
    redis.folder().join("password")
}

/// How long Kubernetes may take to start or end a few pods here.
pub(crate) const PODS: Duration = Duration::from_secs(90);
