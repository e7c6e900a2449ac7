//! A way to Redis on which single commands go astray: they come late, behind newer ones of the same client, or twice, or
//! their answer is lost, or a key has a wrong type just then, so that a script ends in the middle. Whoever waits for an
//! answer that will not come is told at once, by the end of its connection.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use mailrelay::{
    queue::{Queue, QueueNames},
    store::{Store, StoreOptions},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::support::*;

/// How often what befalls a command, per thousand.
#[derive(Clone, Copy, Default)]
pub struct Disorder {
    /// It is not answered, and run when [`Courier::arrive`] says so.
    pub late: u32,
    /// It is run and answered, and run again when [`Courier::arrive`] says so.
    pub again: u32,
    /// It is run and not answered.
    pub unanswered: u32,
    /// One of its keys has a wrong type while it is run, as if a person had put something else there.
    pub spoiled: u32,
}

enum Fate {
    Prompt,
    Late,
    Again,
    Unanswered,
    Spoiled(Vec<u8>),
}

struct Plan {
    disorder: Disorder,
    chance: StdRng,
    /// What the next command that is held back contains, and then its repetition.
    digest: Option<String>,
    held: Option<Vec<u8>>,
    /// What the next command contains that is run twice.
    twice: Option<String>,
    /// Commands that are still under way.
    late: Vec<Vec<u8>>,
    /// Words of scripts, and those that take their place.
    altered: &'static [(&'static str, &'static str)],
    /// Digests of scripts as they are sent, and as they are run.
    digests: BTreeMap<String, String>,
}

/// The way to a fixture's Redis.
pub struct Courier {
    address: SocketAddr,
    target: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    task: JoinHandle<()>,
}

impl Courier {
    /// A way on which scripts are run in other words, if any; a rule that is left out is to be noticed.
    pub async fn open(fixture: &Fixture, seed: u64, altered: &'static [(&'static str, &'static str)]) -> Self {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, fixture.redis.port()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let plan = Arc::new(Mutex::new(Plan {
            disorder: Disorder::default(),
            chance: StdRng::seed_from_u64(seed),
            digest: None,
            held: None,
            twice: None,
            late: Vec::new(),
            altered,
            digests: BTreeMap::new(),
        }));
        let all = plan.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(serve(near, target, all.clone()));
            }
        });
        Self { address, target, plan, task }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        plan_of(&self.plan)
    }

    /// The queue as one client of this way sees it.
    pub fn queue(&self) -> Queue {
        self.queue_of(names())
    }

    /// The same of another queue.
    pub fn queue_of(&self, names: QueueNames) -> Queue {
        let options = StoreOptions::from_url(format!("redis://{}", self.address));
        Queue::new(Store::new(&options).expect("options"), names)
    }

    /// A client whose scripts of a claim are loaded, so that each is one command from now on; a mail was claimed for that.
    pub async fn warm(&self, fixture: &Fixture) -> Queue {
        let queue = self.queue();
        fixture.push("mail_queue", mail("warm")).await;
        assert_eq!(queue.claim(ONE, "pod", 1, NOW).await.expect("claim").mails.len(), 1);
        queue
    }

    /// From now on the next command with this digest is held back until it is repeated, and takes effect just before that.
    pub fn hold(&self, digest: String) {
        self.plan().digest = Some(digest);
    }

    /// The next command with this digest is run twice in a row, and answered by what the second run says.
    pub fn twice(&self, digest: String) {
        self.plan().twice = Some(digest);
    }

    /// What befalls commands from now on.
    pub fn disorder(&self, disorder: Disorder) {
        self.plan().disorder = disorder;
    }

    /// How many commands are under way.
    pub fn under_way(&self) -> usize {
        self.plan().late.len()
    }

    /// One of the commands that are under way arrives.
    pub async fn arrive(&self) {
        let late = {
            let mut plan = self.plan();
            let count = plan.late.len();
            if count == 0 {
                return;
            }
            let which = plan.chance.random_range(0..count);
            plan.late.swap_remove(which)
        };
        run(&mut TcpStream::connect(self.target).await.expect("Redis is there"), &late).await;
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plan {
    /// What becomes of a command, and one that takes effect before it.
    fn decide(&mut self, command: &[u8]) -> (Fate, Option<Vec<u8>>) {
        if self.digest.as_ref().is_some_and(|digest| contains(command, digest.as_bytes())) {
            if self.held.is_none() {
                self.held = Some(command.to_vec());
                return (Fate::Late, None);
            }
            self.digest = None;
            return (Fate::Prompt, self.held.take());
        }
        if self.twice.as_ref().is_some_and(|digest| contains(command, digest.as_bytes())) {
            self.twice = None;
            return (Fate::Prompt, Some(command.to_vec()));
        }
        let Disorder { late, again, unanswered, spoiled } = self.disorder;
        let fate = match self.chance.random_range(0..1_000) {
            drawn if drawn < late => Fate::Late,
            drawn if drawn < late + again => Fate::Again,
            drawn if drawn < late + again + unanswered => Fate::Unanswered,
            drawn if drawn < late + again + unanswered + spoiled => self.spoil(command),
            _ => Fate::Prompt,
        };
        // A blocking command would wait for somebody who is gone, and loading a script twice is nothing.
        if matches!(fate, Fate::Late | Fate::Again) && contains(command, b"EVALSHA") {
            self.late.push(command.to_vec());
        }
        (fate, None)
    }

    /// One of the keys of a script is to have a wrong type.
    fn spoil(&mut self, command: &[u8]) -> Fate {
        let words = words(command);
        let count = || std::str::from_utf8(words.get(2)?).ok()?.parse().ok();
        match count() {
            Some(count) if words[0] == b"EVALSHA" && count > 0 => {
                Fate::Spoiled(words[3 + self.chance.random_range(0..count)].clone())
            }
            _ => Fate::Prompt,
        }
    }

    /// The command as Redis gets it.
    fn translate(&mut self, command: Vec<u8>) -> Vec<u8> {
        if self.altered.is_empty() {
            return command;
        }
        let words = words(&command);
        match words.as_slice() {
            [name, sub, body] if name == b"SCRIPT" && sub == b"LOAD" => {
                let sent = String::from_utf8(body.clone()).expect("a script is text");
                let run = self.altered.iter().fold(sent.clone(), |text, (from, to)| text.replace(from, to));
                let digest = |text: &str| redis::Script::new(text).get_hash().to_owned();
                self.digests.insert(digest(&sent), digest(&run));
                let mut altered = redis::cmd("SCRIPT");
                altered.arg("LOAD").arg(run).get_packed_command()
            }
            [name, digest, ..] if name == b"EVALSHA" => {
                let Some(run) = self.digests.get(&*String::from_utf8_lossy(digest)) else { return command };
                replace(command, digest, run.as_bytes())
            }
            _ => command,
        }
    }

    /// An answer that names a script by the digest of what was sent.
    fn in_digests_as_sent(&self, answer: Vec<u8>) -> Vec<u8> {
        self.digests.iter().fold(answer, |answer, (sent, run)| replace(answer, run.as_bytes(), sent.as_bytes()))
    }
}

fn plan_of(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().expect("no panic")
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// Puts a word in the place of another of the same length, where it comes first.
fn replace(mut bytes: Vec<u8>, word: &[u8], by: &[u8]) -> Vec<u8> {
    if let Some(at) = bytes.windows(word.len()).position(|window| window == word) {
        bytes[at..at + by.len()].copy_from_slice(by);
    }
    bytes
}

/// One client, until it goes or its connection ends.
async fn serve(mut near: TcpStream, target: SocketAddr, plan: Arc<Mutex<Plan>>) {
    let mut far = TcpStream::connect(target).await.expect("Redis is there");
    let mut buffer = Vec::new();
    while let Some(command) = frame(&mut near, &mut buffer).await {
        let (fate, before, command) = {
            let mut plan = plan_of(&plan);
            let command = plan.translate(command);
            let (fate, before) = plan.decide(&command);
            (fate, before, command)
        };
        if let Some(before) = before {
            run(&mut far, &before).await;
        }
        match fate {
            Fate::Late => return,
            Fate::Unanswered => {
                run(&mut far, &command).await;
                return;
            }
            Fate::Prompt | Fate::Again | Fate::Spoiled(_) => {
                let answer = match fate {
                    Fate::Spoiled(key) => run_spoiled(&mut far, &command, &key).await,
                    _ => run(&mut far, &command).await,
                };
                let answer = plan_of(&plan).in_digests_as_sent(answer);
                if near.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Runs a command while something else lies under a key, and puts back what lay there.
async fn run_spoiled(far: &mut TcpStream, command: &[u8], key: &[u8]) -> Vec<u8> {
    const ASIDE: &[u8] = b"aside";
    let other: &[u8] = b"no such thing";
    let packed = |words: &[&[u8]]| {
        let mut packed = redis::cmd(std::str::from_utf8(words[0]).expect("a name"));
        for word in &words[1..] {
            packed.arg(*word);
        }
        packed.get_packed_command()
    };
    // There may be nothing yet, which is no error that matters.
    run(far, &packed(&[b"RENAME", key, ASIDE])).await;
    run(far, &packed(&[b"SET", key, other])).await;
    let answer = run(far, command).await;
    run(far, &packed(&[b"DEL", key])).await;
    run(far, &packed(&[b"RENAME", ASIDE, key])).await;
    answer
}

/// Runs a command, and returns its answer.
async fn run(far: &mut TcpStream, command: &[u8]) -> Vec<u8> {
    far.write_all(command).await.expect("sent");
    frame(far, &mut Vec::new()).await.expect("an answer")
}

/// The next request or answer of a stream; none at its end.
async fn frame(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(length) = length(buffer) {
            let rest = buffer.split_off(length);
            return Some(std::mem::replace(buffer, rest));
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// How long the first value is, when all of it is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|end| end == b"\r\n")?;
    let number = || std::str::from_utf8(&bytes[1..line]).ok()?.parse::<i64>().ok();
    let mut end = line + 2;
    match bytes[0] {
        b'$' => {
            // Without a value there is no end of it.
            end += usize::try_from(number()?).map_or(0, |length| length + 2);
        }
        b'*' => {
            for _ in 0..number()? {
                end += length(bytes.get(end..)?)?;
            }
        }
        _ => {}
    }
    (bytes.len() >= end).then_some(end)
}

/// The words of a request.
fn words(request: &[u8]) -> Vec<Vec<u8>> {
    let line = |at: usize| request[at..].windows(2).position(|end| end == b"\r\n").expect("a whole request") + at + 2;
    let (mut words, mut at) = (Vec::new(), line(0));
    while at < request.len() {
        let begin = line(at);
        let length: usize =
            std::str::from_utf8(&request[at + 1..begin - 2]).ok().and_then(|text| text.parse().ok()).expect("a length");
        words.push(request[begin..begin + length].to_vec());
        at = begin + length + 2;
    }
    words
}
