//! What routers say about themselves.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::epoch::Revision;
use crate::ids::{BootId, CellId, RegionId, RouterId, WorldId};

/// What a router is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes user traffic, anywhere, and forwards it to the active region.
    Edge,
    /// Stands in front of the application inside a region and refuses what does not belong there.
    Gate,
}

/// The key `routers/<id>`, under a lease: says that a router is probably there. No safety rests on the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterState {
    /// Fixed identity.
    pub id: RouterId,
    /// Edge or gate.
    pub role: Role,
    /// Where it runs.
    pub region: RegionId,
    /// This life of the process.
    pub boot: BootId,
    /// The world that it follows.
    pub world: WorldId,
    /// The revision that its table has applied.
    pub applied: Revision,
    /// Cells in transition that still have requests in flight here.
    pub busy: BTreeSet<BusyCell>,
    /// Where it takes traffic.
    pub listen: SocketAddr,
}

/// A cell in transition whose requests are not finished yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BusyCell {
    /// The cell.
    pub cell: CellId,
    /// Requests in flight.
    pub in_flight: u64,
}

/// The key `witnesses/<id>`, not under a lease: what a witness has promised survives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessState {
    /// Fixed identity.
    pub id: RouterId,
    /// Where it runs.
    pub region: RegionId,
    /// Edge or gate.
    pub role: Role,
    /// This life of the process.
    pub boot: BootId,
    /// Every close at or below this revision has been refused here for at least WAIT.
    pub quiet: Revision,
    /// Where it answers the questions of gates.
    pub peer: SocketAddr,
}

impl WitnessState {
    /// Whether this witness has said that it has refused every close up to `revision` for at least WAIT.
    #[must_use]
    pub fn is_quiet_at(&self, revision: Revision) -> bool {
        self.quiet >= revision
    }
}
