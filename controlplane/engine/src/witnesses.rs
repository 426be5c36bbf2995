//! Who vouches for a cell: the choice among registered witnesses, and the reconciler that names them.

use std::collections::BTreeSet;

use domicile_model::{
    BarredWitness, Cell, Phase, Placement, RegionId, Role, RouterId, WitnessSet, WitnessState, World,
};
use domicile_store::codec::decode;
use domicile_store::right::take_right;
use domicile_store::{Commit, Key, Leadership, Precondition, Store, Txn};

use crate::error::MoveError;
use crate::snapshot::all;

/// The witnesses of a cell: one gate in each of its regions and one router in a third region, so that any one
/// region may be lost; else up to three gates of the standby's region; else the standby region's routers. Empty where
/// there is nobody to choose. The choice does not depend on the order of `registered`.
#[must_use]
pub fn choose(cell: &Cell, registered: &[WitnessState]) -> BTreeSet<RouterId> {
    let first = |fits: &dyn Fn(&WitnessState) -> bool| {
        registered.iter().filter(|w| fits(w)).map(|w| &w.id).min().cloned()
    };
    let gate_in = |region: &RegionId| first(&|w| w.role == Role::Gate && w.region == *region);
    let third = |role: Option<Role>| {
        first(&|w| w.region != cell.primary && w.region != cell.dr && role.is_none_or(|r| w.role == r))
    };
    if let (Some(a), Some(b), Some(c)) = (
        gate_in(&cell.primary),
        gate_in(&cell.dr),
        // An edge sees cell ids and epochs only; a gate elsewhere has its own cells to answer for.
        third(Some(Role::Edge)).or_else(|| third(None)),
    ) {
        return [a, b, c].into();
    }
    let mut near: Vec<&WitnessState> = registered.iter().filter(|w| w.region == cell.dr).collect();
    near.sort_by_key(|w| (w.role == Role::Edge, w.id.clone()));
    near.into_iter().take(3).map(|w| w.id.clone()).collect()
}

/// Gives every cell without witnesses its own, while it serves and nobody moves it. Idempotent; needs no input.
/// Returns how many cells got some.
///
/// # Errors
/// When the registry does not answer, or this control plane does not lead any more.
pub async fn assign(store: &dyn Store, leadership: &Leadership, world: &World) -> Result<usize, MoveError> {
    let placements = store.list("placements/").await?;
    let lacking: Vec<(Placement, domicile_model::Revision)> = placements
        .entries
        .iter()
        .map(|e| decode::<Placement>(&e.value).map(|p| (p, e.modified)))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|(p, _)| p.witnesses.members.is_empty() && p.phase == Phase::Serving && p.moving.is_none())
        .collect();
    if lacking.is_empty() {
        return Ok(0);
    }
    let barred: Vec<BarredWitness> = all(store, "barred/").await?;
    let mut registered: Vec<WitnessState> = all(store, "witnesses/").await?;
    registered.retain(|w| barred.iter().all(|b| b.id != w.id));
    let mut given = 0;
    for (old, seen) in lacking {
        let (_, cell) = store.read(&[Key::Cell(old.cell.clone())]).await?;
        let Some(cell) = cell.into_iter().next().flatten() else { continue };
        let members = choose(&decode::<Cell>(&cell.value)?, &registered);
        // With fewer than three, losing one region could stop the cell: wait for more to register.
        if members.len() < 3 {
            continue;
        }
        let new = Placement { witnesses: WitnessSet::of(members), ..old.clone() };
        let base = Txn::fenced(world, leadership).when(Precondition::Absent(Key::Move(old.cell.clone())));
        let (txn, _) = take_right(base, &old, seen, new).map_err(|e| MoveError::NotNow(e.to_string()))?;
        match store.commit(txn).await {
            Ok(Commit::Done(_)) => given += 1,
            // Somebody was faster, or leads by now: the next round sees it.
            Ok(Commit::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_model::{BootId, CellId, Revision};

    fn witness(id: &str, region: &str, role: Role) -> WitnessState {
        WitnessState {
            id: RouterId::new(id).unwrap(),
            region: RegionId::new(region).unwrap(),
            role,
            boot: BootId::new(),
            quiet: Revision(0),
            peer: "127.0.0.1:1".parse().unwrap(),
        }
    }

    fn cell() -> Cell {
        Cell {
            id: CellId::new("c").unwrap(),
            primary: RegionId::new("us-east-1").unwrap(),
            dr: RegionId::new("us-west-2").unwrap(),
            availability_first: false,
            rpo_ms: 1,
            ingress: Default::default(),
            application: Default::default(),
            mllp: Default::default(),
            database: None,
        }
    }

    fn names(set: &BTreeSet<RouterId>) -> Vec<&str> {
        set.iter().map(RouterId::as_str).collect()
    }

    #[test]
    fn one_in_each_region_and_one_in_a_third() {
        let mut all = vec![
            witness("gate-a", "us-east-1", Role::Gate),
            witness("gate-b", "us-west-2", Role::Gate),
            witness("gate-e", "eu-west-1", Role::Gate),
            witness("edge-e", "eu-west-1", Role::Edge),
        ];
        assert_eq!(names(&choose(&cell(), &all)), ["edge-e", "gate-a", "gate-b"]);
        all.reverse();
        assert_eq!(names(&choose(&cell(), &all)), ["edge-e", "gate-a", "gate-b"]);
    }

    #[test]
    fn else_the_standbys_region() {
        let all = [
            witness("gate-b1", "us-west-2", Role::Gate),
            witness("gate-b2", "us-west-2", Role::Gate),
            witness("edge-b", "us-west-2", Role::Edge),
            witness("gate-b3", "us-west-2", Role::Gate),
        ];
        assert_eq!(names(&choose(&cell(), &all)), ["gate-b1", "gate-b2", "gate-b3"]);
        assert!(choose(&cell(), &[]).is_empty());
    }
}
