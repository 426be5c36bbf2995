//! What the fleet is made of: the example's regions, cells and tenants, and the processes that carry them on one
//! machine. Pure, apart from `files`, which writes it down for the processes.

pub mod commands;
pub mod example;
pub mod file;
pub mod files;
pub mod plan;

pub use file::FleetFile;
pub use plan::{Kind, Plan, Unit};
