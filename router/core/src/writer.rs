//! Whether a program beside the application may write for a cell: jobs and workers that no request passes through a gate
//! for. They ask before each piece of work, and begin none that could outlast the answer by more than DRAIN.

use std::time::Duration;

use domicile_mirror::RoutingTable;
use domicile_model::{CellId, Epoch, Phase, RegionId};

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writer {
    /// Work may begin.
    Yes {
        /// Under this epoch.
        epoch: Epoch,
        /// For this long from when it was asked. None: until the table changes, because one process decides alone.
        lasts: Option<Duration>,
    },
    /// No work may begin.
    No(&'static str),
    /// The table has no such cell.
    Unknown,
}

/// Decides. `admitting` says for how long the own region has a proof for (cell, epoch) that admits; its inner none
/// that proofs are not needed.
pub fn writer(
    table: &RoutingTable,
    cell: &CellId,
    own: &RegionId,
    admitting: impl Fn(&CellId, Epoch) -> Option<Option<Duration>>,
) -> Writer {
    let Some(placed) = table.placement(cell.as_str()) else { return Writer::Unknown };
    let placement = &placed.placement;
    if placement.holder.as_ref() != Some(own) {
        return Writer::No("another region holds the cell, or none");
    }
    if placement.phase != Phase::Serving {
        return Writer::No("the cell is about to move, or closed");
    }
    if table.provable(cell.as_str(), own).is_none() {
        return Writer::No("the table is in doubt");
    }
    match admitting(cell, placement.epoch) {
        Some(lasts) => Writer::Yes { epoch: placement.epoch, lasts },
        None => Writer::No("there is no proof that this region holds the cell"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn ask(table: &RoutingTable, proof: Option<Option<Duration>>) -> Writer {
        let own = RegionId::new("us-east-1").unwrap();
        writer(table, &CellId::new("mercy").unwrap(), &own, |_, _| proof)
    }

    fn with(holder: Option<&str>, phase: Phase) -> RoutingTable {
        table_with(&[place("mercy", 4, holder, phase)])
    }

    #[test]
    fn a_worker_may_write_where_the_cell_is_served_under_a_proof() {
        let serving = with(Some("us-east-1"), Phase::Serving);
        let lasts = Some(Duration::from_secs(6));
        assert_eq!(ask(&serving, Some(lasts)), Writer::Yes { epoch: Epoch(4), lasts });
        assert_eq!(
            ask(&serving, Some(None)),
            Writer::Yes { epoch: Epoch(4), lasts: None },
            "no proofs needed"
        );
        let no = |table: &RoutingTable, proof| matches!(ask(table, proof), Writer::No(_));
        assert!(no(&serving, None), "without a proof");
        assert!(no(&with(Some("us-west-2"), Phase::Serving), Some(lasts)), "held elsewhere");
        assert!(no(&with(None, Phase::Serving), Some(lasts)), "held by nobody");
        assert!(no(&with(Some("us-east-1"), Phase::Holding { for_ms: 10 }), Some(lasts)), "about to move");
        assert_eq!(ask(&table_with(&[]), Some(lasts)), Writer::Unknown);
    }
}
