//! What was measured of one relay.

use std::collections::BTreeMap;

use crate::{
    api::{ReadError, WorkerReport},
    controller::observe::Safety,
    queue::{Audit, Depths},
};

/// What was measured of one relay, beside the world.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Mails by stage; `None` when Redis did not answer.
    pub depths: Option<Depths>,
    /// Whether every accepted mail is accounted for, as it was looked at last; `None` when it was not yet.
    pub audit: Option<Audit>,
    /// What its workers said of themselves.
    pub reports: Reports,
    /// How Redis keeps its data.
    pub safety: Safety,
}

/// What workers said of themselves, by pod UID.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// What could be read.
    pub read: BTreeMap<String, WorkerReport>,
    /// Pods whose report is of a newer version, and what that says.
    pub newer: BTreeMap<String, String>,
}

impl Reports {
    /// Whether any of them tells of a trouble, of which the end should be seen soon.
    pub fn tell_of_trouble(&self) -> bool {
        let servers = self.read.values().flat_map(|report| &report.servers);
        !self.newer.is_empty() || servers.into_iter().any(|server| server.unavailable.is_some())
    }

    /// Reads reports as they are in Redis. One that makes no sense says nothing.
    pub fn read(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut reports = Self::default();
        for (uid, json) in texts {
            match WorkerReport::read(json.as_bytes()) {
                Ok(report) => drop(reports.read.insert(uid, report)),
                Err(newer @ ReadError::Newer(_)) => drop(reports.newer.insert(uid, newer.to_string())),
                Err(ReadError::Malformed(_)) => {}
            }
        }
        reports
    }
}
