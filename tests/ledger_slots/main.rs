//! Workers share a budget through a real Redis, and through the simulated one.

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
