//! When a cell's witnesses may be other ones: the evidence it takes, and what people ask for and declare.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::BootTime;
use crate::epoch::{Epoch, Revision};
use crate::ids::{CellId, MoveId, RouterId};
use crate::placement::{Placement, WitnessSet};
use crate::router::WitnessState;
use crate::world::FenceConstants;

/// Which of the witnesses that were declared destroyed count as quiet. `seen` says when the reader first saw each
/// declaration, on its own clock: what a witness granted in the moment before it was destroyed lives for WAIT.
#[must_use]
pub fn struck_out(
    seen: &BTreeMap<RouterId, BootTime>,
    now: BootTime,
    constants: &FenceConstants,
) -> BTreeSet<RouterId> {
    let over = |at: &BootTime| now.since(*at) >= constants.wait();
    seen.iter().filter(|(_, at)| over(at)).map(|(id, _)| id.clone()).collect()
}

/// How many of `members` can vouch for nothing below `revision` any more: those that said so, and those that are
/// [struck out](struck_out).
#[must_use]
pub fn quiet_among(
    members: &BTreeSet<RouterId>,
    revision: Revision,
    states: &[WitnessState],
    struck: &BTreeSet<RouterId>,
) -> u32 {
    let said = |id: &RouterId| states.iter().any(|w| w.id == *id && w.is_quiet_at(revision));
    let count = members.iter().filter(|id| struck.contains(*id) || said(id)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Evidence that the witnesses of a closed cell vouch for no epoch before the close any more, and never will: `r` of
/// them have refused for WAIT, so no `p` are left. A refusal is never taken back, so what was true once stays so.
///
/// Nothing but [`Silence::of`] makes one, and it fits that very close only. The word of the old primary's agent is no such
/// evidence: it stops a database, not those who vouch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    cell: CellId,
    epoch: Epoch,
    witnesses: WitnessSet,
}

impl Silence {
    /// The evidence, if it is there. `closed` is the placement as it was read, last changed at `revision`.
    #[must_use]
    pub fn of(
        closed: &Placement,
        revision: Revision,
        states: &[WitnessState],
        struck: &BTreeSet<RouterId>,
    ) -> Option<Self> {
        let set = &closed.witnesses;
        let quiet = quiet_among(&set.members, revision, states, struck);
        // One at least: without witnesses nothing here says that anybody has waited.
        let silent = closed.holder.is_none() && set.is_sound() && quiet >= set.r.max(1);
        silent.then(|| Self { cell: closed.cell.clone(), epoch: closed.epoch, witnesses: set.clone() })
    }

    /// Whether it is about the witnesses of this placement.
    #[must_use]
    pub fn is_of(&self, old: &Placement) -> bool {
        old.holder.is_none()
            && self.cell == old.cell
            && self.epoch == old.epoch
            && self.witnesses == old.witnesses
    }
}

/// The key `renewals/<cell>`: a person wants other witnesses named as soon as that is safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessRenewal {
    /// The cell.
    pub cell: CellId,
    /// Routers that shall not be among them.
    #[serde(default)]
    pub without: BTreeSet<RouterId>,
    /// Whether the next planned move lets WAIT pass for it, while writes wait.
    #[serde(default)]
    pub wait: bool,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by the leader's wall clock.
    pub at: Timestamp,
}

/// The key `barred/<router>`: a person has declared that this router's machine is destroyed. Its identity never vouches
/// again. The key is never removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarredWitness {
    /// Which.
    pub id: RouterId,
    /// In answer to which stuck move.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// Who declared it.
    pub by: String,
    /// How that is known.
    pub reason: String,
    /// When, by the leader's wall clock.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, RegionId};
    use crate::placement::Phase;
    use crate::router::Role;

    fn names(of: &[&str]) -> BTreeSet<RouterId> {
        of.iter().map(|n| RouterId::new(n).unwrap()).collect()
    }

    fn placement(holder: Option<&str>) -> Placement {
        Placement {
            cell: CellId::new("c").unwrap(),
            epoch: Epoch(5),
            holder: holder.map(|h| RegionId::new(h).unwrap()),
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(names(&["a", "b", "c"])),
        }
    }

    fn quiet(id: &str, revision: i64) -> WitnessState {
        WitnessState {
            id: RouterId::new(id).unwrap(),
            region: RegionId::new("x").unwrap(),
            role: Role::Gate,
            boot: BootId::from_u128(1),
            quiet: Revision(revision),
            peer: "127.0.0.1:1".parse().unwrap(),
        }
    }

    #[test]
    fn silence_takes_r_of_the_named_ones_after_the_close() {
        let (closed, none) = (placement(None), BTreeSet::new());
        let of = |states: &[WitnessState], barred: &BTreeSet<RouterId>| {
            Silence::of(&closed, Revision(9), states, barred)
        };
        assert!(of(&[quiet("a", 9), quiet("b", 12)], &none).is_some_and(|s| s.is_of(&closed)));
        assert!(of(&[quiet("a", 9), quiet("b", 8)], &none).is_none(), "before the close");
        assert!(of(&[quiet("a", 9), quiet("x", 9)], &none).is_none(), "not one of them");
        assert!(of(&[quiet("a", 9), quiet("a", 9)], &none).is_none(), "the same one twice");
        assert!(of(&[quiet("a", 9)], &names(&["c"])).is_some(), "one is destroyed");
        assert!(of(&[quiet("a", 9)], &names(&["a", "x"])).is_none());
    }

    #[test]
    fn a_destroyed_witness_counts_once_what_it_granted_last_has_ended() {
        let (c, seen) = (FenceConstants::DEFAULT, BootTime::from_nanos(7));
        let declared = BTreeMap::from([(RouterId::new("a").unwrap(), seen)]);
        let early = seen + c.wait() - std::time::Duration::from_nanos(1);
        assert!(struck_out(&declared, early, &c).is_empty());
        assert_eq!(struck_out(&declared, seen + c.wait(), &c), names(&["a"]));
    }

    #[test]
    fn a_cell_that_somebody_holds_is_never_silent() {
        let held = placement(Some("x"));
        let states = [quiet("a", 9), quiet("b", 9), quiet("c", 9)];
        assert!(Silence::of(&held, Revision(9), &states, &BTreeSet::new()).is_none());
        let silence = Silence::of(&placement(None), Revision(9), &states, &BTreeSet::new()).unwrap();
        assert!(!silence.is_of(&held));
        assert!(!silence.is_of(&Placement { epoch: Epoch(7), ..placement(None) }), "another close");
    }

    #[test]
    fn without_witnesses_nothing_shows_that_anybody_waited() {
        let bare = Placement { witnesses: WitnessSet::of(BTreeSet::new()), ..placement(None) };
        assert!(Silence::of(&bare, Revision(9), &[], &BTreeSet::new()).is_none());
    }
}
