//! What a gate can prove: for which cells, at which epochs, until when. In memory only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_mirror::RoutingTable;
use domicile_model::clock::BootTime;
use domicile_model::proof::{NoProof, Proof, RegistryAnswer, held_by, registry_proves};
use domicile_model::{CellId, Epoch, FenceConstants, Placement, RegionId, Revision, WorldId};

/// What a table showed as held by the own region, at the moment of a registry answer.
///
/// A proof is for what the table said *then*. A later table is compared apart ([`ProofBook::answers`]), and a change
/// of phase within an epoch does not end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// The world of the table.
    pub world: WorldId,
    /// The revision that it had applied.
    pub applied: Revision,
    /// The cells held by the own region, with their epochs.
    pub cells: Arc<HashMap<CellId, Epoch>>,
}

impl Holdings {
    /// What this table lets the region prove; none before the table belongs to a world.
    #[must_use]
    pub fn of_table(table: &RoutingTable, region: &RegionId) -> Option<Self> {
        let world = table.world()?.id;
        let ours = table.placements().filter(|p| table.provable(p.placement.cell.as_str(), region).is_some());
        Some(Self::of(world, table.applied(), region, ours.map(|p| (&p.placement, p.modified))))
    }

    /// From the placements of a table, with the revisions at which they were last changed.
    pub fn of<'a>(
        world: WorldId,
        applied: Revision,
        region: &RegionId,
        placements: impl Iterator<Item = (&'a Placement, Revision)>,
    ) -> Self {
        let cells = placements
            .filter(|(p, modified)| *modified <= applied && held_by(p, region))
            .map(|(p, _)| (p.cell.clone(), p.epoch))
            .collect();
        Self { world, applied, cells: Arc::new(cells) }
    }
}

/// Whether a gate goes on for (cell, epoch) without any proof: the newest placement that it knows says that availability
/// comes first, and names its region at just that epoch. A table in doubt says nothing.
#[must_use]
pub fn stands(table: &RoutingTable, cell: &CellId, region: &RegionId, epoch: Epoch) -> bool {
    let known = table.provable(cell.as_str(), region);
    known.is_some_and(|placed| domicile_model::proof::stands(&placed.placement, region, epoch))
}

/// The proofs of one gate.
#[derive(Debug, Default, Clone)]
pub struct ProofBook {
    registry: Option<RegistryProof>,
    witnessed: HashMap<CellId, Proof>,
    world: Option<WorldId>,
}

#[derive(Debug, Clone)]
struct RegistryProof {
    asked: BootTime,
    constants: FenceConstants,
    cells: Arc<HashMap<CellId, Epoch>>,
}

impl ProofBook {
    /// No proof.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry answer came to a question asked at `asked` (taken *before* asking). `holdings` are those of a table
    /// that was in use when the answer was read.
    ///
    /// # Errors
    /// Why it proves nothing. An older proof then still stands, until its own end: it was true when it was asked for.
    /// A registry of another world ends all proofs.
    pub fn on_registry(
        &mut self,
        answer: &RegistryAnswer,
        asked: BootTime,
        holdings: &Holdings,
    ) -> Result<FenceConstants, NoProof> {
        self.follow_world(holdings.world);
        let constants = registry_proves(answer, holdings.world, holdings.applied)?;
        if self.registry.as_ref().is_none_or(|old| old.asked <= asked) {
            self.registry = Some(RegistryProof { asked, constants, cells: holdings.cells.clone() });
        }
        Ok(constants)
    }

    /// This many witnesses of those that the placement names said yes to (cell, epoch, own region), all asked after
    /// `asked`. Kept only if they are enough.
    pub fn on_witnesses(
        &mut self,
        placement: &Placement,
        asked: BootTime,
        yes: u32,
        constants: FenceConstants,
    ) -> bool {
        if !placement.witnesses.is_sound() || yes < placement.witnesses.p {
            return false;
        }
        let proof = Proof { epoch: placement.epoch, asked, constants };
        let old = self.witnessed.get(&placement.cell);
        if old.is_none_or(|old| (old.epoch, old.asked) <= (proof.epoch, proof.asked)) {
            self.witnessed.insert(placement.cell.clone(), proof);
        }
        true
    }

    /// Proofs of another world are none.
    pub fn follow_world(&mut self, world: WorldId) {
        if self.world != Some(world) {
            *self = Self { world: Some(world), ..Self::default() };
        }
    }

    /// Forgets proofs that have ended.
    pub fn tidy(&mut self, now: BootTime) {
        self.witnessed.retain(|_, p| now < p.ends());
    }

    fn proofs(&self, cell: &CellId, epoch: Epoch) -> impl Iterator<Item = Proof> {
        let registry = self.registry.as_ref().filter(|r| r.cells.get(cell) == Some(&epoch)).map(|r| Proof {
            epoch,
            asked: r.asked,
            constants: r.constants,
        });
        registry.into_iter().chain(self.witnessed.get(cell).copied())
    }

    /// Whether a new request may be let in.
    #[must_use]
    pub fn admits(&self, cell: &CellId, epoch: Epoch, now: BootTime) -> bool {
        self.proofs(cell, epoch).any(|p| p.admits(epoch, now))
    }

    /// Whether a piece of an answer may leave. `known` is the epoch that the table shows now: a newer one ends every
    /// proof of older ones at once.
    #[must_use]
    pub fn answers(&self, cell: &CellId, epoch: Epoch, known: Option<Epoch>, now: BootTime) -> bool {
        known.is_none_or(|k| k <= epoch) && self.proofs(cell, epoch).any(|p| p.answers(epoch, now))
    }

    /// How long the best proof for (cell, epoch) still lasts; none if there is none.
    #[must_use]
    pub fn remaining(&self, cell: &CellId, epoch: Epoch, now: BootTime) -> Option<Duration> {
        self.proofs(cell, epoch).filter(|p| p.answers(epoch, now)).map(|p| p.ends().since(now)).max()
    }

    /// How long the best proof for (cell, epoch) still admits; none if none does.
    #[must_use]
    pub fn admitting(&self, cell: &CellId, epoch: Epoch, now: BootTime) -> Option<Duration> {
        let admits = self.proofs(cell, epoch).filter(|p| p.admits(epoch, now));
        admits.map(|p| p.ends().since(now).saturating_sub(p.constants.drain())).max()
    }

    /// The age of the registry proof: how long ago it was asked for. None if there never was one in this world.
    #[must_use]
    pub fn registry_age(&self, now: BootTime) -> Option<Duration> {
        self.registry.as_ref().map(|r| now.since(r.asked))
    }

    /// Whether the registry proof in hand covers (cell, epoch), whatever its age.
    #[must_use]
    pub fn registry_covers(&self, cell: &CellId, epoch: Epoch) -> bool {
        self.registry.as_ref().is_some_and(|r| r.cells.get(cell) == Some(&epoch))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domicile_model::{Phase, RouterId, WitnessSet, World};

    use super::*;

    const C: FenceConstants = FenceConstants::DEFAULT;

    fn placement(cell: &str, epoch: u64, holder: &str) -> Placement {
        let ids: BTreeSet<_> = ["w1", "w2", "w3"].iter().map(|w| RouterId::new(w).unwrap()).collect();
        Placement {
            cell: CellId::new(cell).unwrap(),
            epoch: Epoch(epoch),
            holder: Some(RegionId::new(holder).unwrap()),
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(ids),
        }
    }

    fn world() -> WorldId {
        WorldId::from_u128(1)
    }

    fn answer(header: i64, fence: i64) -> RegistryAnswer {
        RegistryAnswer {
            world: Some(World { id: world(), reconciled: true, constants: C }),
            header: Revision(header),
            fence: Revision(fence),
        }
    }

    fn holdings(applied: i64, placements: &[(Placement, i64)]) -> Holdings {
        let here = RegionId::new("here").unwrap();
        Holdings::of(world(), Revision(applied), &here, placements.iter().map(|(p, m)| (p, Revision(*m))))
    }

    fn at(ms: u64) -> BootTime {
        BootTime::from_nanos(0) + Duration::from_millis(ms)
    }

    #[test]
    fn a_registry_proof_covers_what_the_table_showed_as_ours() {
        let (ours, theirs) = (placement("ours", 3, "here"), placement("theirs", 3, "there"));
        let mut book = ProofBook::new();
        book.on_registry(&answer(9, 5), at(0), &holdings(9, &[(ours.clone(), 4), (theirs.clone(), 4)]))
            .unwrap();
        assert!(book.admits(&ours.cell, Epoch(3), at(7_999)));
        assert!(!book.admits(&ours.cell, Epoch(3), at(8_000)), "the last DRAIN admits nothing");
        assert!(book.answers(&ours.cell, Epoch(3), Some(Epoch(3)), at(9_999)));
        assert!(!book.answers(&ours.cell, Epoch(3), Some(Epoch(3)), at(10_000)));
        assert!(!book.answers(&ours.cell, Epoch(3), Some(Epoch(4)), at(1)), "the table knows better");
        assert!(!book.admits(&ours.cell, Epoch(2), at(0)) && !book.admits(&theirs.cell, Epoch(3), at(0)));
        assert_eq!(book.remaining(&ours.cell, Epoch(3), at(4_000)), Some(Duration::from_secs(6)));
    }

    #[test]
    fn a_fence_ahead_of_the_table_proves_nothing_and_an_older_proof_ends_by_itself() {
        let ours = placement("ours", 3, "here");
        let mut book = ProofBook::new();
        let held = holdings(9, &[(ours.clone(), 4)]);
        book.on_registry(&answer(9, 5), at(0), &held).unwrap();
        assert_eq!(book.on_registry(&answer(12, 11), at(1_000), &held), Err(NoProof::FencedAhead));
        assert!(book.answers(&ours.cell, Epoch(3), None, at(9_999)));
        assert!(!book.answers(&ours.cell, Epoch(3), None, at(10_000)));
    }

    #[test]
    fn a_late_answer_does_not_replace_a_younger_proof() {
        let ours = placement("ours", 3, "here");
        let held = holdings(9, &[(ours.clone(), 4)]);
        let mut book = ProofBook::new();
        book.on_registry(&answer(9, 5), at(5_000), &held).unwrap();
        book.on_registry(&answer(9, 5), at(1_000), &held).unwrap();
        assert!(book.answers(&ours.cell, Epoch(3), None, at(14_999)));
    }

    #[test]
    fn witnesses_carry_a_cell_only_in_their_number() {
        let ours = placement("ours", 3, "here");
        let mut book = ProofBook::new();
        assert!(!book.on_witnesses(&ours, at(0), 1, C));
        assert!(!book.admits(&ours.cell, Epoch(3), at(1)));
        assert!(book.on_witnesses(&ours, at(0), 2, C));
        assert!(book.admits(&ours.cell, Epoch(3), at(1)));
        assert!(!book.admits(&ours.cell, Epoch(4), at(1)));
        let none = Placement { witnesses: WitnessSet::of(BTreeSet::new()), ..ours.clone() };
        assert!(!ProofBook::new().on_witnesses(&none, at(0), 0, C), "no witnesses, no witness proof");
        book.tidy(at(10_000));
        assert!(book.witnessed.is_empty());
    }

    #[test]
    fn where_availability_comes_first_the_table_alone_lets_a_gate_go_on_until_it_says_something_newer() {
        use crate::testing::{place, table_with};
        let (east, west) = (RegionId::new("us-east-1").unwrap(), RegionId::new("us-west-2").unwrap());
        let cell = CellId::new("mercy").unwrap();
        let table = |epoch, holder, phase, first| {
            table_with(&[Placement { availability_first: first, ..place("mercy", epoch, holder, phase) }])
        };
        let serving = |epoch, first| table(epoch, Some("us-east-1"), Phase::Serving, first);
        let goes_on = |table: &RoutingTable, epoch| stands(table, &cell, &east, Epoch(epoch));
        assert!(goes_on(&serving(3, true), 3));
        assert!(!goes_on(&serving(3, false), 3), "an ordinary cell needs a proof");
        assert!(!goes_on(&serving(4, true), 3), "what was let in under an older epoch does not leave");
        assert!(!goes_on(&serving(3, true), 4) && !stands(&serving(3, true), &cell, &west, Epoch(3)));
        let closed = Phase::Closed { reason: domicile_model::ClosedReason::Moving, for_ms: 1 };
        assert!(!goes_on(&table(4, None, closed, true), 4) && !goes_on(&table(4, None, closed, true), 3));
        // Drained as any other: what is in flight goes on during a hold.
        assert!(goes_on(&table(3, Some("us-east-1"), Phase::Holding { for_ms: 9 }, true), 3));
        assert!(!goes_on(&table_with(&[]), 3));
    }

    #[test]
    fn another_world_ends_every_proof() {
        let ours = placement("ours", 3, "here");
        let mut book = ProofBook::new();
        book.on_registry(&answer(9, 5), at(0), &holdings(9, &[(ours.clone(), 4)])).unwrap();
        book.on_witnesses(&ours, at(0), 2, C);
        book.follow_world(WorldId::from_u128(2));
        assert!(!book.answers(&ours.cell, Epoch(3), None, at(1)));
    }

    #[test]
    fn a_placement_newer_than_the_table_says_is_not_covered() {
        let held = holdings(9, &[(placement("ours", 3, "here"), 10)]);
        assert!(held.cells.is_empty());
    }
}
