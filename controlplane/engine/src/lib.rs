//! The workflow engine and the moves of a cell: durable, fenced, resumable.
//!
//! A workflow is a record plus an append-only log in the registry ([`record`]). Every edge of it is one transaction
//! that compares the world, the leader and the record's revision ([`run`]). Intent is written before an effect, the
//! result after; whoever resumes looks before it acts ([`effect`]). The moves themselves read top to bottom like a
//! runbook ([`definitions`]). The engine knows no SQL and no HTTP: [`provider::Databases`] does.

mod approval;
mod brakes;
pub mod building;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod definitions;
pub mod drift;
mod drive;
mod effect;
pub mod engine;
pub mod error;
pub mod failpoint;
#[cfg(any(test, feature = "conformance"))]
pub mod faults;
pub mod fence_level;
pub mod lossmath;
pub mod options;
mod plan;
pub mod precheck_losses;
mod prechecks;
pub mod provider;
pub mod record;
pub mod renewal;
pub mod retention;
pub mod room;
mod routers;
mod run;
pub mod sampling;
mod service;
mod snapshot;
mod start;
mod strike;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
mod undo;
mod verbs;
pub mod witnesses;

pub use engine::{Engine, LeadEnd};
pub use error::MoveError;
pub use failpoint::{FailpointError, FailpointSet, Failpoints, NoFailpoints, Point};
pub use options::Options;
pub use sampling::Sampler;
pub use service::Service;
pub use start::may_start;
pub use strike::Destroyed;
pub use verbs::{Consent, Said};
