//! The audit log: who changed what, written in the same transaction as the change.

use domicile_store::{Key, Op, Record, codec};
use serde::{Deserialize, Serialize};

/// Most lines that one entry names one by one: an entry must fit the registry's limits.
const MOST_LINES: usize = 120;

/// The key `audit/<id>`; ids sort by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, by the leader's wall clock: for people.
    pub at: jiff::Timestamp,
    /// The operator.
    pub by: String,
    /// The control plane that did it.
    pub server: String,
    /// What was done, stable, for programs: `apply`.
    pub action: String,
    /// What it changed, one thing a line.
    pub changed: Vec<String>,
}

impl Record for AuditEntry {
    const NAME: &'static str = "audit entry";
}

impl AuditEntry {
    /// An entry of this moment.
    #[must_use]
    pub fn now(by: &str, server: &str, action: &str, mut changed: Vec<String>) -> Self {
        if changed.len() > MOST_LINES {
            let more = changed.len() - MOST_LINES;
            changed.truncate(MOST_LINES);
            changed.push(format!("and {more} more"));
        }
        Self {
            at: jiff::Timestamp::now(),
            by: by.to_owned(),
            server: server.to_owned(),
            action: action.to_owned(),
            changed,
        }
    }

    /// The write that records it.
    #[must_use]
    pub fn write(&self) -> Op {
        Op::Put(Key::Audit(uuid::Uuid::now_v7()), codec::encode(self), None)
    }
}
