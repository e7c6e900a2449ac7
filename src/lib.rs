//! mailrelay shares a mail server's connection budget among the pods of a Kubernetes cluster.

pub mod api;
pub mod store;
