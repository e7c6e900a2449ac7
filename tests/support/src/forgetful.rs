//! A box on the way to a server that forgets connections: a NAT without its state, a load balancer, a firewall.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 14;

#[derive(Clone, Debug, Default)]
struct Plan {
    /// Connections of an older generation are forgotten.
    generation: u64,
    after: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
    pause: Duration,
    forgotten: usize,
}

/// A box that passes connections on until it forgets them: the client's side is then reset, and the server is told
/// nothing: its side stands until this is dropped.
#[derive(Debug)]
pub struct ForgetfulBox {
    address: SocketAddr,
    plan: watch::Sender<Plan>,
    task: JoinHandle<()>,
}

impl ForgetfulBox {
    /// Opens one on a free port of loopback, before the server at `target`. Fails when no port is free.
    pub async fn open(target: SocketAddr) -> io::Result<Self> {
        Self::open_on(Ipv4Addr::LOCALHOST.into(), target).await
    }

    /// The same on a free port of another address.
    pub async fn open_on(listen: IpAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((listen, 0)).await?;
        let address = listener.local_addr()?;
        let plan = watch::Sender::new(Plan::default());
        let task = tokio::spawn(accept(listener, target, plan.clone()));
        Ok(Self { address, plan, task })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets the connections that there are, `count` of them at least; they have been reset when this returns.
    pub async fn forget(&self, count: usize) {
        let wanted = self.forgotten() + count;
        self.plan.send_modify(|plan| plan.generation += 1);
        // The sender is ours, so this cannot fail.
        let _ = self.plan.subscribe().wait_for(|plan| plan.forgotten >= wanted).await;
    }

    /// From now on each connection is forgotten `pause` after the server said this, in one piece.
    pub fn forget_after(&self, bytes: impl AsRef<[u8]>, pause: Duration) {
        self.plan.send_modify(|plan| (plan.after, plan.pause) = (Some(bytes.as_ref().to_vec()), pause));
    }

    /// From now on each connection is forgotten when the client says this, in one piece; the server does not hear it.
    pub fn forget_before(&self, bytes: impl AsRef<[u8]>) {
        self.plan.send_modify(|plan| plan.before = Some(bytes.as_ref().to_vec()));
    }

    /// How many connections were forgotten so far.
    pub fn forgotten(&self) -> usize {
        self.plan.borrow().forgotten
    }
}

impl Drop for ForgetfulBox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, plan: watch::Sender<Plan>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(pass(near, target, plan.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr, plan: watch::Sender<Plan>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let generation = plan.borrow().generation;
    let mut changes = plan.subscribe();
    let forgets = {
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let there = carry(&mut near_read, &mut far_write, |chunk| {
            if found(chunk, plan.borrow().before.as_ref()) { Pass::NotThis } else { Pass::Yes }
        });
        let back = carry(&mut far_read, &mut near_write, |chunk| {
            let plan = plan.borrow();
            if found(chunk, plan.after.as_ref()) { Pass::Last(plan.pause) } else { Pass::Yes }
        });
        // Both directions must end for the connection to be over; one that is forgotten is so in both.
        tokio::select! {
            forgets = async { tokio::try_join!(there, back).is_err() } => forgets,
            _ = changes.wait_for(|plan| plan.generation != generation) => true,
        }
    };
    if forgets {
        // A socket that is closed so sends RST at once, whatever is unread or unsent.
        let _ = near.set_zero_linger();
        drop(near);
        plan.send_modify(|plan| plan.forgotten += 1);
        std::future::pending::<()>().await;
    }
    drop(far);
}

enum Pass {
    Yes,
    NotThis,
    Last(Duration),
}

struct Forget;

/// Carries bytes and then the end; an error when the connection is to be forgotten.
async fn carry(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    judge: impl Fn(&[u8]) -> Pass,
) -> Result<(), Forget> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let chunk = &buffer[..read];
        let pass = judge(chunk);
        if matches!(pass, Pass::NotThis) {
            return Err(Forget);
        }
        if read == 0 || to.write_all(chunk).await.is_err() {
            let _ = to.shutdown().await;
            return Ok(());
        }
        if let Pass::Last(pause) = pass {
            tokio::time::sleep(pause).await;
            return Err(Forget);
        }
    }
}

fn found(chunk: &[u8], wanted: Option<&Vec<u8>>) -> bool {
    wanted.is_some_and(|wanted| chunk.windows(wanted.len()).any(|window| window == &wanted[..]))
}
