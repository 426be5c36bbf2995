//! The control plane's server: leadership, the HTTP API, `apply`, samplers, and the host of the engine.

pub mod apply;
pub mod audit;
pub mod current;
pub mod operators;
