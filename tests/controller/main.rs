//! The controller's writes, against a real Redis; no Kubernetes is needed.

mod durability;
mod leaders;
mod losses;
mod pools;
mod records;
#[path = "../registration/mod.rs"]
mod registration;
mod retention;
mod support;
