//! A real API server on its etcd, and nothing else of Kubernetes: no scheduler, no kubelet. Pods are what is written.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResourceExt,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mailrelay::api::{MailRelay, MailServer};
use serde_json::json;
use testkit::{eventually_within, free_port};

/// How long the API server may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);
const TOKEN: &str = "bench";

/// Both processes; they end, and their folder goes, when this is dropped.
pub struct ControlPlane {
    folder: tempfile::TempDir,
    children: Vec<(&'static str, Child)>,
}

impl ControlPlane {
    /// Starts both and waits until the API server has taken the definition of relays and the namespaces given. Its client
    /// is an administrator's.
    pub async fn start(namespaces: &[&str]) -> (Self, Client) {
        let folder = tempfile::Builder::new().prefix("mailrelay-scale-").tempdir().expect("a temporary folder");
        let mut plane = Self { folder, children: Vec::new() };
        let [clients, peers, secure] = [free_port(), free_port(), free_port()];
        let of = |port: u16| format!("http://127.0.0.1:{port}");
        plane.launch(
            "etcd",
            &[
                ("name", "scale".into()),
                ("data-dir", plane.path("etcd")),
                ("unsafe-no-fsync", "true".into()),
                ("log-level", "warn".into()),
                ("listen-client-urls", of(clients)),
                ("advertise-client-urls", of(clients)),
                ("listen-peer-urls", of(peers)),
                ("initial-advertise-peer-urls", of(peers)),
                ("initial-cluster", format!("scale={}", of(peers))),
            ],
        );
        plane.write("tokens.csv", &format!("{TOKEN},admin,admin,\"system:masters\"\n"));
        let key = rcgen::KeyPair::generate().expect("a key");
        plane.write("service-account.key", &key.serialize_pem());
        plane.write("service-account.pub", &key.public_key_pem());
        plane.launch(
            "kube-apiserver",
            &[
                ("etcd-servers", of(clients)),
                ("cert-dir", plane.path("pki")),
                ("bind-address", "127.0.0.1".into()),
                ("advertise-address", "127.0.0.1".into()),
                ("endpoint-reconciler-type", "none".into()),
                ("secure-port", secure.to_string()),
                ("service-cluster-ip-range", "10.86.0.0/24".into()),
                ("service-account-issuer", "https://scale".into()),
                ("service-account-key-file", plane.path("service-account.pub")),
                ("service-account-signing-key-file", plane.path("service-account.key")),
                ("authorization-mode", "RBAC".into()),
                ("token-auth-file", plane.path("tokens.csv")),
                // Nobody makes the service accounts that it would want for pods.
                ("disable-admission-plugins", "ServiceAccount".into()),
                ("profiling", "false".into()),
            ],
        );
        plane.write("kubeconfig", &kubeconfig(secure, &plane.path("pki/apiserver.crt")).to_string());
        let client = eventually_within(START_LIMIT, "the API server answers", async || {
            plane.all_live();
            plane.client().await
        });
        let client = client.await;
        plane.prepare(&client, namespaces).await;
        (plane, client)
    }

    /// The file for `KUBECONFIG`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The folder of all files, which goes with this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("a file of our own");
    }

    fn launch(&mut self, program: &'static str, flags: &[(&str, String)]) {
        let folder = env::var_os("CLUSTER_TOOLS").expect("CLUSTER_TOOLS: `make bench-scale` sets it");
        let log = fs::File::create(self.folder.path().join(format!("{program}.log"))).expect("a log file");
        let child = Command::new(Path::new(&folder).join(program))
            .args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C ends the program that started it, which ends it in turn.
            .process_group(0)
            .spawn();
        self.children.push((program, child.unwrap_or_else(|error| panic!("{program} does not start: {error}"))));
    }

    /// # Panics
    /// When one of them has ended; the message has its log.
    fn all_live(&mut self) {
        for (program, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(self.folder.path().join(format!("{program}.log"))).unwrap_or_default();
                panic!("{program} ended: {status}\n{log}");
            }
        }
    }

    /// A client, once the API server is ready.
    async fn client(&self) -> Result<Client, String> {
        let read = Kubeconfig::read_from(self.kubeconfig()).map_err(|error| error.to_string())?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        let request = axum::http::Request::get("/readyz").body(Vec::new()).expect("a request");
        client.request_text(request).await.map_err(|error| error.to_string())?;
        Ok(client)
    }

    async fn prepare(&self, client: &Client, namespaces: &[&str]) {
        let definitions = Api::<CustomResourceDefinition>::all(client.clone());
        for definition in [MailRelay::crd(), MailServer::crd()] {
            definitions.create(&PostParams::default(), &definition).await.expect("the definition is taken");
        }
        let (relays, servers) = (Api::<MailRelay>::all(client.clone()), Api::<MailServer>::all(client.clone()));
        eventually_within(START_LIMIT, "relays are served", async || relays.list(&ListParams::default()).await).await;
        eventually_within(START_LIMIT, "servers are served", async || servers.list(&ListParams::default()).await).await;
        for name in namespaces {
            let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a namespace");
            let created = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await;
            created.expect("the namespace is taken");
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The API server first: without etcd it would only complain.
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kubeconfig(port: u16, certificate: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "scale",
        "clusters": [{ "name": "scale", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": certificate,
        } }],
        "contexts": [{ "name": "scale", "context": { "cluster": "scale", "user": "admin" } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
    })
}
