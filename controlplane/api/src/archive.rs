//! The archive, as the API shows it.

use serde::{Deserialize, Serialize};

/// `GET /v1/archive`: what has left the registry, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveView {
    /// The control plane that answered.
    pub server: String,
    /// Whether it keeps a copy itself.
    pub keeps: bool,
    /// The chain's name; none before the first segment.
    pub chain: Option<String>,
    /// The registry's head as `SEGMENT:LINK:DIGEST`, for `domicile archive verify --head`.
    pub head: Option<String>,
    /// Keys of the registry that were archived in all.
    pub links: u64,
    /// The copies.
    pub copies: Vec<CopyView>,
    /// The ids of the keys that segments are sealed with, with their owners.
    pub keys: Vec<(String, String)>,
    /// Why the answering control plane archives no more at present, if it leads and something holds it up.
    pub waiting: Option<String>,
}

/// The copy of one control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyView {
    /// Whose.
    pub server: String,
    /// The last segment that it holds.
    pub segment: u64,
    /// Whether that is the head, or beyond.
    pub complete: bool,
}

/// `POST /v1/archive`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRequest {
    /// Say what would leave the registry, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was archived, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// Segments that were sealed and counted.
    pub segments: u64,
    /// Keys that left the registry.
    pub keys: u64,
    /// Keys that may leave and have not.
    pub left: u64,
    /// Why not.
    pub waiting: Option<String>,
}

/// Most entries of the audit log in one answer.
pub const MOST_AUDITED: usize = 10_000;

/// What of the audit log is asked for: `GET /v1/audit?…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditQuery {
    /// At most so many, 1 to [`MOST_AUDITED`]; none: 100.
    pub limit: Option<usize>,
    /// Older than the entry of this id: the next page.
    pub before: Option<String>,
    /// Of this person only.
    pub by: Option<String>,
    /// Of this action only: `apply`, `start-move`…
    pub action: Option<String>,
}

/// The audit log, what has left the registry included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// The control plane that answered.
    pub server: String,
    /// Newest first.
    pub entries: Vec<AuditLine>,
    /// Whether older ones match as well.
    pub more: bool,
    /// Whether this rests on the whole log: the registry, and all that has left it, checked segment by segment, seal by
    /// seal, up to the registry's head.
    pub whole: bool,
    /// The head up to which it was checked, as `SEGMENT:LINK:DIGEST`; none where nothing has left the registry.
    pub head: Option<String>,
    /// Entries that can't be read: a newer program wrote them, or they are damaged.
    pub unreadable: u64,
    /// Why it is not the whole log.
    pub problem: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its id; ids sort by time.
    pub id: String,
    /// When, by the leader's wall clock.
    pub at: jiff::Timestamp,
    /// Who.
    pub by: String,
    /// The control plane, or the machine, that did it.
    pub server: String,
    /// What was done, stable, for programs.
    pub action: String,
    /// What it changed, and why where that was asked for.
    pub changed: Vec<String>,
    /// The sealed segment that it lies in; none: in the registry.
    pub segment: Option<u64>,
}
