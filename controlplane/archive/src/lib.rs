//! What has left the registry: sealed, chained segments in a directory.
//!
//! One segment is one file, `segments/segment-000000000042.jsonl`: a line for each key that was removed from the registry
//! ([`Item`]) as a link of one hash chain through all segments, and the signed seal as the last line
//! ([`domicile_seal::chain`]). Every copy of the archive holds the same bytes. [`verify`](verify::verify) checks a copy
//! without any server; how far the chain must reach only the registry knows (`archive/head`).
//!
//! This crate knows no registry: it reads and writes files, and is bounded in what it reads.

mod directory;
mod item;
pub mod verify;

pub use directory::{ArchiveError, Directory};
pub use item::{Item, items, seal};
pub use verify::{End, Finding, Report, verify};
