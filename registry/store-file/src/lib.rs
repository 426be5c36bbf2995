//! The registry's store read from regions.toml: a router needs no server to be tried.
//!
//! What the file says is what is: each cell is served from its `primary`, and an edit of that *is* the move. The file
//! is looked at several times a second; an edit that makes sense becomes one revision, with an event for each key
//! that it changes. A broken edit changes nothing and is reported.
//!
//! There is one process and no proof: epochs live in memory and begin at one with each start. So give a mirror of
//! this store no last-good file; the file itself is the last good one.

mod content;
mod store;
#[cfg(test)]
mod tests;
mod watcher;

pub use store::{FileStore, OpenError};
