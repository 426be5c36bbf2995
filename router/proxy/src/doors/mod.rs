//! The listeners that take no user traffic: one for people and probes, one for gates and agents.

pub mod admin;
pub mod peer;
pub mod wire;
