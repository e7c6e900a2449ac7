//! The ledger in Redis does exactly what the pure machine does, and neither lets the sum pass the budget: in a real Redis
//! and in the simulated one.

#![expect(clippy::duplicate_mod, reason = "one contract, two servers that must keep it")]

#[path = "../registration/crowd.rs"]
mod crowd;
mod reads;
#[path = "../registration/mod.rs"]
mod registration;

#[path = "."]
mod real {
    use testkit::RedisServer;
    mod compared;
    mod copies;
    mod exact;
    mod operations;
    mod processes;
    mod releases;
    mod support;
}

#[path = "."]
mod simulated {
    use simredis::SimRedisServer as RedisServer;
    mod compared;
    mod copies;
    mod exact;
    mod operations;
    mod processes;
    mod releases;
    mod support;
}
