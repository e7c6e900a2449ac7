//! Leases: sharing a connection budget so that one connection too many cannot open.
