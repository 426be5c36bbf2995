//! A cell that a person has taken out of service: why, and where its newest data is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::ids::{CellId, MoveId, RegionId};
use crate::token::Lsn;

/// The key `closed/<cell>`: stands from the close until the cell is opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedCell {
    /// The cell.
    pub cell: CellId,
    /// The workflow that closed it.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by the leader's wall clock.
    pub at: Timestamp,
    /// Who held it: its database has the newest data.
    pub region: RegionId,
    /// The epoch of the close.
    pub epoch: Epoch,
    /// Where its database stopped, by its agent's word. None: it was not heard, and stopped by itself.
    #[serde(default)]
    pub stopped: Option<StoppedAt>,
}

/// Where a database stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedAt {
    /// `system_identifier`.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// The start of its last checkpoint.
    pub checkpoint: Lsn,
}
