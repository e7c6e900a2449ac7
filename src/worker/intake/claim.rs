//! A claim on its way.

use std::collections::VecDeque;

use crate::{
    queue::{Batch, Queue},
    store::StoreError,
    worker::{pace::Permits, requests::Wish},
};

/// A claim on its way, with the sessions it is for.
pub(super) struct Claim {
    pub(super) queue: Queue,
    pub(super) sessions: VecDeque<Wish>,
    /// Leave for their mails; sessions of servers for which there was none get nothing this time.
    pub(super) permits: Vec<Permits>,
    pub(super) wanted: usize,
    pub(super) claimed: Result<Batch, StoreError>,
}
