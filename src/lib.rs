//! mailrelay shares a mail server's connection budget among the pods of a Kubernetes cluster.

pub mod api;
pub mod budget;
pub mod cli;
pub mod controller;
pub mod lease;
pub mod queue;
pub mod smtp;
pub mod store;
pub mod telemetry;
pub mod worker;
