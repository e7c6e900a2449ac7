//! A slow link in front of a TCP server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Bytes that go at once.
const BLOCK: usize = 16 * 1024;

/// A link that carries so many bytes a second each way, all connections together, each in its turn. Dropping it takes no
/// more of them.
#[derive(Debug)]
pub struct SlowLink {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// When one direction is free again.
type Free = Arc<Mutex<Instant>>;

impl SlowLink {
    /// A link to `target` on a free port. Fails when there is none.
    pub async fn open(target: SocketAddr, bytes_per_second: u32) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let [up, down]: [Free; 2] = std::array::from_fn(|_| Arc::new(Mutex::new(Instant::now())));
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(target).await else { return };
                let ((client_out, client_in), (server_out, server_in)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(client_out, server_in, Arc::clone(&up), bytes_per_second));
                tokio::spawn(carry(server_out, client_in, Arc::clone(&down), bytes_per_second));
            }
        });
        Ok(Self { address, task })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, free: Free, rate: u32) {
    let mut block = vec![0; BLOCK];
    while let Ok(count @ 1..) = from.read(&mut block).await {
        let arrives = {
            let mut free = free.lock().await;
            let takes = Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / rate;
            *free = (*free).max(Instant::now()) + takes;
            *free
        };
        sleep_until(arrives).await;
        if to.write_all(&block[..count]).await.is_err() {
            return;
        }
    }
}
