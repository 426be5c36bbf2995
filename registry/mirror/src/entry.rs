//! What the table holds of each thing: as much as routing needs, and no more, because there may be a million.

use std::net::SocketAddr;
use std::sync::Arc;

use domicile_model::clock::BootTime;
use domicile_model::{Cell, CellId, Placement, Residency, Revision, TenantId};

/// A tenant as routing sees it. Ids and policies are shared between entries that have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantEntry {
    /// Its id.
    pub id: TenantId,
    /// The cell that it lives in.
    pub cell: CellId,
    /// Where its data may be.
    pub residency: Arc<Residency>,
}

/// A placement as this router has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What the registry says.
    pub placement: Placement,
    /// The revision of its last change.
    pub modified: Revision,
    /// When *this* router applied it: hold times count from here.
    pub applied_at: BootTime,
    /// Why the registry holds something newer or different that this table refused: it can't be read, or it would
    /// lower an epoch. Edges go on routing by the placement; no gate may take a proof from it, because the region may
    /// have lost the cell in what was refused.
    pub doubt: Option<Arc<str>>,
}

/// A cell with its placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellEntry<'a> {
    /// What the operator wrote down.
    pub cell: &'a Cell,
    /// Where it is served from; none until its first placement is known.
    pub placed: Option<&'a Placed>,
}

impl CellEntry<'_> {
    /// Where the gate of this region finds the cell's application; empty if nobody said.
    #[must_use]
    pub fn application(&self, region: &str) -> &[SocketAddr] {
        self.cell.application.get(region).map_or(&[], Vec::as_slice)
    }
}
