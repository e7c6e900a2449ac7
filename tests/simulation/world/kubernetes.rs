//! What Kubernetes does: pods, their processes, nodes, the controllers' Deployment.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio_util::sync::CancellationToken;

use super::{CONTROLLERS, Event, PODS, World};
use crate::{
    cluster::{MAIL, Pod, Shown, start_worker, store},
    process::Running,
    supervisor::Supervisor,
};

impl World {
    pub(super) fn add_pod(&mut self) {
        let number = self.pods.len();
        let node = self.chance.random_range(0..self.nodes.len());
        let uid = format!("{:08x}-{number}", self.chance.next_u32());
        self.pods.push(Pod {
            name: format!("web-{number}"),
            uid,
            node,
            place: PODS + u32::try_from(number).expect("few"),
            restarts: 0,
            shown: Shown::Waiting,
            over: false,
            leaving: false,
            gone: false,
            running: None,
            supervisor: self.new_supervisor(),
            frozen: None,
            stop: CancellationToken::new(),
            starts: 0,
        });
        self.tell_pod(number);
        let wait = self.between(50, 500);
        self.at(wait, Event::StartContainer { pod: number });
    }

    fn new_supervisor(&self) -> Supervisor {
        Supervisor::new(self.plan.listed, self.plan.broken)
    }

    pub(super) fn start_container(&mut self, pod: usize) {
        let node = self.pods[pod].node;
        if self.pods[pod].leaving || !self.nodes[node].is_up || self.pods[pod].running.is_some() {
            return;
        }
        if self.pods[pod].starts > 0 {
            self.pods[pod].restarts += 1;
            // The container's first process is a new one too.
            self.pods[pod].supervisor = self.new_supervisor();
        }
        self.start_worker(pod);
        self.pods[pod].shown = Shown::Running;
        let lag = self.between(50, 1_000);
        self.at(lag, Event::Tell { pod });
    }

    pub(super) fn start_worker(&mut self, pod: usize) {
        let node = self.pods[pod].node;
        if self.pods[pod].leaving || !self.nodes[node].is_up || self.pods[pod].running.is_some() {
            return;
        }
        self.pods[pod].starts += 1;
        let seed = self.chance.next_u64();
        let running = start_worker(&self.pods[pod], &self.nodes[node], &self.net, seed);
        self.trace.note(|| format!("{} starts", running.process.name));
        self.count("workers started");
        self.pods[pod].running = Some(running);
    }

    /// SIGKILL; the supervisor starts another one.
    pub(super) fn kill_worker(&mut self, pod: usize) {
        if self.pods[pod].running.is_some() {
            self.worker_ended(pod, "was killed");
        }
    }

    /// The kernel closes what the process had; only then it is taken apart, which no order is promised for.
    pub(super) fn end_worker(&mut self, pod: usize) {
        let place = self.pods[pod].place;
        self.net.hang_up(place);
        self.deaths += u32::from(self.pods[pod].running.take().is_some());
        self.pods[pod].supervisor.bury(self.now, &self.net.table(place, MAIL));
    }

    pub(super) fn end_controller(&mut self, replica: usize) {
        self.net.hang_up(CONTROLLERS + u32::try_from(replica).expect("small"));
        self.controllers[replica].running = None;
    }

    pub(super) fn worker_ended(&mut self, pod: usize, how: &str) {
        self.end_worker(pod);
        self.trace.note(|| format!("{}#{} {how}", self.pods[pod].name, self.pods[pod].starts));
        if self.pods[pod].stop.is_cancelled() {
            // Its pod is on its way out, and the kubelet sees that it is over.
            (self.pods[pod].over, self.pods[pod].shown) = (true, Shown::Terminated);
            let lag = self.between(100, 1_000);
            self.vanish_soon(pod);
            self.at(lag, Event::Tell { pod });
            self.at(lag + Duration::from_millis(300), Event::Remove { pod });
        } else if self.pods[pod].leaving {
            self.vanish_soon(pod);
        } else {
            let starts = self.pods[pod].starts;
            let wait = self.between(20, 200);
            self.at(wait, Event::StartWorker { pod, starts });
        }
    }

    /// A pod's sandbox goes, soon after its containers.
    pub(super) fn vanish_soon(&mut self, pod: usize) {
        let wait = self.between(10, 1_300);
        self.at(wait, Event::Vanish { pod });
    }

    pub(super) fn is_frozen(&self, pod: usize) -> bool {
        self.pods[pod].frozen.is_some()
    }

    /// Lets something happen once the pod's cgroup runs again, before anything in it does.
    pub(super) fn when_thawed(&mut self, pod: usize, event: Event) {
        let wait = self.pods[pod].frozen.map_or(Duration::ZERO, |until| until.saturating_sub(self.now));
        self.at(wait, event);
    }

    pub(super) fn thaw_pod(&mut self, pod: usize) {
        if self.pods[pod].frozen.is_none_or(|until| until > self.now) {
            return;
        }
        self.pods[pod].frozen = None;
        let doomed = self.pods[pod].running.as_ref().is_some_and(|running| running.is_doomed(self.now));
        self.trace.note(|| format!("{} is thawed{}", self.pods[pod].name, if doomed { ", and dead" } else { "" }));
        if doomed {
            // The signal of its dead-man switch has waited.
            self.count("dead-man switches");
            self.worker_ended(pod, "was shot");
        }
    }

    pub(super) fn delete_pod(&mut self, pod: usize, grace: Duration) {
        self.pods[pod].leaving = true;
        self.pods[pod].stop.cancel();
        self.tell_pod(pod);
        if self.pods[pod].running.is_none() {
            self.vanish_soon(pod);
            self.at(Duration::from_millis(500), Event::Remove { pod });
        } else {
            // The grace period.
            let starts = self.pods[pod].starts;
            self.at(grace, Event::KillStopped { pod, starts });
        }
    }

    pub(super) fn tell_pod(&mut self, pod: usize) {
        let pod = &self.pods[pod];
        if pod.gone || !self.nodes[pod.node].is_up {
            return;
        }
        let object = pod.object(&self.nodes[pod.node].name, pod.stop.is_cancelled());
        self.api.put("pods", &pod.key(), object);
    }

    pub(super) fn remove_pod(&mut self, pod: usize) {
        if !self.pods[pod].gone && self.nodes[self.pods[pod].node].is_up {
            self.pods[pod].gone = true;
            self.api.delete("pods", &self.pods[pod].key());
        }
    }

    pub(super) fn tell_node(&mut self, node: usize) {
        let node = &self.nodes[node];
        self.api.put("nodes", &format!("/{}", node.name), node.object());
        self.api.put("leases", &format!("kube-node-lease/{}", node.name), node.lease(self.now));
    }

    /// The machine is gone without a word.
    pub(super) fn crash_node(&mut self, node: usize, span: Duration) {
        if !self.nodes[node].is_up {
            return;
        }
        self.nodes[node].is_up = false;
        for pod in &mut self.pods {
            if pod.node == node {
                self.net.vanish(pod.place);
                pod.frozen = None;
                pod.running = None;
                pod.starts += 1;
            }
        }
        self.at(span, Event::Boot { node });
    }

    pub(super) fn boot(&mut self, node: usize) {
        (self.nodes[node].is_up, self.nodes[node].boots) = (true, self.nodes[node].boots + 1);
        self.tell_node(node);
        for pod in 0..self.pods.len() {
            if self.pods[pod].node != node || self.pods[pod].gone {
                continue;
            }
            self.net.appear(self.pods[pod].place);
            if self.pods[pod].leaving {
                self.pods[pod].over = true;
                self.pods[pod].shown = Shown::Terminated;
                self.at(Duration::from_millis(500), Event::Remove { pod });
            } else {
                let wait = self.between(300, 2_000);
                self.at(wait, Event::StartContainer { pod });
            }
        }
    }

    pub(super) fn start_controller(&mut self, replica: usize) {
        if self.controllers[replica].running.is_some() {
            return;
        }
        self.controllers[replica].starts += 1;
        let (net, client) = (self.net.clone(), self.api.clone());
        let place = CONTROLLERS + u32::try_from(replica).expect("small");
        let name = format!("controller-{replica}");
        let identity = name.clone();
        let seed = self.chance.next_u64();
        let skew = &self.skews[self.nodes.len()];
        let running = Running::start(&name, place, skew, seed, move |process| async move {
            let replica = crate::replica::replica(&identity, store(&net, &process), client.client());
            // Why it ended is for its log.
            let _ = Box::pin(replica.run(std::future::pending())).await;
        });
        self.trace.note(|| format!("{name} starts"));
        self.controllers[replica].running = Some(running);
    }
}
