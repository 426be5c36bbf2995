//! The types of the HTTP API and of the agent's API, written once: server, command line, agent, provider, chaos and
//! the OpenAPI document all use these.

pub mod agent;
pub mod archive;
pub mod keys;
pub mod moves;
pub mod problem;
pub mod protection;
pub mod reports;
pub mod views;
pub mod witnesses;
