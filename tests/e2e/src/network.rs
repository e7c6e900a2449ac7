//! What passes between pods and the servers beside the cluster, changed by packet filter rules in the cluster's network
//! namespace, in which this program runs. The rules go when the values are dropped.

use std::{
    net::{IpAddr, SocketAddr},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

/// What no longer passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing passes.
    Both,
    /// What the pod sends.
    FromPod,
    /// What the server sends.
    ToPod,
}

/// A path that is cut without anybody being told: packets vanish.
#[derive(Debug)]
pub struct Cut {
    rules: Vec<Rule>,
}

impl Cut {
    /// Cuts the path between a pod and a server beside the cluster.
    pub fn between(pod: IpAddr, server: SocketAddr, way: Way) -> Result<Self> {
        let port = server.port().to_string();
        let pod = pod.to_string();
        let sent = ["INPUT", "-s", &pod, "-p", "tcp", "--dport", &port, "-j", "DROP"];
        let received = ["OUTPUT", "-d", &pod, "-p", "tcp", "--sport", &port, "-j", "DROP"];
        let mut rules = Vec::new();
        if way != Way::ToPod {
            rules.push(Rule::add("filter", &sent)?);
        }
        if way != Way::FromPod {
            rules.push(Rule::add("filter", &received)?);
        }
        Ok(Self { rules })
    }

    /// Cuts some connections of a pod to a server beside the cluster, both ways; later ones are not touched.
    pub fn of(pod: IpAddr, ports: &[u16], server: SocketAddr) -> Result<Self> {
        let (pod, server) = (pod.to_string(), server.port().to_string());
        let mut rules = Vec::new();
        for port in ports.iter().map(ToString::to_string) {
            let sent = ["INPUT", "-s", &pod, "-p", "tcp", "--sport", &port, "--dport", &server, "-j", "DROP"];
            let received = ["OUTPUT", "-d", &pod, "-p", "tcp", "--sport", &server, "--dport", &port, "-j", "DROP"];
            rules.extend([Rule::add("filter", &sent)?, Rule::add("filter", &received)?]);
        }
        Ok(Self { rules })
    }

    /// The ends of connections of a pod to a server beside the cluster, as the pod tells them in good order; all else
    /// passes.
    pub fn of_fins(pod: IpAddr, server: SocketAddr) -> Result<Self> {
        let (pod, server) = (pod.to_string(), server.port().to_string());
        let words = ["INPUT", "-s", &pod, "-p", "tcp", "--dport", &server];
        let rule = Rule::add("filter", &[&words[..], &["--tcp-flags", "FIN,RST", "FIN", "-j", "DROP"]].concat())?;
        Ok(Self { rules: vec![rule] })
    }

    /// Packets that have vanished so far.
    pub fn packets(&self) -> Result<u64> {
        self.rules.iter().map(Rule::packets).sum()
    }
}

/// Connections that arrive elsewhere than where they are sent to. Those that are open already break.
#[derive(Debug)]
pub struct Diversion {
    _rules: Vec<Rule>,
}

impl Diversion {
    /// Leads new connections to a server beside the cluster to another port of the same machine: those of one pod, or
    /// everybody's, this program's own included.
    pub fn of(pod: Option<IpAddr>, server: SocketAddr, port: u16) -> Result<Self> {
        let (from, to) = (server.port().to_string(), format!("{}:{port}", server.ip()));
        let source = pod.map(|pod| ["-s".to_owned(), pod.to_string()]);
        let target =
            ["-d", &server.ip().to_string(), "-p", "tcp", "--dport", &from, "-j", "DNAT", "--to-destination", &to];
        let rule = |chain| {
            let words: Vec<&str> =
                [chain].into_iter().chain(source.iter().flatten().map(String::as_str)).chain(target).collect();
            Rule::add("nat", &words)
        };
        let mut rules = vec![rule("PREROUTING")?];
        if pod.is_none() {
            rules.push(rule("OUTPUT")?);
        }
        Ok(Self { _rules: rules })
    }
}

/// All clients of a server seem to be one, as behind a NAT: a server that counts by client counts them together.
#[derive(Debug)]
pub struct Disguise {
    _rule: Rule,
}

/// An address of the pods' network that no pod gets: `host-local` gives them out from below.
const NOBODY: &str = "10.88.255.254";

impl Disguise {
    /// From now on, for new connections.
    pub fn of_clients(server: SocketAddr) -> Result<Self> {
        let (ip, port) = (server.ip().to_string(), server.port().to_string());
        let words =
            ["INPUT", "!", "-i", "lo", "-d", &ip, "-p", "tcp", "--dport", &port, "-j", "SNAT", "--to-source", NOBODY];
        Ok(Self { _rule: Rule::add("nat", &words)? })
    }
}

/// A box on the way that has forgotten some connections: whatever the pod sends on them is answered by a reset, and the
/// server hears nothing of it. It knows them again when this is dropped.
#[derive(Debug)]
pub struct Amnesia {
    rules: Vec<Rule>,
}

impl Amnesia {
    /// Of these ports of a pod.
    pub fn of(pod: IpAddr, ports: &[u16], server: SocketAddr) -> Result<Self> {
        let (pod, server) = (pod.to_string(), server.port().to_string());
        let rules = ports.iter().map(|port| {
            let port = port.to_string();
            let words = ["INPUT", "-s", &pod, "-p", "tcp", "--sport", &port, "--dport", &server];
            Rule::add("filter", &[&words[..], &["-j", "REJECT", "--reject-with", "tcp-reset"]].concat())
        });
        Ok(Self { rules: rules.collect::<Result<_>>()? })
    }

    /// Packets that were answered by a reset so far.
    pub fn packets(&self) -> Result<u64> {
        self.rules.iter().map(Rule::packets).sum()
    }
}

/// Counts attempts of pods to connect, also while nobody listens.
#[derive(Debug)]
pub struct Knocks {
    rule: Rule,
}

impl Knocks {
    /// Counts those at a server beside the cluster.
    pub fn at(server: SocketAddr) -> Result<Self> {
        let port = server.port().to_string();
        Ok(Self { rule: Rule::add("filter", &["INPUT", "!", "-i", "lo", "-p", "tcp", "--syn", "--dport", &port])? })
    }

    /// How many there were.
    pub fn count(&self) -> Result<u64> {
        self.rule.packets()
    }
}

/// One rule, in the table named.
#[derive(Debug)]
struct Rule {
    table: &'static str,
    /// The chain, what the rule matches and does, and a comment by which it is found again.
    words: Vec<String>,
}

impl Rule {
    /// In front of all others.
    fn add(table: &'static str, words: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mailrelay-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut words: Vec<String> = words.iter().map(ToString::to_string).collect();
        words.extend(["-m".into(), "comment".into(), "--comment".into(), name]);
        let rule = Self { table, words };
        rule.iptables("-I").map(|_| rule)
    }

    fn iptables(&self, action: &str) -> Result<String> {
        run(self.table, &[&[action.to_owned()], &self.words[..]].concat())
    }

    fn packets(&self) -> Result<u64> {
        let (chain, name) = (&self.words[0], &self.words[self.words.len() - 1]);
        let listed = run(self.table, &["-S".to_owned(), chain.clone(), "-v".into()])?;
        let mut lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = lines.find(|words| words.contains(&name.as_str())).with_context(|| format!("no rule {name}"))?;
        let counted = ours.iter().skip_while(|word| **word != "-c").nth(1);
        counted.and_then(|packets| packets.parse().ok()).with_context(|| format!("no count in {ours:?}"))
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        if let Err(error) = self.iptables("-D") {
            eprintln!("a packet filter rule stays: {error:#}");
        }
    }
}

fn run(table: &str, words: &[String]) -> Result<String> {
    let output = Command::new("iptables").args(["--wait", "-t", table]).args(words).output();
    let output = output.context("iptables does not start (Debian package iptables)")?;
    if !output.status.success() {
        bail!("iptables {} failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
