//! The workflow engine and the moves of a cell: durable, fenced, resumable.

pub mod provider;
