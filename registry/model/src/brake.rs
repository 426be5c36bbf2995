//! What holds moves up by a person's will: the emergency stop, freezes, and the time since the last move. Their times are
//! wall-clock times: they are agreements among people, and no decision about who may write rests on them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{CellId, FreezeId, MoveId};

/// The key `stop`: no move starts, and a running one goes no further than it must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyStop {
    /// Who pulled it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The key `freezes/<id>`: no planned move of these cells starts in this window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its id.
    pub id: FreezeId,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Which cells; none named: all.
    #[serde(default)]
    pub cells: BTreeSet<CellId>,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Freeze {
    /// Whether a planned move of this cell may not start at this time.
    #[must_use]
    pub fn holds(&self, cell: &CellId, now: Timestamp) -> bool {
        self.from <= now && now < self.until && (self.cells.is_empty() || self.cells.contains(cell))
    }
}

/// The key `moved/<cell>`: the last move that changed who holds the cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Which one.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// When the new region began to serve.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_holds_its_cells_in_its_window() {
        let cell = |id: &str| CellId::new(id).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut freeze = Freeze {
            id: FreezeId::from_u128(1),
            from: at("2026-12-24T00:00:00Z"),
            until: at("2026-12-27T00:00:00Z"),
            cells: [cell("a")].into(),
            by: "ann".into(),
            reason: "holidays".into(),
        };
        assert!(freeze.holds(&cell("a"), at("2026-12-24T00:00:00Z")));
        assert!(!freeze.holds(&cell("b"), at("2026-12-25T00:00:00Z")), "another cell");
        assert!(!freeze.holds(&cell("a"), at("2026-12-23T23:59:59Z")), "before");
        assert!(!freeze.holds(&cell("a"), at("2026-12-27T00:00:00Z")), "after");
        freeze.cells.clear();
        assert!(freeze.holds(&cell("b"), at("2026-12-25T00:00:00Z")), "of everybody");
    }
}
