//! One command that comes late: it is held back until its repetition is on its way, and takes effect just before it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use mailrelay::{
    queue::Queue,
    store::{Store, StoreOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::support::*;

#[derive(Default)]
struct Plan {
    /// What the command contains.
    digest: Option<String>,
    /// The command, and both ends of its connection.
    held: Option<(Vec<u8>, TcpStream, TcpStream)>,
}

/// A way to the fixture's Redis on which a command can be held back.
pub struct Detour {
    pub queue: Queue,
    plan: Arc<Mutex<Plan>>,
    task: JoinHandle<()>,
}

impl Detour {
    pub async fn open(fixture: &Fixture) -> Self {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, fixture.redis.port()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let plan = Arc::<Mutex<Plan>>::default();
        let all = plan.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.expect("Redis is there");
                tokio::spawn(pass(near, far, all.clone()));
            }
        });
        let store = Store::new(&StoreOptions::from_url(format!("redis://{address}"))).expect("options");
        let queue = Queue::new(store, names());
        // Loads the scripts of a claim, so that each is one command from now on.
        fixture.push("mail_queue", mail("warm")).await;
        assert_eq!(queue.claim(ONE, "pod", 1, NOW).await.expect("claim").mails.len(), 1);
        Self { queue, plan, task }
    }

    /// From now on the next command with this digest comes late.
    pub fn hold(&self, digest: String) {
        self.plan.lock().expect("no panic").digest = Some(digest);
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut near: TcpStream, mut far: TcpStream, plan: Arc<Mutex<Plan>>) {
    let mut command = vec![0; 1 << 16];
    let mut answer = vec![0; 1 << 16];
    loop {
        tokio::select! {
            read = near.read(&mut command) => {
                let Ok(length @ 1..) = read else { return };
                let command = &command[..length];
                let earlier = {
                    let mut plan = plan.lock().expect("no panic");
                    let is_it = plan.digest.as_ref().is_some_and(|digest| {
                        command.windows(digest.len()).any(|words| words == digest.as_bytes())
                    });
                    if is_it && plan.held.is_none() {
                        plan.held = Some((command.to_vec(), near, far));
                        return;
                    }
                    if is_it { plan.digest = None; plan.held.take() } else { None }
                };
                if let Some((late, _near, mut its_far)) = earlier {
                    its_far.write_all(&late).await.expect("sent");
                    assert!(its_far.read(&mut answer).await.expect("it took effect") > 0);
                    far.write_all(command).await.expect("sent");
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                    return;
                }
                if far.write_all(command).await.is_err() { return }
            }
            read = far.read(&mut answer) => {
                let Ok(length @ 1..) = read else { return };
                if near.write_all(&answer[..length]).await.is_err() { return }
            }
        }
    }
}
