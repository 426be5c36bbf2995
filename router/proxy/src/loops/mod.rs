//! What runs beside the requests: proofs, acknowledgements, and the witness's memory.

use std::time::Duration;

pub mod acks;
pub mod proofs;
pub mod vouchers;
pub mod witness;

/// How long the registry may take for one call. Routers stand in every region, some of them far from a majority of it:
/// one whose answers come seconds late still hears, proves and acknowledges in time for a hold. A question is asked of
/// the next member long before that; a commit can't be.
pub const REGISTRY_CALL: Duration = Duration::from_secs(5);
