//! Figures and behaviour over HTTP: `GET /stats`, `GET /journal`, `GET /behaviour`, `POST /behaviour`. JSON, one request
//! a connection; made for curl and tests, not for the world.

use std::io;

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::state::State;

const LONGEST_REQUEST: usize = 1 << 20;

pub(crate) async fn serve(state: State, mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let (head, body) = loop {
        if let Some((head, body)) = split(&request)
            && request.len() - body >= length(head)
        {
            break (head.to_owned(), &request[body..]);
        }
        if request.len() > LONGEST_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let mut words = head.split_whitespace();
    let (status, answer) = match (words.next(), words.next()) {
        (Some("GET"), Some("/stats")) => ("200 OK", json(&state.stats())),
        (Some("GET"), Some("/journal")) => ("200 OK", json(&state.journal())),
        (Some("GET"), Some("/behaviour")) => ("200 OK", json(&state.behaviour())),
        (Some("POST"), Some("/behaviour")) => match serde_json::from_slice(body) {
            Ok(behaviour) => {
                state.set_behaviour(behaviour);
                ("200 OK", json(&state.behaviour()))
            }
            Err(error) => ("400 Bad Request", json(&error.to_string())),
        },
        _ => ("404 Not Found", json("try /stats, /journal or /behaviour")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

fn json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The head as text and where the body starts.
fn split(request: &[u8]) -> Option<(&str, usize)> {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&request[..end]).unwrap_or_default(), end + 4))
}

fn length(head: &str) -> usize {
    let values = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = values.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}
