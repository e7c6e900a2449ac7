//! Two servers side by side: the same words to both, the replies of both as bytes.

use std::time::Duration;

use simredis::SimRedis;
use testkit::RedisServer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Stand for the id of the run and of the replication, in words and in replies; as long as these.
pub const RUN: &str = "RRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR";
pub const REPLICATION: &str = "PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP";

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub type Words = Vec<Vec<u8>>;

pub fn words(parts: &[&str]) -> Words {
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}

pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

pub fn shown_words(words: &Words) -> String {
    words.iter().map(|word| format!("\"{}\"", shown(word))).collect::<Vec<_>>().join(" ")
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection to one server.
pub struct Client {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    run: Vec<u8>,
    replication: Vec<u8>,
}

impl Client {
    async fn new(stream: impl Stream + 'static) -> Self {
        let mut client = Self { stream: Box::new(stream), input: Vec::new(), run: Vec::new(), replication: Vec::new() };
        let info = client.ask(&words(&["INFO", "server", "replication"])).await;
        let info = String::from_utf8(info).expect("INFO is text");
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a field of INFO");
            line.as_bytes().to_vec()
        };
        (client.run, client.replication) = (field("run_id:"), field("master_replid:"));
        client
    }

    pub async fn send(&mut self, words: &Words) {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let mut word = word.clone();
            if !self.run.is_empty() {
                replace(&mut word, RUN.as_bytes(), &self.run);
                replace(&mut word, REPLICATION.as_bytes(), &self.replication);
            }
            request.extend(format!("${}\r\n", word.len()).into_bytes());
            request.extend(word);
            request.extend(b"\r\n");
        }
        self.stream.write_all(&request).await.expect("the server takes it");
    }

    /// The next reply or message, whole.
    pub async fn receive(&mut self) -> Vec<u8> {
        let length = loop {
            if let Some(length) = reply_length(&self.input) {
                break length;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            let read = read.unwrap_or_else(|_| panic!("no reply within {PATIENCE:?}")).expect("a reply");
            assert_ne!(read, 0, "the server closed the connection; read so far: {}", shown(&self.input));
        };
        let mut reply: Vec<u8> = self.input.drain(..length).collect();
        if !self.run.is_empty() {
            replace(&mut reply, &self.run, RUN.as_bytes());
            replace(&mut reply, &self.replication, REPLICATION.as_bytes());
        }
        reply
    }

    pub async fn ask(&mut self, words: &Words) -> Vec<u8> {
        self.send(words).await;
        self.receive().await
    }
}

/// The same number of bytes in the place of others.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(old.len()).position(|window| window == old) {
        at += found;
        bytes[at..at + new.len()].copy_from_slice(new);
        at += new.len();
    }
}

/// The length of the reply at the front, when it is all there.
fn reply_length(input: &[u8]) -> Option<usize> {
    let end = input.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&input[1..end - 2]).ok()?.parse::<i64>().ok();
    match input[0] {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => (input.len() >= end + length + 2).then_some(end + length + 2),
            Err(_) => Some(end),
        },
        b'*' => {
            let mut at = end;
            for _ in 0..number()? {
                at += reply_length(input.get(at..)?)?;
            }
            Some(at)
        }
        _ => Some(end),
    }
}

/// The parts of a reply that is an array, each whole; `None` when it is something else.
pub fn parts(reply: &[u8]) -> Option<Vec<Vec<u8>>> {
    if reply.first() != Some(&b'*') {
        return None;
    }
    let mut at = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let mut parts = Vec::new();
    while at < reply.len() {
        let length = reply_length(&reply[at..])?;
        parts.push(reply[at..at + length].to_vec());
        at += length;
    }
    Some(parts)
}

/// A connection to each of the two.
pub struct Pair {
    pub real: Client,
    pub simulated: Client,
    /// What [`Pair::simulated`] is connected to.
    pub data: SimRedis,
}

impl Pair {
    pub async fn connect(real: &RedisServer, simulated: &SimRedis) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", real.port())).await.expect("redis-server listens");
        stream.set_nodelay(true).expect("a socket");
        let client = Client::new(simulated.connect().expect("it runs")).await;
        Self { real: Client::new(stream).await, simulated: client, data: simulated.clone() }
    }

    pub async fn send(&mut self, words: &Words) {
        self.real.send(words).await;
        self.simulated.send(words).await;
    }

    /// What both say: the real one first.
    pub async fn receive(&mut self) -> (Vec<u8>, Vec<u8>) {
        (self.real.receive().await, self.simulated.receive().await)
    }

    pub async fn ask(&mut self, words: &Words) -> (Vec<u8>, Vec<u8>) {
        self.send(words).await;
        self.receive().await
    }
}
