//! One fault stays where it is: a whole controller, against a real Redis and an API server. Whatever is wrong with one relay,
//! one ledger, one pod or one object, the others are planned, published and recovered all the same.
//!
//! | file | what is wrong |
//! |---|---|
//! | `ledgers` | what one pool's ledger, or one relay's record, holds |
//! | `ownership` | what a relay asks for |
//! | `pods` | what runs in a pod |
//! | `statuses` | how much there is to tell |
//! | `looks` | a ledger behind the leader's back, who looks at it only when its twin, time or the plan says so |
//! | `marks` | the `ConfigMap` in which the leader writes down what must outlive Redis |

mod house;
mod ledgers;
mod looks;
mod marks;
mod ownership;
mod pods;
#[path = "../registration/mod.rs"]
mod registration;
#[path = "../replica/mod.rs"]
mod replica;
mod statuses;
