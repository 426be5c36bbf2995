//! Backup, restore and rebuild of the registry.
pub mod content;
pub mod decide;
pub mod file;
