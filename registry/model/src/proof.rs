//! The arithmetic of proofs: how long a region may believe that it holds a cell, and when nobody can any more.
//!
//! Every function takes the present moment as an argument and reads no clock. The argument why two regions can't
//! hold a cell at once stands in ARCHITECTURE.md; the steps that it rests on are the functions here, which the
//! router, the agent and the engine call.

use crate::clock::BootTime;
use crate::epoch::{Epoch, Revision};
use crate::ids::{MoveId, RegionId, WorldId};
use crate::placement::{ClosedReason, MoveClaim, Phase, Placement};
use crate::token::{LeaderFence, Token};
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

/// Whether this region goes on at this epoch without any proof: `known` is the newest placement that it knows, and that
/// says that availability comes first. Whatever newer it hears of ends it.
#[must_use]
pub fn stands(known: &Placement, region: &RegionId, epoch: Epoch) -> bool {
    known.availability_first && known.epoch == epoch && held_by(known, region)
}

/// Why one linearizable read of `world` and `placements/<cell>` is no proof for the agent beside a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// The registry was restored and its epochs are not raised yet, or its constants can't be used.
    #[error("the registry is not reconciled, or its fence constants can't be used")]
    NotReconciled,
    /// The registry shows less than what the agent has seen already.
    #[error("the registry shows epoch {shown}, below the known {known}: it is not believed")]
    EpochFell {
        /// What it shows.
        shown: Epoch,
        /// What was seen before, in the same world.
        known: Epoch,
    },
    /// Nobody holds the cell.
    #[error("nobody holds the cell yet")]
    HeldByNobody,
    /// Another region holds it, or it is closed.
    #[error("another region holds the cell")]
    HeldElsewhere,
}

/// The proof of an agent: what its own linearizable read, asked for at `asked` (taken *before* asking), lets its
/// database do. `known` is the highest epoch that it has on disk for this world.
///
/// # Errors
/// Why it proves nothing.
pub fn primary_proves(
    world: &World,
    placement: &Placement,
    region: &RegionId,
    known: Epoch,
    asked: BootTime,
) -> Result<Proof, NotOurs> {
    if !world.reconciled || world.constants.problem().is_some() {
        Err(NotOurs::NotReconciled)
    } else if placement.epoch < known {
        Err(NotOurs::EpochFell { shown: placement.epoch, known })
    } else if held_by(placement, region) {
        Ok(Proof { epoch: placement.epoch, asked, constants: world.constants })
    } else if placement.holder.is_none() {
        Err(NotOurs::HeldByNobody)
    } else {
        Err(NotOurs::HeldElsewhere)
    }
}

/// What keeps a database open that was promoted by the move `moving`, until that move's switch: a linearizable read, asked
/// for at `asked`, that shows the cell closed by this very move at the epoch `known` that the promotion was ordered under.
/// Past the promotion nobody else can be given the cell by that move, and none can begin beside it; whatever takes the cell
/// away from this region later closes it after this read, and so waits for the end of this proof as of any other. `world`
/// is the one that the order came from.
#[must_use]
pub fn promotion_keeps(
    world: &World,
    placement: &Placement,
    promoted_in: Option<WorldId>,
    moving: MoveId,
    known: Epoch,
    asked: BootTime,
) -> Option<Proof> {
    let ours = promoted_in == Some(world.id) && placement.moving == Some(moving) && placement.epoch == known;
    let closed = placement.holder.is_none()
        && matches!(placement.phase, Phase::Closed { reason: ClosedReason::Moving, .. });
    let usable = world.reconciled && world.constants.problem().is_none();
    (ours && closed && usable).then_some(Proof { epoch: placement.epoch, asked, constants: world.constants })
}

/// What one linearizable read of `world`, `leader`, `moves/<cell>` and `placements/<cell>` said.
#[derive(Debug, Clone, Copy)]
pub struct MoveFacts<'a> {
    /// The world record, if there is one.
    pub world: Option<&'a World>,
    /// Who leads: the create revision of the key `leader`, if there is one.
    pub leader: Option<LeaderFence>,
    /// Which move has claimed the cell, if one has.
    pub claim: Option<&'a MoveClaim>,
    /// The cell's placement, if there is one.
    pub placement: Option<&'a Placement>,
}

/// Why an order to promote must not be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPromotion {
    /// The order comes from another world, or from one that is not reconciled.
    #[error("the registry is another world than the order's, or not reconciled")]
    OtherWorld,
    /// Its sender leads no more.
    #[error("another leader than the order's leads now, by the registry")]
    OtherLeader,
    /// Another move of the cell is under way, or none.
    #[error("the registry names another move of this cell, or none")]
    OtherMove,
    /// The cell has no placement.
    #[error("the registry has no placement of this cell")]
    NoPlacement,
    /// The cell is not closed at the order's epoch.
    #[error("the cell is not closed at the order's epoch")]
    NotClosed,
}

/// Whether the agent of a standby may follow an order to promote: leader, move and the close at `epoch` must stand in
/// the registry.
///
/// # Errors
/// Why not.
pub fn may_promote(facts: &MoveFacts<'_>, token: &Token, epoch: Epoch) -> Result<(), NoPromotion> {
    if !facts.world.is_some_and(|w| w.id == token.world && w.reconciled) {
        Err(NoPromotion::OtherWorld)
    } else if facts.leader != Some(token.leader) {
        Err(NoPromotion::OtherLeader)
    } else if facts.claim.is_none_or(|c| c.moving != token.moving) {
        Err(NoPromotion::OtherMove)
    } else {
        match facts.placement {
            None => Err(NoPromotion::NoPlacement),
            Some(p) if p.epoch != epoch || p.holder.is_some() => Err(NoPromotion::NotClosed),
            Some(_) => Ok(()),
        }
    }
}

/// Whether every proof of epochs below a close has certainly ended without the old primary's word: WAIT has passed
/// since the close was seen committed, and enough witnesses are quiet. Never where availability came first: those who
/// served go on without a proof (see [`stands`]), so no time says that they have stopped.
#[must_use]
pub fn lapsed(
    availability_first: bool,
    close_seen: BootTime,
    now: BootTime,
    constants: &FenceConstants,
    quiet_witnesses: u32,
    needed: u32,
) -> bool {
    !availability_first && now.since(close_seen) >= constants.wait() && quiet_witnesses >= needed
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

    fn closed(epoch: u64) -> Placement {
        Placement {
            cell: crate::CellId::new("c").unwrap(),
            epoch: Epoch(epoch),
            holder: None,
            standby: None,
            phase: Phase::Closed { reason: crate::ClosedReason::Moving, for_ms: 0 },
            moving: None,
            availability_first: false,
            witnesses: crate::WitnessSet::of([].into()),
        }
    }

    #[test]
    fn an_agent_believes_only_a_reconciled_registry_that_does_not_fall_back() {
        let (here, asked) = (RegionId::new("here").unwrap(), BootTime::from_nanos(7));
        let world = World { id: WorldId::from_u128(1), reconciled: true, constants: C };
        let ours = Placement { holder: Some(here.clone()), phase: Phase::Serving, ..closed(3) };
        let proof = primary_proves(&world, &ours, &here, Epoch(3), asked).unwrap();
        assert_eq!(proof, Proof { epoch: Epoch(3), asked, constants: C });
        let fell = NotOurs::EpochFell { shown: Epoch(3), known: Epoch(4) };
        assert_eq!(primary_proves(&world, &ours, &here, Epoch(4), asked), Err(fell));
        assert_eq!(primary_proves(&world, &closed(4), &here, Epoch(3), asked), Err(NotOurs::HeldByNobody));
        let theirs = Placement { holder: Some(RegionId::new("there").unwrap()), ..ours.clone() };
        assert_eq!(primary_proves(&world, &theirs, &here, Epoch(3), asked), Err(NotOurs::HeldElsewhere));
        let restored = World { reconciled: false, ..world };
        assert_eq!(primary_proves(&restored, &ours, &here, Epoch(3), asked), Err(NotOurs::NotReconciled));
    }

    #[test]
    fn what_was_promoted_stays_open_under_the_close_of_its_own_move_only() {
        let asked = BootTime::from_nanos(7);
        let id = WorldId::from_u128(1);
        let world = World { id, reconciled: true, constants: C };
        let (moving, other) = (crate::MoveId::from_u128(5), crate::MoveId::from_u128(6));
        let close = Placement { moving: Some(moving), ..closed(3) };
        let keeps = |world: &World, placement: &Placement, promoted_in| {
            promotion_keeps(world, placement, promoted_in, moving, Epoch(3), asked)
        };
        assert_eq!(keeps(&world, &close, Some(id)), Some(Proof { epoch: Epoch(3), asked, constants: C }));
        let there = Placement { holder: Some(RegionId::new("there").unwrap()), ..close.clone() };
        let by_operator = Phase::Closed { reason: crate::ClosedReason::Operator, for_ms: 0 };
        for (what, placement) in [
            ("another move's", Placement { moving: Some(other), ..close.clone() }),
            ("nobody's", Placement { moving: None, ..close.clone() }),
            ("a later close", Placement { epoch: Epoch(4), ..close.clone() }),
            ("an earlier one", Placement { epoch: Epoch(2), ..close.clone() }),
            ("given to a region", Placement { phase: Phase::Serving, ..there }),
            ("closed by a person", Placement { phase: by_operator, ..close.clone() }),
        ] {
            assert_eq!(keeps(&world, &placement, Some(id)), None, "{what}");
        }
        assert_eq!(keeps(&world, &close, Some(WorldId::from_u128(2))), None, "promoted in another world");
        assert_eq!(keeps(&world, &close, None), None);
        assert_eq!(keeps(&World { reconciled: false, ..world }, &close, Some(id)), None);
    }

    #[test]
    fn a_promotion_needs_the_leader_the_move_and_the_close() {
        let id = WorldId::from_u128(1);
        let world = World { id, reconciled: true, constants: C };
        let moving = crate::MoveId::from_u128(5);
        let (claim, placement, leader) = (MoveClaim { moving }, closed(4), LeaderFence(Revision(7)));
        let token = Token {
            world: id,
            leader,
            attempt: 1,
            moving,
            step: "promote".into(),
            cell: placement.cell.clone(),
        };
        let facts = MoveFacts {
            world: Some(&world),
            leader: Some(leader),
            claim: Some(&claim),
            placement: Some(&placement),
        };
        assert_eq!(may_promote(&facts, &token, Epoch(4)), Ok(()));
        let refused = |facts: MoveFacts<'_>| may_promote(&facts, &token, Epoch(4)).unwrap_err();
        assert_eq!(refused(MoveFacts { world: None, ..facts }), NoPromotion::OtherWorld);
        let next = Some(LeaderFence(Revision(8)));
        assert_eq!(refused(MoveFacts { leader: next, ..facts }), NoPromotion::OtherLeader);
        assert_eq!(refused(MoveFacts { claim: None, ..facts }), NoPromotion::OtherMove);
        assert_eq!(refused(MoveFacts { placement: None, ..facts }), NoPromotion::NoPlacement);
        let held = Placement { holder: Some(RegionId::new("a").unwrap()), ..closed(4) };
        assert_eq!(refused(MoveFacts { placement: Some(&held), ..facts }), NoPromotion::NotClosed);
        assert_eq!(may_promote(&facts, &token, Epoch(5)), Err(NoPromotion::NotClosed));
    }

    #[test]
    fn waiting_needs_both_the_time_and_the_witnesses() {
        let close = BootTime::from_nanos(0);
        let after = close + C.wait();
        assert!(lapsed(false, close, after, &C, 2, 2));
        assert!(!lapsed(false, close, after, &C, 1, 2));
        assert!(!lapsed(false, close, after - Duration::from_nanos(1), &C, 2, 2));
    }

    #[test]
    fn where_availability_comes_first_nothing_ends_by_time_and_only_the_known_epoch_stands() {
        let close = BootTime::from_nanos(0);
        assert!(!lapsed(true, close, close + C.wait() * 1_000, &C, 3, 2));
        let (here, there) = (RegionId::new("here").unwrap(), RegionId::new("there").unwrap());
        let first = Placement { availability_first: true, ..closed(3) };
        let ours = Placement { holder: Some(here.clone()), phase: Phase::Serving, ..first.clone() };
        assert!(stands(&ours, &here, Epoch(3)));
        assert!(!stands(&ours, &here, Epoch(2)) && !stands(&ours, &here, Epoch(4)), "only that epoch");
        assert!(!stands(&ours, &there, Epoch(3)) && !stands(&first, &here, Epoch(3)), "only its holder");
        let ordinary = Placement { availability_first: false, ..ours };
        assert!(!stands(&ordinary, &here, Epoch(3)), "an ordinary cell stops");
    }
}
