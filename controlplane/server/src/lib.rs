//! The control plane's server: leadership, the HTTP API, `apply`, samplers, and the host of the engine.
//!
//! [`serve::Server`] joins them. Reads are answered by every control plane from the registry, changes by the leader
//! under its fence; `apply` ([`apply`]) changes the fleet and moves nothing, the engine moves cells.

mod agents;
pub mod app;
pub mod apply;
pub mod archive;
pub mod audit;
mod causes;
pub mod current;
pub mod doors;
pub mod facts;
mod http;
mod lead;
pub mod metrics;
pub mod operators;
pub mod protection;
mod reconcile;
mod reports;
pub mod room;
mod roster;
mod samples;
pub mod serve;
pub mod views;
pub mod waiting;

pub use causes::chain;
pub use doors::Limits;
pub use operators::{Operator, Operators, OperatorsError};
pub use serve::{Config, ServeError, Server};
pub use tokio_util::sync::CancellationToken;
