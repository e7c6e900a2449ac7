//! The queue in a real Redis, and in the simulated one.

#![expect(clippy::duplicate_mod, reason = "one contract, two servers that must keep it")]

/// One slot for each script: only a real Redis can be in Cluster mode.
mod cluster;

#[path = "."]
mod real {
    use testkit::RedisServer;
    mod arrivals;
    mod claims;
    mod courier;
    mod events;
    mod identity;
    mod letters;
    /// A simulated one has no memory of its own.
    mod memory;
    mod model;
    /// A simulated one has no users.
    mod payloads;
    mod presence;
    /// The simulated one does not say what a key takes.
    mod records;
    mod recovery;
    mod room;
    mod silence;
    mod slow;
    mod sums;
    pub mod support;
    mod twice;
}

#[path = "."]
mod simulated {
    use simredis::SimRedisServer as RedisServer;
    mod arrivals;
    mod claims;
    mod courier;
    mod events;
    mod identity;
    mod letters;
    mod model;
    mod presence;
    mod recovery;
    mod room;
    mod silence;
    mod sums;
    mod support;
    mod twice;
}
