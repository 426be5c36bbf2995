//! A router's copy of the registry: list-then-watch, the routing table, and the last-good file.
//!
//! [`Mirror::start`] follows a store and keeps a [`RoutingTable`] that the request path reads without waiting for
//! anybody. The table is an immutable value; a change builds only what changed. What goes wrong between router and
//! registry (cut streams, compaction, servers that fall behind, another history) is handled in [`watch`].

pub mod entry;
pub mod freshness;
mod lastgood;
pub mod mirror;
pub mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod watch;

pub use entry::{CellEntry, Placed, TenantEntry};
pub use freshness::{Freshness, Source};
pub use lastgood::LastGoodError;
pub use mirror::{Counts, Mirror, Options, RefreshError};
pub use table::{Applied, Refusal, Relisted, RoutingTable};
