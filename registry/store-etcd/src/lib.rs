//! The registry's store on etcd: the only crate that knows `etcd-client`.
//!
//! One client for each member and no balancer between them: a read that a member does not answer is asked of the next
//! one, a commit that a member may have taken is never sent twice ([`domicile_store::StoreError::UnknownOutcome`]).
//! Everything has a time limit. Connecting does no I/O; the first read proves that the registry is there.

mod answer;
mod config;
mod failure;
mod members;
mod room;
mod store;
mod watch;

pub use config::{ConfigError, DEFAULT_PREFIX, EtcdConfig, Sabotage};
pub use store::EtcdStore;
