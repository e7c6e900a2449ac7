//! The queue against a real Redis.

mod arrivals;
mod claims;
mod cluster;
mod letters;
mod model;
mod recovery;
mod support;
