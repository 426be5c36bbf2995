//! Where a cell is served from now, and who may say so.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::ids::{CellId, MoveId, RegionId, RouterId};

/// The key `placements/<cell>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The cell.
    pub cell: CellId,
    /// Raised by every change of holder, standby or witnesses.
    pub epoch: Epoch,
    /// The region that may write, or nobody.
    pub holder: Option<RegionId>,
    /// The region whose database follows the holder's, if one does.
    pub standby: Option<RegionId>,
    /// What routers do with requests.
    pub phase: Phase,
    /// The move that is under way.
    #[serde(rename = "move")]
    pub moving: Option<MoveId>,
    /// Gates and agent of the holder go on without a proof, until they hear of a newer epoch or are told to stop. Then no
    /// time that passes says that they have stopped: only the database's own word does. Chosen by the cell's owner, and
    /// taken over into the placement only where the right is given anew. While nobody holds the cell: of the last holder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub availability_first: bool,
    /// Who can vouch for the holder when the registry can't be reached.
    pub witnesses: WitnessSet,
}

impl Placement {
    /// Whether the right to write is the same under both: holder, standby, witnesses, and what comes first.
    #[must_use]
    pub fn same_right(&self, other: &Self) -> bool {
        (&self.holder, &self.standby, &self.witnesses, self.availability_first)
            == (&other.holder, &other.standby, &other.witnesses, other.availability_first)
    }
}

/// What routers do with a cell's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Phase {
    /// Forwarded to the holder.
    Serving,
    /// New requests wait, at most this long from when the router applied the placement.
    Holding {
        /// Milliseconds.
        for_ms: u64,
    },
    /// Nobody holds the cell.
    Closed {
        /// Why. While moving, new requests wait as in `holding`; else they are refused.
        reason: ClosedReason,
        /// Milliseconds that requests may wait, from when the router applied the placement; zero refuses at once.
        for_ms: u64,
    },
}

impl Phase {
    /// How long new requests wait under this phase; none while serving.
    #[must_use]
    pub const fn hold(&self) -> Option<Duration> {
        match self {
            Self::Serving => None,
            Self::Holding { for_ms } | Self::Closed { for_ms, .. } => Some(Duration::from_millis(*for_ms)),
        }
    }
}

/// Why a cell is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClosedReason {
    /// A move is under way.
    Moving,
    /// A person closed it.
    Operator,
    /// The registry was restored and contradicts what routers or databases know; a person decides.
    Conflict,
}

/// The routers that vouch for a cell's holder, and how many of them it takes.
///
/// A proof needs `p` of them; a forced move needs `r` of them to have refused for WAIT. `p + r > n` makes the two
/// sets meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessSet {
    /// Routers of fixed identity.
    pub members: BTreeSet<RouterId>,
    /// How many must say yes for a proof.
    pub p: u32,
    /// How many must be quiet before a forced move may promote.
    pub r: u32,
}

impl WitnessSet {
    /// The usual thresholds for these members: n=3: 2 and 2; n=2: 2 and 1; n=1: 1 and 1. Without members no witness
    /// proof exists (p = 1 of 0), so none needs to be waited for.
    #[must_use]
    pub fn of(members: BTreeSet<RouterId>) -> Self {
        let n = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let p = n / 2 + 1;
        Self { members, p, r: n + 1 - p }
    }

    /// Whether every proof and every forced move share a witness: `p + r > n`, and both can be reached by someone.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let n = self.members.len() as u64;
        self.p >= 1 && u64::from(self.p) + u64::from(self.r) > n
    }
}

/// The key `fences/<region>`: put whenever the region loses the right to a cell. Only its modification revision
/// decides; the content says what happened, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionFence {
    /// The region that lost the right.
    pub region: RegionId,
    /// The cell that it lost.
    pub cell: CellId,
    /// The epoch of the placement that took it away.
    pub epoch: Epoch,
}

/// The key `moves/<cell>`: one move of a cell at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveClaim {
    /// The workflow that holds the claim.
    #[serde(rename = "move")]
    pub moving: MoveId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(n: usize) -> WitnessSet {
        WitnessSet::of((0..n).map(|i| RouterId::new(&format!("gate-{i}")).unwrap()).collect())
    }

    #[test]
    fn thresholds_always_meet() {
        for n in 0..=7 {
            assert!(set(n).is_sound(), "{n}");
        }
        assert_eq!((set(3).p, set(3).r), (2, 2));
        assert_eq!((set(2).p, set(2).r), (2, 1));
        assert_eq!((set(1).p, set(1).r), (1, 1));
        assert_eq!((set(0).p, set(0).r), (1, 0));
    }

    #[test]
    fn p_plus_r_equal_to_n_is_unsound() {
        assert!(!WitnessSet { p: 2, r: 1, ..set(3) }.is_sound());
        assert!(!WitnessSet { p: 0, r: 4, ..set(3) }.is_sound());
    }
}
