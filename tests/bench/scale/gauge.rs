//! What Redis and the API server counted.

use std::{collections::BTreeMap, time::Instant};

use kube::Client;
use redis::aio::MultiplexedConnection;

/// What Redis counted so far.
pub struct Commands {
    at: Instant,
    total: u64,
    /// By the command's name; those that scripts send count too.
    by_name: BTreeMap<String, u64>,
    /// Connections now.
    pub connections: u64,
}

/// What Redis counted from one look to the next, a second.
pub struct CommandRates {
    pub total: f64,
    by_name: Vec<(String, f64)>,
}

impl Commands {
    pub async fn look(connection: &mut MultiplexedConnection) -> Self {
        let mut info = redis::cmd("INFO");
        info.arg("clients").arg("stats").arg("commandstats");
        let text: String = info.query_async(connection).await.expect("INFO");
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a figure of INFO");
            line.trim().parse().expect("a number")
        };
        let by_name = text.lines().filter_map(|line| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        });
        Self {
            at: Instant::now(),
            total: number("total_commands_processed:"),
            by_name: by_name.collect(),
            connections: number("connected_clients:"),
        }
    }

    /// Without the look itself.
    pub fn since(&self, earlier: &Self) -> CommandRates {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let rate = |count: u64, before: u64| figure(count.saturating_sub(before)) / seconds;
        let before = |name: &String| earlier.by_name.get(name).copied().unwrap_or(0);
        let mut by_name: Vec<_> =
            self.by_name.iter().map(|(name, count)| (name.clone(), rate(*count, before(name)))).collect();
        by_name.retain(|(name, rate)| name != "info" && *rate >= 0.05);
        by_name.sort_by(|a, b| b.1.total_cmp(&a.1));
        CommandRates { total: rate(self.total, earlier.total + 1), by_name }
    }
}

impl CommandRates {
    /// The most frequent commands in one line.
    pub fn most(&self) -> String {
        let most: Vec<_> = self.by_name.iter().take(6).map(|(name, rate)| format!("{name} {rate:.1}")).collect();
        most.join(", ")
    }
}

/// What the API server counted so far: requests that write, by verb and resource, but those of Leases.
pub struct Writes {
    at: Instant,
    by_kind: BTreeMap<String, u64>,
}

impl Writes {
    pub async fn look(client: &Client) -> Self {
        let request = axum::http::Request::get("/metrics").body(Vec::new()).expect("a request");
        let text = client.request_text(request).await.expect("the metrics of the API server");
        let mut by_kind = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label = |name: &str| line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            let label = |name: &str| label(name).map_or("", |(value, _)| value);
            let (verb, resource) = (label("verb"), label("resource"));
            if !matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE") || resource == "leases" {
                continue;
            }
            let count: f64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of requests")]
            let count = count as u64;
            *by_kind.entry(format!("{verb} {resource}/{}", label("subresource"))).or_default() += count;
        }
        Self { at: Instant::now(), by_kind }
    }

    /// How many a second since then, and of which kinds.
    pub fn since(&self, earlier: &Self) -> (f64, String) {
        let before = |kind: &String| earlier.by_kind.get(kind).copied().unwrap_or(0);
        let made: Vec<_> = self.by_kind.iter().map(|(kind, count)| (kind, count - before(kind))).collect();
        let made: Vec<_> = made.into_iter().filter(|(_, count)| *count > 0).collect();
        let kinds: Vec<_> = made.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        (figure(made.iter().map(|(_, count)| count).sum()) / seconds, kinds.join(", "))
    }
}

/// A count as a figure.
pub fn figure(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("a count of one run"))
}
