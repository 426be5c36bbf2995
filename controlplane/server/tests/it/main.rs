//! Control planes on the in-process store, asked over HTTP.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

mod agents;
mod api;
mod approvals;
mod archive;
mod brakes;
mod common;
mod doors;
mod facts;
mod losses;
mod operators;
mod reconcile;
mod room;
mod service;
mod stuck;
mod witnesses;
