//! The words of the registry: tenants, cells, regions, placements, and the rules that hold among them.
//!
//! Everything here is a value or a pure function. Nothing connects, reads a file or asks a wall clock; the one
//! clock is [`clock::BootTime`], because every decision about who may write rests on durations only.

pub mod approval;
pub mod brake;
pub mod clock;
pub mod closed;
pub mod epoch;
pub mod fence_level;
pub mod fleet;
pub mod host;
pub mod ids;
pub mod invariants;
pub mod links;
pub mod placement;
pub mod proof;
pub mod residency;
pub mod router;
pub mod secret;
pub mod signing;
pub mod token;
pub mod validate;
pub mod witness;
pub mod world;

pub use approval::{Approvals, Change, Need};
pub use brake::{EmergencyStop, Freeze, Moved};
pub use closed::{ClosedCell, StoppedAt};
pub use epoch::{Epoch, Revision};
pub use fence_level::FenceLevel;
pub use fleet::{Cell, Database, DatabaseEndpoint, Fleet, Jurisdiction, Region, Tenant};
pub use host::{HostName, HostPattern};
pub use ids::{
    BootId, CellId, Country, FreezeId, IdError, JurisdictionId, MoveId, RegionId, RouterId, TenantId, WorldId,
};
pub use placement::{ClosedReason, MoveClaim, Phase, Placement, RegionFence, WitnessSet};
pub use residency::{Category, Residency};
pub use router::{BusyCell, Role, RouterState, WitnessState};
pub use secret::{SecretError, SecretRef};
pub use signing::{AgentKey, HandoverSeal, RevokedKey, SigningKey};
pub use token::{HandoverToken, LeaderFence, Token};
pub use witness::{BarredWitness, Silence, WitnessRenewal};
pub use world::{FenceConstants, World};
