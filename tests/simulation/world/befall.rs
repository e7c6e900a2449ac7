//! What befalls a world.

use std::{sync::atomic::Ordering, time::Duration};

use testkit::Mood;

use super::{CONTROLLERS, Event, Restart, World};
use crate::{
    broken::Broken,
    cluster::{ALIAS, MAIL, NAMESPACE, REDIS, RELAY, SERVER, Shown},
    net::{Box, Place},
    plan::{Cut, Edit, Fault},
};

const fn ms(span: u64) -> Duration {
    Duration::from_millis(span)
}

impl World {
    pub(super) fn befall(&mut self, fault: Fault) {
        if self.now >= self.plan.calm {
            return;
        }
        self.trace.note(|| format!("fault: {fault:?}"));
        self.count(format!("fault {}", fault.kind()));
        match fault {
            Fault::PauseWorker { pod, .. }
            | Fault::PauseWorkerCut { pod }
            | Fault::FreezePod { pod, .. }
            | Fault::KillWorker { pod }
            | Fault::KillWorkerCut { pod, .. }
            | Fault::CrashContainer { pod, .. }
            | Fault::DeletePod { pod, .. }
            | Fault::BoxForgets { pod, .. }
            | Fault::BoxResets { pod, .. }
            | Fault::BoxDelays { pod, .. }
            | Fault::ForceDelete { pod, .. }
            | Fault::FailPod { pod }
            | Fault::CutWorkerRedis { pod, .. }
            | Fault::CutWorkerMail { pod, .. } => {
                let alive: Vec<usize> = (0..self.pods.len()).filter(|pod| !self.pods[*pod].leaving).collect();
                if !alive.is_empty() {
                    self.befall_pod(alive[pod % alive.len()], fault);
                }
            }
            Fault::EditSpec { edit } => self.edit_spec(edit),
            Fault::AddPod => {
                if self.pods.iter().filter(|pod| !pod.leaving).count() < 6 {
                    self.add_pod();
                }
            }
            Fault::RebootNode { node, ms: span } => self.crash_node(node, ms(span)),
            Fault::MailCrash { ms: span } => {
                self.net.refuse(MAIL, true);
                self.servers.within(|| self.mail.crash());
                self.at(ms(span), Event::MailUp);
            }
            Fault::WallClock { node, hours } => {
                // The nodes, the controllers' machine and the servers in turn.
                let whose = (node + usize::try_from(self.serial).expect("small")) % self.skews.len();
                self.queue_time_moved |= whose == self.plan.nodes + 1;
                self.skews[whose].fetch_add(hours * 3_600_000, Ordering::Relaxed);
            }
            Fault::KillController { .. }
            | Fault::PauseController { .. }
            | Fault::DeleteLease
            | Fault::DeleteEpoch
            | Fault::ApiDown { .. }
            | Fault::ApiSilent { .. }
            | Fault::ApiSlow { .. }
            | Fault::ApiConflicts { .. }
            | Fault::NoMarks { .. }
            | Fault::DropWatches { .. }
            | Fault::CutControllerRedis { .. } => self.befall_control(fault),
            Fault::RedisCrash { .. }
            | Fault::RedisFreeze { .. }
            | Fault::RedisEmpty { .. }
            | Fault::RedisStale { .. }
            | Fault::FlushAll
            | Fault::DeleteLedger
            | Fault::StaleLedger
            | Fault::RestoredLedger
            | Fault::GarbledLedger { .. }
            | Fault::ScriptFlush => self.befall_store(fault),
        }
    }

    fn befall_pod(&mut self, pod: usize, fault: Fault) {
        let ends = matches!(
            fault,
            Fault::KillWorker { .. }
                | Fault::KillWorkerCut { .. }
                | Fault::CrashContainer { .. }
                | Fault::FailPod { .. }
                | Fault::PauseWorker { .. }
                | Fault::PauseWorkerCut { .. }
        );
        if ends && self.is_frozen(pod) {
            return self.when_thawed(pod, Event::Again(fault));
        }
        let place = self.pods[pod].place;
        match fault {
            Fault::PauseWorkerCut { .. } => {
                let starts = self.pods[pod].starts;
                if let Some(running) = &mut self.pods[pod].running {
                    running.stopped = true;
                }
                self.at(ms(20_000), Event::Resume { pod, starts });
                self.at(ms(4_000), Event::CutLater { from: place, to: MAIL, ms: 3_000 });
            }
            Fault::FreezePod { ms: span, .. } => {
                let until = self.now + ms(span);
                if self.pods[pod].running.is_some() && self.pods[pod].frozen.is_none_or(|other| other < until) {
                    self.pods[pod].frozen = Some(until);
                    self.at(ms(span), Event::ThawPod { pod });
                }
            }
            Fault::BoxForgets { answers, .. } => self.interfere(place, Box::Forgets { answers }),
            Fault::BoxResets { client, server, .. } => self.interfere(place, Box::Resets { client, server }),
            Fault::BoxDelays { ms: span, back, .. } => {
                let (from, to) = if back { (MAIL, place) } else { (place, MAIL) };
                self.net.delay(from, to, ms(span));
                self.at(ms(span), Event::Hasten { from, to });
            }
            Fault::PauseWorker { ms: span, .. } => {
                let starts = self.pods[pod].starts;
                if let Some(running) = &mut self.pods[pod].running {
                    running.stopped = true;
                }
                self.at(ms(span), Event::Resume { pod, starts });
            }
            Fault::KillWorker { .. } => {
                self.kill_worker(pod);
            }
            Fault::KillWorkerCut { ms: span, .. } => {
                self.cut(self.pods[pod].place, MAIL, Cut::There, ms(span));
                self.kill_worker(pod);
            }
            Fault::CrashContainer { ms: span, .. } => {
                // With its supervisor: the kubelet starts another one, and is slow to tell.
                self.end_worker(pod);
                self.pods[pod].starts += 1;
                self.pods[pod].shown = Shown::Terminated;
                let lag = self.between(100, 1_500);
                self.at(lag, Event::Tell { pod });
                self.at(ms(span / 4), Event::StartContainer { pod });
            }
            Fault::DeletePod { grace_ms, .. } => self.delete_pod(pod, ms(grace_ms)),
            Fault::ForceDelete { ms: span, .. } => {
                self.pods[pod].leaving = true;
                self.pods[pod].gone = true;
                self.api.delete("pods", &self.pods[pod].key());
                // Its process goes on until its kubelet hears of it.
                self.at(ms(span), Event::KillPod { pod });
            }
            Fault::FailPod { .. } => {
                self.pods[pod].leaving = true;
                self.end_worker(pod);
                (self.pods[pod].over, self.pods[pod].shown) = (true, Shown::Terminated);
                self.vanish_soon(pod);
                let lag = self.between(200, 3_000);
                self.at(lag, Event::Tell { pod });
                self.at(lag + ms(4_000), Event::Remove { pod });
            }
            Fault::CutWorkerRedis { ms: span, cut, .. } => {
                self.cut(self.pods[pod].place, REDIS, cut, ms(span));
            }
            Fault::CutWorkerMail { ms: span, cut, .. } => {
                self.cut(self.pods[pod].place, MAIL, cut, ms(span));
            }
            _ => unreachable!("a fault of pods"),
        }
    }

    /// Controllers and the API server.
    fn befall_control(&mut self, fault: Fault) {
        match fault {
            Fault::KillController { replica } => {
                self.end_controller(replica);
                self.controllers[replica].starts += 1;
                let wait = self.between(200, 3_000);
                self.at(wait, Event::StartController { replica });
            }
            Fault::PauseController { replica, ms: span } => {
                let starts = self.controllers[replica].starts;
                if let Some(running) = &mut self.controllers[replica].running {
                    running.stopped = true;
                }
                self.at(ms(span), Event::ResumeController { replica, starts });
            }
            Fault::DeleteLease => self.api.delete("leases", "mailrelay/mailrelay-controller"),
            Fault::DeleteEpoch => self.api.delete("configmaps", "mailrelay/mailrelay-controller-epoch"),
            Fault::ApiDown { ms: span } => self.mood(Mood { down: true, ..Mood::default() }, ms(span)),
            Fault::ApiSilent { ms: span } => self.mood(Mood { silent: true, ..Mood::default() }, ms(span)),
            Fault::ApiSlow { ms: span } => self.mood(Mood { slow_ms: 2_500, ..Mood::default() }, ms(span)),
            Fault::ApiConflicts { ms: span } => self.mood(Mood { conflicts: 400, ..Mood::default() }, ms(span)),
            Fault::NoMarks { ms: span } => self.mood(Mood { no_config_maps: true, ..Mood::default() }, ms(span)),
            Fault::DropWatches { forget } => self.api.drop_watches(forget),
            Fault::CutControllerRedis { replica, ms: span, cut } => {
                let place = CONTROLLERS + u32::try_from(replica).expect("small");
                self.cut(place, REDIS, cut, ms(span));
            }
            _ => unreachable!("a fault of controllers or the API server"),
        }
    }

    fn befall_store(&mut self, fault: Fault) {
        match fault {
            Fault::RedisCrash { ms: span } => self.stop_redis(Restart::Kept, ms(span)),
            Fault::RedisEmpty { ms: span } => self.stop_redis(Restart::Empty, ms(span)),
            Fault::RedisStale { ms: span } => self.stop_redis(Restart::Stale, ms(span)),
            Fault::RedisFreeze { ms: span } => {
                self.servers.within(|| self.redis.freeze());
                self.at(ms(span), Event::Thaw);
            }
            Fault::FlushAll => {
                self.lost_by_store = true;
                self.servers.within(|| self.redis.flush_all());
            }
            Fault::DeleteLedger => {
                let key = format!("mailrelay:{{{}}}:ledger", self.spec.pool());
                self.servers.within(|| self.redis.delete(&key));
            }
            Fault::GarbledLedger { ms: span } => {
                self.garble(Some("one two"));
                self.at(ms(span), Event::MendLedgers);
            }
            Fault::StaleLedger => self.stale_ledger(self.plan.broken == Broken::NoFence),
            Fault::RestoredLedger => self.stale_ledger(true),
            Fault::ScriptFlush => self.servers.within(|| self.redis.script_flush()),
            _ => unreachable!("a fault of Redis"),
        }
    }

    /// Writes a field that makes no sense into the ledgers, or takes it out.
    pub(super) fn garble(&mut self, value: Option<&'static str>) {
        self.garbled = value.is_some();
        self.servers.within(|| {
            for pool in [SERVER, ALIAS, "shared"] {
                self.redis.write_field(&format!("mailrelay:{{{pool}}}:ledger"), "h:junk", value);
            }
        });
    }

    fn cut(&mut self, client: Place, server: Place, cut: Cut, span: Duration) {
        if cut != Cut::Back {
            self.net.cut(client, server, true);
            self.at(span, Event::Mend { from: client, to: server });
        }
        if cut != Cut::There {
            self.net.cut(server, client, true);
            self.at(span, Event::Mend { from: server, to: client });
        }
    }

    fn mood(&mut self, mood: Mood, span: Duration) {
        self.api.set_mood(mood);
        self.at(span, Event::Mood(Mood::default()));
    }

    fn stop_redis(&mut self, restart: Restart, span: Duration) {
        if self.redis.is_down() {
            return;
        }
        self.lost_by_store |= !matches!(restart, Restart::Kept);
        self.net.refuse(REDIS, true);
        self.servers.within(|| self.redis.crash());
        self.at(span, Event::RedisUp(restart));
    }

    pub(super) fn start_redis(&mut self, restart: Restart) {
        self.servers.within(|| match (restart, self.copies.first()) {
            (Restart::Kept, _) => self.redis.restart(),
            (Restart::Stale, Some(copy)) => self.redis.restart_from(copy),
            (Restart::Stale | Restart::Empty, _) => self.redis.restart_empty(),
        });
        self.net.refuse(REDIS, false);
    }

    /// The ledgers alone go back to what they were, as when they lay in a store of their own; `keeps_ids`: in the Redis that
    /// runs.
    fn stale_ledger(&mut self, keeps_ids: bool) {
        let Some(copy) = self.copies.first().cloned() else { return };
        if self.redis.is_down() {
            return;
        }
        self.servers.within(|| {
            if !keeps_ids {
                self.redis.restart();
            }
            for pool in [SERVER, ALIAS, "shared"] {
                self.redis.bring_back(&copy, &format!("mailrelay:{{{pool}}}:"));
            }
        });
    }

    fn interfere(&mut self, place: Place, what: Box) {
        let met = self.net.interfere(place, MAIL, what);
        *self.counts.entry("connections that a box forgot".into()).or_default() += met;
    }

    fn edit_spec(&mut self, edit: Edit) {
        self.spec.edit(edit, &self.plan);
        self.mail.raise_budget(self.spec.max);
        self.spec.pool().clone_into(&mut self.observer.inner().pool);
        let servers = self.spec.servers(&self.plan);
        self.api.edit("mailrelays", &format!("{NAMESPACE}/{RELAY}"), |relay| relay["spec"]["servers"] = servers);
    }
}
