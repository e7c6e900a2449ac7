//! The simulated Redis behind a port, in the place of a real one.

use testkit::{Persistence, free_port};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};

use crate::SimRedis;

/// Does what [`testkit::RedisServer`] does, without a process: a test that runs against the one runs against the other.
pub struct SimRedisServer {
    redis: SimRedis,
    persistence: Persistence,
    port: u16,
    /// Of its own: the test's may stand still, or be of one thread that is busy.
    runtime: Option<Runtime>,
    door: Option<JoinHandle<()>>,
}

impl SimRedisServer {
    /// Starts one on loopback.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(persistence: Persistence) -> Self {
        let redis = SimRedis::new(0);
        if persistence == Persistence::Off {
            redis.configure("appendonly", "no");
            redis.configure("appendfsync", "no");
            redis.configure("save", "");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut server =
            Self { redis, persistence, port: free_port(), runtime: Some(runtime.expect("a runtime")), door: None };
        server.open();
        server
    }

    fn open(&mut self) {
        let runtime = self.runtime.as_ref().expect("it runs until it is dropped");
        let listener = std::net::TcpListener::bind(("127.0.0.1", self.port)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let redis = self.redis.clone();
        self.door = Some(runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener for tokio");
            redis.listen(listener).await.expect("clients");
        }));
    }

    /// `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends as by SIGKILL; who connects is refused.
    pub fn crash(&mut self) {
        self.redis.crash();
        if let Some(door) = self.door.take() {
            door.abort();
            // Aborting only asks; the port is free when the task is gone.
            while !door.is_finished() {
                std::thread::yield_now();
            }
        }
    }

    /// Starts again on the same port with what was persisted.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn resume(&mut self) {
        match self.persistence {
            Persistence::Always => self.redis.restart(),
            Persistence::Off => self.redis.restart_empty(),
        }
        self.open();
    }

    /// Stops as by SIGSTOP.
    pub fn pause(&self) {
        self.redis.freeze();
    }

    /// Goes on as by SIGCONT.
    pub fn unpause(&self) {
        self.redis.thaw();
    }
}

impl Drop for SimRedisServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped inside another runtime, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}
