//! Workers that run as children of this process.

use std::{
    collections::BTreeMap,
    env, io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::{
    objects::Objects,
    options::DevOptions,
    pods::{Crew, Pod},
};
use crate::{mail::fresh_id, store::StoreOptions, telemetry::log};

/// How long after the end of one another takes its place.
const AGAIN: Duration = Duration::from_secs(1);

/// One place for a worker.
struct Place {
    number: usize,
    running: Option<(Pod, Child)>,
    /// Whether it was asked to end: a second time would cut off what it is sending.
    is_stopping: bool,
    not_before: Instant,
}

/// All of them, by namespace and name of the relay.
pub struct Children {
    options: DevOptions,
    places: BTreeMap<(String, String), Vec<Place>>,
}

impl Children {
    /// Nobody runs yet.
    pub fn new(options: DevOptions) -> Self {
        Self { options, places: BTreeMap::new() }
    }

    /// The UIDs of those that run.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.places.values().flatten().filter_map(|place| Some(&*place.running.as_ref()?.0.uid))
    }

    /// Starts what is missing for these relays, stops what is for none of them, and notes who has ended. To be called on the
    /// thread whose end is to be theirs.
    pub fn keep(&mut self, objects: &Objects, crews: &[Crew]) -> io::Result<()> {
        let is_wanted = |(namespace, relay): &(String, String)| {
            crews.iter().any(|crew| crew.namespace == *namespace && crew.relay == *relay)
        };
        for (_, places) in self.places.iter_mut().filter(|(key, _)| !is_wanted(key)) {
            places.retain_mut(|place| {
                place.stop();
                place.note_end(objects);
                place.running.is_some()
            });
        }
        self.places.retain(|key, places| is_wanted(key) || !places.is_empty());
        for crew in crews {
            let places = self.places.entry((crew.namespace.clone(), crew.relay.clone())).or_default();
            places.extend((places.len()..self.options.workers).map(Place::vacant));
            for place in places {
                place.note_end(objects);
                if place.running.is_none() && Instant::now() >= place.not_before {
                    place.start(&self.options, objects, crew)?;
                }
            }
        }
        Ok(())
    }

    /// Stops all, and waits for them.
    pub async fn stop(&mut self, objects: &Objects) {
        self.places.values_mut().flatten().for_each(Place::stop);
        while self.places.values().flatten().any(|place| place.running.is_some()) {
            self.places.values_mut().flatten().for_each(|place| place.note_end(objects));
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Place {
    fn vacant(number: usize) -> Self {
        Self { number, running: None, is_stopping: false, not_before: Instant::now() }
    }

    fn start(&mut self, options: &DevOptions, objects: &Objects, crew: &Crew) -> io::Result<()> {
        let Crew { namespace, relay, labels } = crew;
        let pod = Pod {
            namespace: namespace.clone(),
            relay: relay.clone(),
            name: format!("{relay}-{}", self.number + 1),
            uid: fresh_id(),
        };
        let mut command = Command::new(env::current_exe()?);
        command.args(["worker", "--supervise", "--end-with-parent", "--http", "127.0.0.1:0"]);
        command.args(["--relay", relay, "--namespace", namespace, "--pod-name", &pod.name, "--pod-uid", &pod.uid]);
        if env::var_os(log::FILTER_VARIABLE).is_none() {
            command.env(log::FILTER_VARIABLE, log::QUIET);
        }
        let StoreOptions { dir, url, username, password_file, ca_file } = &options.store;
        let files = [
            ("--redis-dir", dir),
            ("--redis-password-file", password_file),
            ("--redis-ca-file", ca_file),
            ("--credentials-dir", &options.credentials),
        ];
        for (flag, file) in files.into_iter().filter_map(|(flag, file)| Some((flag, file.as_ref()?))) {
            command.arg(flag).arg(file);
        }
        if let Some(username) = username {
            command.arg("--redis-username").arg(username);
        }
        if let Some(url) = url {
            // It may have a password in it, which is nothing for a list of processes.
            command.env("MAILRELAY_REDIS_URL", url);
        }
        // What a terminal tells all processes of a group is ours to hand on.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()?;
        pod.begin(objects, labels);
        (self.running, self.is_stopping) = (Some((pod, child)), false);
        Ok(())
    }

    /// Takes in that it has ended.
    fn note_end(&mut self, objects: &Objects) {
        let ended = |(_, child): &mut (Pod, Child)| !matches!(child.try_wait(), Ok(None));
        if let Some((pod, _)) = self.running.take_if(ended) {
            pod.end(objects);
            // The controller has to see that before its place is taken: a pod of the same name is another.
            self.not_before = Instant::now() + AGAIN;
        }
    }

    /// Asks it to end, once.
    fn stop(&mut self) {
        if let Some((_, child)) = self.running.as_ref().filter(|_| !self.is_stopping) {
            self.is_stopping = true;
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
    }
}
