//! A door in front of a TCP server: connections pass through it, late, or not at all, or to another server.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 14;
/// Chunks under way in one direction of one connection; beyond, the sender has to wait.
const UNDER_WAY: usize = 1 << 10;

/// What a door does with its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    target: SocketAddr,
    /// For each direction.
    delay: Duration,
    frozen: Frozen,
    trap: Option<Trap>,
    /// Connections of an older generation are closed.
    generation: u64,
}

/// Bytes from a client that freeze the door.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trap {
    bytes: Vec<u8>,
    frozen: Frozen,
    /// Whether the piece that they are part of passes nevertheless.
    passes: bool,
}

/// What does not pass; more from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Frozen {
    Nothing,
    /// What servers say.
    Answers,
    Everything,
}

/// A door: it ends TCP itself on both sides, so sessions are to be counted at the server behind it. Dropping it closes
/// all its connections.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    plan: watch::Sender<Plan>,
    task: JoinHandle<()>,
}

impl Door {
    /// Opens a door on a free port of `listen` that leads to `target`. Fails when there is no such address.
    pub async fn open(listen: IpAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((listen, 0)).await?;
        let address = listener.local_addr()?;
        let plan = Plan { target, delay: Duration::ZERO, frozen: Frozen::Nothing, trap: None, generation: 0 };
        let plan = watch::Sender::new(plan);
        let task = tokio::spawn(accept(listener, plan.clone()));
        Ok(Self { address, plan, task })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on everything, the end of a connection too, takes so long in each direction. The connection itself is
    /// taken at once: the door knows of no SYN.
    pub fn delay(&self, each_way: Duration) {
        self.plan.send_modify(|plan| plan.delay = each_way);
    }

    /// Nothing passes any more, in either direction, and nobody is told; [`Door::thaw`] lets go on what was held back.
    pub fn freeze(&self) {
        self.plan.send_modify(|plan| plan.frozen = Frozen::Everything);
    }

    /// Freezes as soon as a client sends this, in one piece, and once: what it is part of is held back too.
    pub fn freeze_at(&self, bytes: impl AsRef<[u8]>) {
        self.trap(bytes.as_ref(), Frozen::Everything, false);
    }

    /// The same, but that piece, and what the client sent before it, still passes: neither its answer nor anything behind it.
    pub fn freeze_behind(&self, bytes: impl AsRef<[u8]>) {
        self.trap(bytes.as_ref(), Frozen::Everything, true);
    }

    /// The same, but what clients send, that piece too, still passes: only no answer does.
    pub fn freeze_answers_at(&self, bytes: impl AsRef<[u8]>) {
        self.trap(bytes.as_ref(), Frozen::Answers, true);
    }

    fn trap(&self, bytes: &[u8], frozen: Frozen, passes: bool) {
        self.plan.send_modify(|plan| plan.trap = Some(Trap { bytes: bytes.to_vec(), frozen, passes }));
    }

    /// Whether it is.
    pub fn is_frozen(&self) -> bool {
        self.plan.borrow().frozen != Frozen::Nothing
    }

    /// Waits until it is frozen.
    pub async fn frozen(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.plan.subscribe().wait_for(|plan| plan.frozen != Frozen::Nothing).await;
    }

    /// The end of being frozen, and of waiting for bytes to freeze at.
    pub fn thaw(&self) {
        self.plan.send_modify(|plan| (plan.frozen, plan.trap) = (Frozen::Nothing, None));
    }

    /// From now on the door leads to another server; present connections are closed and what is under way is lost.
    pub fn lead_to(&self, target: SocketAddr) {
        self.plan.send_modify(|plan| {
            plan.target = target;
            plan.generation += 1;
        });
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, plan: watch::Sender<Plan>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(pass(stream, plan.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(near: TcpStream, plan: watch::Sender<Plan>) {
    let Plan { target, generation, .. } = *plan.borrow();
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let passing = async {
        tokio::join!(
            one_way(near_read, far_write, &plan, Frozen::Everything, |chunk, let_pass| spring(&plan, chunk, let_pass)),
            one_way(far_read, near_write, &plan, Frozen::Answers, |_, _| ())
        )
    };
    let mut closing = plan.subscribe();
    tokio::select! {
        // What a closed connection held back does not pass, even if the door is thawed in the same moment.
        biased;
        _ = closing.wait_for(|plan| plan.generation != generation) => {}
        _ = passing => {}
    }
}

/// Freezes the door if this is what it waits for, after the chunk was let pass if it is to.
fn spring(plan: &watch::Sender<Plan>, chunk: &[u8], let_pass: &dyn Fn()) {
    plan.send_if_modified(|plan| {
        let caught = plan.trap.take_if(|trap| chunk.windows(trap.bytes.len()).any(|window| window == trap.bytes));
        if let Some(Trap { frozen, passes, .. }) = &caught {
            if *passes {
                let_pass();
            }
            plan.frozen = *frozen;
        }
        caught.is_some()
    });
}

/// Carries bytes and then the end from one side to the other, and shows them before, with what lets them and all before them
/// pass though the door is frozen; `stops` says how far it must be to hold them. A side that is reset is closed like one that
/// ended.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: &watch::Sender<Plan>,
    stops: Frozen,
    show: impl Fn(&[u8], &dyn Fn()),
) {
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    // How many chunks pass in any case.
    let free = AtomicU64::new(0);
    let reading = async {
        let late = late;
        let mut buffer = vec![0; CHUNK];
        for number in 1.. {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            show(&buffer[..read], &|| free.store(number, Ordering::Relaxed));
            let delay = plan.borrow().delay;
            if late.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() || read == 0 {
                return;
            }
        }
    };
    let mut frozen = plan.subscribe();
    let writing = async {
        let mut number = 0;
        while let Some((at, bytes)) = due.recv().await {
            number += 1;
            sleep_until(at).await;
            let open =
                frozen.wait_for(|plan| plan.frozen < stops || number <= free.load(Ordering::Relaxed)).await.is_ok();
            if !open || bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
