//! What the fleet is made of. Pure, apart from `files`, which writes it down for the processes.

pub mod commands;
pub mod file;
pub mod files;
pub mod plan;

pub use file::FleetFile;
pub use plan::{Kind, Plan, Unit};
