//! What two processes of one router acknowledge together.

use std::collections::{BTreeMap, BTreeSet};

use domicile_model::{BusyCell, Revision, WorldId};
use serde::{Deserialize, Serialize};

/// What a process would acknowledge for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The world of its table.
    pub world: WorldId,
    /// The applied revision.
    pub applied: Revision,
    /// The highest revision of a placement among it.
    pub placements: Revision,
    /// Cells in transition with requests in flight.
    pub busy: BTreeSet<BusyCell>,
}

/// The process whose place this one has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// It answers nothing any more; or there was none.
    Gone,
    /// It still answers requests. None: it can't say anything.
    Says(Option<Told>),
}

impl Before {
    /// What holds for both processes: as far as both have come, busy where one of them is. None if that can't be said.
    #[must_use]
    pub fn and(&self, own: Told) -> Option<Told> {
        match self {
            Self::Gone => Some(own),
            Self::Says(Some(other)) if other.world == own.world => {
                let mut busy = BTreeMap::new();
                for one in own.busy.into_iter().chain(other.busy.iter().cloned()) {
                    *busy.entry(one.cell).or_insert(0u64) += one.in_flight;
                }
                Some(Told {
                    world: own.world,
                    applied: own.applied.min(other.applied),
                    placements: own.placements.min(other.placements),
                    busy: busy.into_iter().map(|(cell, in_flight)| BusyCell { cell, in_flight }).collect(),
                })
            }
            Self::Says(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_model::CellId;

    use super::*;

    fn told(world: u128, applied: i64, busy: &[(&str, u64)]) -> Told {
        let busy = busy.iter().map(|(c, n)| BusyCell { cell: CellId::new(c).unwrap(), in_flight: *n });
        let (world, applied) = (WorldId::from_u128(world), Revision(applied));
        Told { world, applied, placements: applied, busy: busy.collect() }
    }

    #[test]
    fn two_have_come_as_far_as_the_slower_and_are_busy_where_either_is() {
        let own = told(1, 9, &[("a", 1), ("b", 2)]);
        let other = Before::Says(Some(told(1, 7, &[("b", 3), ("c", 4)])));
        assert_eq!(other.and(own), Some(told(1, 7, &[("a", 1), ("b", 5), ("c", 4)])));
        assert_eq!(Before::Says(Some(told(1, 7, &[]))).and(told(1, 5, &[])), Some(told(1, 5, &[])));
    }

    #[test]
    fn of_one_that_says_nothing_or_speaks_of_another_world_nothing_can_be_said() {
        assert_eq!(Before::Says(None).and(told(1, 9, &[])), None);
        assert_eq!(Before::Says(Some(told(2, 9, &[]))).and(told(1, 9, &[])), None);
        assert_eq!(Before::Gone.and(told(1, 9, &[])), Some(told(1, 9, &[])));
    }
}
