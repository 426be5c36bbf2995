//! The router's decisions, without any transport: identify, resolve, admit, hold, prove, witness.
//!
//! Nothing here connects, waits or reads a clock; the one thing that touches a disk is the witness's journal, because
//! what a witness may say depends on what is on its disk. The proxy around it is `domicile-router`.

pub mod admit;
pub mod bearer;
pub mod ending;
pub mod errors;
pub mod facts;
pub mod headers;
pub mod hold;
pub mod identify;
pub mod inflight;
pub mod mllp;
pub mod pass;
pub mod proofs;
pub mod standing;
#[cfg(test)]
mod testing;
pub mod websocket;
pub mod wire;
pub mod witness;
pub mod writer;

pub use errors::{Cause, Problem};
