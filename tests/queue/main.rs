//! The queue against a real Redis.

mod arrivals;
mod claims;
mod letters;
mod model;
mod recovery;
mod support;
