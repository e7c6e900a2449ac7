//! A million dead letters of mixed sizes at the command line, in bounded memory on both sides. Takes minutes:
//! `MANY=1000000 cargo test --test many_letters -- --ignored --nocapture`; some figures are in docs/operations.md.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use testkit::{Persistence, RedisServer};

/// What the command line and Redis may need beside what they are given.
const MOST: u64 = 64 << 20;

/// Puts letters into the list: each tenth `Policy`, each 50th of 12 kB, each 1,000th of 100 kB, each 100,000th of 10 MB.
const MAKE: &str = r#"
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local length = i % 100000 == 0 and 10000000 or i % 1000 == 0 and 100000 or i % 50 == 0 and 12000 or 100
  local head = '{"id":"m%d","reason":"%s","at":%d,"stage":"sending","reply":"554 no","messageId":"<m%d@example.com>",'
  local rest = '"attempts":0,"deferrals":0,"crashes":0,"firstSeen":1,"serial":"%032x","priority":"normal","payload":"'
  local mail = '{\\"from\\":\\"a@example.com\\",\\"to\\":\\"b@example.org\\",\\"text\\":\\"'
  redis.call('LPUSH', KEYS[1], string.format(head .. rest, i, i % 10 == 0 and 'Policy' or 'TooLarge', 1000 + i, i, i)
    .. mail .. string.rep('x', length) .. '\\"}"}')
end
redis.call('HINCRBY', '{mail_queue}:counters', 'accepted', ARGV[2] - ARGV[1] + 1)
"#;

struct Bench {
    redis: RedisServer,
}

/// What one command took.
struct Took {
    time: Duration,
    /// The most memory that the command had.
    own: u64,
    /// How much more Redis had than before it, at most.
    redis: u64,
    output: String,
}

impl Bench {
    fn memory(&self) -> u64 {
        self.sample().expect("a figure")
    }

    /// The same, if Redis answers in time on a machine that has much else to do.
    fn sample(&self) -> Option<u64> {
        let info = self.redis.command(&["INFO", "memory"]).ok()?;
        info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok())
    }

    fn length(&self, list: &str) -> String {
        self.redis.command(&["LLEN", list]).expect("LLEN").trim().trim_start_matches(':').to_owned()
    }

    fn run(&self, what: &str, arguments: &[&str]) -> Took {
        let (before, start) = (self.memory(), Instant::now());
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("output");
        let mut child = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
            .args(arguments)
            .env_clear()
            .env("MAILRELAY_REDIS_URL", self.redis.url())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&output).expect("a file"))
            .spawn()
            .expect("the binary runs");
        let (mut own, mut redis) = (0, 0);
        while child.try_wait().expect("it is ours").is_none() {
            own = peak(&child).unwrap_or(own).max(own);
            redis = self.sample().map_or(0, |now| now.saturating_sub(before)).max(redis);
            thread::sleep(Duration::from_millis(100));
        }
        assert!(child.wait().expect("it ended").success() || what == "audit", "{what}");
        let time = start.elapsed();
        let output = fs::read_to_string(&output).expect("UTF-8");
        println!("{what:<40} {time:>8.1?}  command {:>4} MB  redis {:>4} MB more", own >> 20, redis >> 20);
        Took { time, own, redis, output }
    }
}

fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

#[test]
#[ignore = "a million letters take minutes"]
fn a_million_dead_letters_are_looked_after_in_bounded_memory() {
    let many: usize = std::env::var("MANY").ok().and_then(|many| many.parse().ok()).unwrap_or(1_000_000);
    let bench = Bench { redis: RedisServer::start(Persistence::Off) };
    let name = "mail_dead_letter_queue";
    for first in (0..many).step_by(10_000) {
        let last = (first + 9_999).min(many - 1);
        bench.redis.command(&["EVAL", MAKE, "1", name, &first.to_string(), &last.to_string()]).expect("made");
    }
    println!("{many} letters in {} MB of Redis", bench.memory() >> 20);
    let all = many.to_string();
    let middle = format!("m{}", many / 2 + 1);
    let listed = bench.run("list", &["dead", "list", "--limit", &all]);
    assert_eq!(listed.output.lines().count(), many + 1);
    let filtered = bench.run("list --reason", &["dead", "list", "--reason", "Policy", "--limit", &all]);
    assert_eq!(filtered.output.lines().count(), many.div_ceil(10) + 1);
    let by_text = bench.run("list --text", &["dead", "list", "--text", &format!("<{middle}@"), "--limit", &all]);
    assert_eq!(by_text.output.lines().count(), 2);
    let shown = bench.run("show the one in the middle", &["dead", "show", &middle]);
    assert!(shown.output.contains(&middle));
    let discarded = bench.run("discard --reason, each tenth", &["dead", "discard", "--reason", "Policy"]);
    assert_eq!(discarded.output, format!("{} discarded\n", many.div_ceil(10)));
    let half = (many / 2).to_string();
    let requeued =
        bench.run("requeue half", &["dead", "requeue", "--older-than", "1m", "--limit", &half, "--rate", "max"]);
    assert_eq!(requeued.output, format!("{half} requeued\n"));
    let rest = bench.run("discard --all", &["dead", "discard", "--all"]);
    assert_eq!((bench.length(name), bench.length("mail_queue")), ("0".into(), half));
    for took in [&listed, &filtered, &by_text, &shown, &discarded, &rest] {
        assert!(took.own < MOST && took.redis < MOST, "{} {} in {:?}", took.own, took.redis, took.time);
    }
    // What is queued has records beside it, as any mail.
    let records = 200 * (many as u64 / 2);
    assert!(requeued.own < MOST && requeued.redis < MOST + records, "{} {}", requeued.own, requeued.redis);
    // It cannot count what waits at once, and says so.
    let audit = bench.run("audit", &["audit"]).output;
    assert!(audit.lines().any(|line| line.starts_with("difference") && line.ends_with(" 0")), "{audit}");
}
