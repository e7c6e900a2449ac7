//! Every log line of every container, read from the node's files as they grow: a pod that is gone has left its lines here.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fmt::Write,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::process::cluster_folder;

/// How often the files are looked at: shorter than a container's log outlives it.
const EVERY: Duration = Duration::from_millis(200);
/// How many of the last lines of a file are kept for a failure report.
const KEPT: usize = 5_000;
/// What a supervisor says when its worker process ended.
const WORKER_ENDED: &str = "the worker process ended";

/// The lines of one run of one container.
struct Tail {
    file: File,
    partial: Vec<u8>,
    lines: VecDeque<String>,
    figures: Figures,
}

/// What the lines of some containers show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Lines that tell of a panic.
    pub panics: Vec<String>,
    /// Lines that contain a secret, without the secret.
    pub secrets: Vec<String>,
    /// How often a worker process ended before its time.
    pub ends: usize,
    /// How often a container was started again.
    pub restarts: usize,
}

/// Reads until it is dropped.
pub struct Logs {
    tails: Arc<Mutex<BTreeMap<PathBuf, Tail>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Logs {
    /// Starts reading: the pods' logs, and in `own` those of programs that the test itself runs, under names like those
    /// of kubelet: `<namespace>_<name>_<id>/<container>/<run>.log`.
    pub(crate) fn start(own: PathBuf, canaries: Vec<String>) -> Self {
        let (tails, stop) = (Arc::<Mutex<BTreeMap<PathBuf, Tail>>>::default(), Arc::<AtomicBool>::default());
        let (all, end) = (Arc::clone(&tails), Arc::clone(&stop));
        let roots = [cluster_folder().join("pod-logs"), own];
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                read(&roots, &canaries, &mut lock(&all));
                thread::sleep(EVERY);
            }
        });
        Self { tails, stop, thread: Some(thread) }
    }

    /// What the containers of a namespace have shown so far.
    pub(crate) fn figures(&self, namespace: &str) -> Figures {
        let mut sum = Figures::default();
        for (path, tail) in lock(&self.tails).iter().filter(|(path, _)| is_of(path, namespace)) {
            sum.panics.extend(tail.figures.panics.iter().cloned());
            sum.secrets.extend(tail.figures.secrets.iter().cloned());
            sum.ends += tail.figures.ends;
            sum.restarts += usize::from(path.file_stem().is_some_and(|run| run != "0"));
        }
        sum
    }

    /// Lets go of a namespace that is judged.
    pub(crate) fn forget(&self, namespace: &str) {
        for tail in lock(&self.tails).iter_mut().filter(|(path, _)| is_of(path, namespace)).map(|(_, tail)| tail) {
            tail.lines = VecDeque::new();
        }
    }

    /// How many lines of a namespace's containers contain a text.
    pub fn count(&self, namespace: &str, text: &str) -> usize {
        let tails = lock(&self.tails);
        let ours = tails.iter().filter(|(path, _)| is_of(path, namespace));
        ours.flat_map(|(_, tail)| &tail.lines).filter(|line| line.contains(text)).count()
    }

    /// The last lines of a namespace's containers.
    pub(crate) fn text(&self, namespace: &str) -> String {
        let mut text = String::new();
        for (path, tail) in lock(&self.tails).iter().filter(|(path, _)| is_of(path, namespace)) {
            let _ = writeln!(text, "== {}", path.display());
            text.extend(tail.lines.iter().flat_map(|line| [line, "\n"]));
        }
        text
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(tails: &Mutex<BTreeMap<PathBuf, Tail>>) -> MutexGuard<'_, BTreeMap<PathBuf, Tail>> {
    tails.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a pod's folder starts with its namespace.
fn is_of(path: &Path, namespace: &str) -> bool {
    let pod = path.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str());
    pod.and_then(|pod| pod.split('_').next()) == Some(namespace)
}

fn read(roots: &[PathBuf], canaries: &[String], tails: &mut BTreeMap<PathBuf, Tail>) {
    for path in roots.iter().flat_map(|root| files(root)) {
        let Entry::Vacant(place) = tails.entry(path) else { continue };
        let Ok(file) = File::open(place.key()) else { continue };
        place.insert(Tail { file, partial: Vec::new(), lines: VecDeque::new(), figures: Figures::default() });
    }
    for tail in tails.values_mut() {
        let mut fresh = Vec::new();
        if tail.file.read_to_end(&mut fresh).is_err() || fresh.is_empty() {
            continue;
        }
        tail.partial.extend(fresh);
        while let Some(end) = tail.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = tail.partial.drain(..=end).collect();
            tail.take(String::from_utf8_lossy(&line).trim_end(), canaries);
        }
    }
}

/// `<root>/<pod>/<container>/<run>.log`
fn files(root: &Path) -> Vec<PathBuf> {
    let within = |folder: PathBuf| {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    within(root.to_owned()).into_iter().flat_map(within).flat_map(within).collect()
}

impl Tail {
    fn take(&mut self, line: &str, canaries: &[String]) {
        let clean = canaries.iter().fold(line.to_owned(), |line, canary| line.replace(canary.as_str(), "<secret>"));
        if clean != line {
            self.figures.secrets.push(clean.clone());
        }
        if clean.contains("panicked at") {
            self.figures.panics.push(clean.clone());
        }
        self.figures.ends += usize::from(clean.contains(WORKER_ENDED));
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(clean);
    }
}
