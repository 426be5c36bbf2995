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
