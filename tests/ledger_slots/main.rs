//! Workers share a budget through a real Redis, and through the simulated one.

#![expect(clippy::duplicate_mod, reason = "one contract, two servers that must keep it")]

#[path = "."]
mod real {
    use testkit::RedisServer;
    mod contract;
}

#[path = "."]
mod simulated {
    use simredis::SimRedisServer as RedisServer;
    mod contract;
}
