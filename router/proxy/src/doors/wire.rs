//! What routers and agents say to each other, as JSON. Every call carries `Authorization: Bearer <peer secret>`.

use domicile_model::{CellId, Epoch, Placement, RegionId, RouterId, World, WorldId};
use serde::{Deserialize, Serialize};

/// `POST /v1/witness`: does this region hold these cells at these epochs?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VouchRequest {
    /// The world that the asker follows.
    pub world: WorldId,
    /// The asker's region.
    pub region: RegionId,
    /// At most 1,000.
    pub asks: Vec<Question>,
}

/// One cell that is asked about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// The cell.
    pub cell: CellId,
    /// The epoch.
    pub epoch: Epoch,
}

/// The answers, in the order of the questions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VouchAnswer {
    /// One for each question.
    pub answers: Vec<Asked>,
}

/// One answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The cell.
    pub cell: CellId,
    /// The epoch that was asked about.
    pub epoch: Epoch,
    /// Whether it is the highest epoch that the witness knows, and that region its holder.
    pub yes: bool,
    /// With a no: the newer placement, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

/// `POST /v1/proof`: may this region's database stay open for this cell? Asked by its agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProofRequest {
    /// The cell.
    pub cell: CellId,
    /// The agent's region.
    pub region: RegionId,
}

/// 200: this gate's region holds the cell under a proof. Anything else is a no.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProofAnswer {
    /// The epoch of the proof.
    pub epoch: Epoch,
    /// How long it still lasts, in milliseconds. Count from before you asked.
    pub remaining_ms: u64,
}

/// `GET /v1/placements`: what this router knows, for whoever brings the registry back. It proves nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlacementsAnswer {
    /// The router.
    pub id: RouterId,
    /// Where it runs.
    pub region: RegionId,
    /// The world that its routing table came from.
    pub world: Option<World>,
    /// The world that its memory as a witness is in: of an earlier one it vouches for nothing any more. None without a
    /// memory.
    pub vouches_in: Option<WorldId>,
    /// The placement of the highest epoch that it knows of each cell, in table or memory, of this world or an earlier one.
    pub placements: Vec<Placement>,
}
