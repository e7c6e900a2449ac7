//! Two tenants in one Redis, each with the logins that `mailrelay redis-acl --apply` makes: whole lives of mail under them, and
//! what one can do to the other.

mod borrowers;
mod command;
mod house;
mod keys;
mod life;
#[path = "../replica/mod.rs"]
mod replica;
