//! The arithmetic of proofs: how long a region may believe that it holds a cell, and when nobody can any more.
//!
//! Every function takes the present moment as an argument and reads no clock. The argument why two regions can't
//! hold a cell at once stands in ARCHITECTURE.md; the steps that it rests on are the functions here, which the
//! router, the agent and the engine call.

use crate::clock::BootTime;
use crate::epoch::{Epoch, Revision};
use crate::ids::{RegionId, WorldId};
use crate::placement::{Phase, Placement};
use crate::world::{FenceConstants, World};

/// A proof that a region holds a cell at an epoch, kept in memory only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// From *before* its holder asked: the answer may have been true only until just after the question.
    pub asked: BootTime,
    /// The constants that it was given under.
    pub constants: FenceConstants,
}

impl Proof {
    /// When it ends.
    #[must_use]
    pub fn ends(&self) -> BootTime {
        self.asked + self.constants.fence()
    }

    /// Whether a gate may let a new request in: not in the last DRAIN, so that what was let in can still answer.
    #[must_use]
    pub fn admits(&self, epoch: Epoch, now: BootTime) -> bool {
        self.epoch == epoch && now < self.ends() - self.constants.drain()
    }

    /// Whether a piece of an answer may still leave.
    #[must_use]
    pub fn answers(&self, epoch: Epoch, now: BootTime) -> bool {
        self.epoch == epoch && now < self.ends()
    }

    /// Whether a database may stay open: not in the last STOP, which is the time to kill it.
    #[must_use]
    pub fn keeps_open(&self, now: BootTime) -> bool {
        now < self.ends() - self.constants.stop()
    }
}

/// What one linearizable read of `world` and `fences/<own region>` said.
#[derive(Debug, Clone)]
pub struct RegistryAnswer {
    /// The world record, if there is one.
    pub world: Option<World>,
    /// The revision in the answer's header.
    pub header: Revision,
    /// The modification revision of `fences/<own region>`; zero if it was never put.
    pub fence: Revision,
}

/// Why a registry answer proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// No world, or another one than the table's.
    #[error("the registry is another world than the routing table's")]
    OtherWorld,
    /// The registry was restored and its epochs are not raised yet.
    #[error("the registry is not reconciled after a restore")]
    NotReconciled,
    /// The registry's revision lies below what the table has applied: another history.
    #[error("the registry's revision lies below the one that the table has applied")]
    OtherHistory,
    /// The region lost a cell at a revision that the table has not applied yet.
    #[error("the region was fenced at a revision that the table has not applied yet")]
    FencedAhead,
}

/// The registry proof: whether an answer lets a table that has applied `applied` in `world` speak for its region.
///
/// It covers every placement of the table whose modification revision is at most `applied` and whose holder is the
/// own region.
///
/// # Errors
/// The reason why not.
pub fn registry_proves(
    answer: &RegistryAnswer,
    world: WorldId,
    applied: Revision,
) -> Result<FenceConstants, NoProof> {
    match &answer.world {
        Some(found) if found.id == world => {
            if !found.reconciled {
                Err(NoProof::NotReconciled)
            } else if answer.header < applied {
                Err(NoProof::OtherHistory)
            } else if answer.fence > applied {
                Err(NoProof::FencedAhead)
            } else {
                Ok(found.constants)
            }
        }
        _ => Err(NoProof::OtherWorld),
    }
}

/// What a witness answers to "does this region hold this cell at this epoch?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: it is the highest epoch that the witness knows, and that region its holder.
    Yes,
    /// No; the witness knows better or knows nothing.
    No,
}

/// The rule of a witness. `known` is the newest placement that it has synced to disk.
#[must_use]
pub fn witness_says(known: Option<&Placement>, epoch: Epoch, region: &RegionId) -> Verdict {
    match known {
        Some(p) if p.epoch == epoch && p.holder.as_ref() == Some(region) => Verdict::Yes,
        _ => Verdict::No,
    }
}

/// Whether a placement lets this region serve, before any proof is looked at.
#[must_use]
pub fn held_by(placement: &Placement, region: &RegionId) -> bool {
    placement.holder.as_ref() == Some(region) && !matches!(placement.phase, Phase::Closed { .. })
}

/// Whether every proof of epochs below a close has certainly ended without the old primary's word: WAIT has passed
/// since the close was seen committed, and enough witnesses are quiet.
#[must_use]
pub fn lapsed(
    close_seen: BootTime,
    now: BootTime,
    constants: &FenceConstants,
    quiet_witnesses: u32,
    needed: u32,
) -> bool {
    now.since(close_seen) >= constants.wait() && quiet_witnesses >= needed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const C: FenceConstants = FenceConstants::DEFAULT;

    #[test]
    fn a_proof_counts_from_before_the_question_and_drains_first() {
        let asked = BootTime::from_nanos(0);
        let proof = Proof { epoch: Epoch(3), asked, constants: C };
        let at = |ms| asked + Duration::from_millis(ms);
        assert!(proof.admits(Epoch(3), at(7_999)));
        assert!(!proof.admits(Epoch(3), at(8_000)));
        assert!(proof.keeps_open(at(8_999)) && !proof.keeps_open(at(9_000)));
        assert!(proof.answers(Epoch(3), at(9_999)) && !proof.answers(Epoch(3), at(10_000)));
        assert!(!proof.admits(Epoch(2), at(0)) && !proof.answers(Epoch(4), at(0)));
    }

    #[test]
    fn a_registry_answer_proves_only_what_the_table_has_applied() {
        let id = WorldId::from_u128(1);
        let answer = RegistryAnswer {
            world: Some(World { id, reconciled: true, constants: C }),
            header: Revision(20),
            fence: Revision(10),
        };
        assert_eq!(registry_proves(&answer, id, Revision(10)), Ok(C));
        assert_eq!(registry_proves(&answer, id, Revision(9)), Err(NoProof::FencedAhead));
        assert_eq!(registry_proves(&answer, id, Revision(21)), Err(NoProof::OtherHistory));
        assert_eq!(registry_proves(&answer, WorldId::from_u128(2), Revision(10)), Err(NoProof::OtherWorld));
        let restored =
            RegistryAnswer { world: Some(World { id, reconciled: false, constants: C }), ..answer.clone() };
        assert_eq!(registry_proves(&restored, id, Revision(10)), Err(NoProof::NotReconciled));
        assert_eq!(
            registry_proves(&RegistryAnswer { world: None, ..answer }, id, Revision(10)),
            Err(NoProof::OtherWorld)
        );
    }

    #[test]
    fn waiting_needs_both_the_time_and_the_witnesses() {
        let close = BootTime::from_nanos(0);
        let after = close + C.wait();
        assert!(lapsed(close, after, &C, 2, 2));
        assert!(!lapsed(close, after, &C, 1, 2));
        assert!(!lapsed(close, after - Duration::from_nanos(1), &C, 2, 2));
    }
}
