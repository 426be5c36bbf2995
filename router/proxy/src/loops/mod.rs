//! What runs beside the requests: proofs, acknowledgements, and the witness's memory.

pub mod acks;
mod probe;
pub mod proofs;
pub mod vouchers;
pub mod witness;
