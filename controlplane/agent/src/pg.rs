//! PostgreSQL as the agent handles it: its process, its files, its access rules and its SQL.

pub(crate) mod access;
pub(crate) mod blind;
pub(crate) mod control;
pub mod furniture;
pub(crate) mod local;
pub mod pgoutput;
pub(crate) mod room;
pub(crate) mod sequences;
pub(crate) mod server;
pub(crate) mod words;
