//! The queue against a real Redis.

mod arrivals;
mod claims;
mod figures;
mod letters;
mod model;
mod recovery;
mod support;
