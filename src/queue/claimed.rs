//! A mail in the hands of a process.

use std::sync::Arc;

use bytes::Bytes;

use super::{ClaimId, Header, room::Share};
use crate::mail::Mail;

/// A mail in the hands of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Names the claim.
    pub claim_id: ClaimId,
    /// What is known of the mail.
    pub header: Header,
    /// The mail; `recipients` are those still to be sent to.
    pub mail: Mail,
    /// The producer's bytes, as they lay in the list.
    pub payload: Bytes,
    /// The JSON, when the list held only an id.
    pub fetched: Option<Bytes>,
    /// To be sent with nothing beside it: it was being sent when processes crashed.
    pub alone: bool,
    /// Its part of the memory that the process may use.
    pub(super) share: Arc<Share>,
}
