//! Where a cell is not what its placement says: the registry beside what was seen of its databases. Pure, and without
//! memory: what is found is what is so now.

use std::collections::BTreeMap;

use domicile_api::views::FindingView;
use domicile_model::{Cell, ClosedReason, FenceLevel, Phase, Placement, RegionId};

use crate::provider::Observation;

/// What was seen of a cell's databases lately; a region that is missing was not seen.
pub type Seen = BTreeMap<RegionId, Observation>;

fn finding(kind: &str, cell: &Cell, region: Option<&RegionId>, what: String) -> FindingView {
    FindingView { kind: kind.to_owned(), cell: Some(cell.id.clone()), region: region.cloned(), what }
}

/// Everything about this cell that a person should look at. Nothing while a move has it: that says itself what it waits for.
#[must_use]
pub fn findings(cell: &Cell, placement: &Placement, moving: bool, seen: &Seen) -> Vec<FindingView> {
    if moving {
        return Vec::new();
    }
    let mut found = registry(cell, placement);
    if cell.database.is_some() {
        found.extend(databases(cell, placement, seen));
    }
    found
}

/// What the registry contradicts itself in.
fn registry(cell: &Cell, placement: &Placement) -> Vec<FindingView> {
    let mut found = Vec::new();
    let id = &cell.id;
    let left_over = placement.moving.is_some()
        || matches!(
            placement.phase,
            Phase::Holding { .. } | Phase::Closed { reason: ClosedReason::Moving, .. }
        );
    if left_over {
        found.push(finding(
            "move-without-record",
            cell,
            None,
            format!("cell {id} is placed as if a move had it, and none does: was the registry restored? Its history (`domicile failover list`) tells what was under way"),
        ));
    }
    if matches!(placement.phase, Phase::Closed { reason: ClosedReason::Conflict, .. }) {
        found.push(finding(
            "conflict",
            cell,
            None,
            format!("who holds cell {id} is not known: look at both databases, then `domicile cell open {id} --region REGION`"),
        ));
    }
    if placement.availability_first != cell.availability_first && placement.holder.is_some() {
        let first = |yes| if yes { "availability" } else { "consistency" };
        found.push(finding(
            "choice-pending",
            cell,
            None,
            format!(
                "in cell {id} {} is to come first, and {} does until the right is given anew: by its next move, or `domicile cell close {id}` and `cell open {id}`",
                first(cell.availability_first),
                first(placement.availability_first)
            ),
        ));
    }
    for region in [&placement.holder, &placement.standby].into_iter().flatten() {
        if cell.other(region).is_none() {
            found.push(finding(
                "placed-elsewhere",
                cell,
                Some(region),
                format!("cell {id} is placed in {region}, which is neither its primary nor its DR region: mend the file and apply it"),
            ));
        }
    }
    found
}

/// What the databases are, and should not be.
fn databases(cell: &Cell, placement: &Placement, seen: &Seen) -> Vec<FindingView> {
    let mut found = Vec::new();
    let id = &cell.id;
    let answers = |region: &RegionId| seen.get(region).filter(|seen| seen.reachable);
    for region in [&cell.primary, &cell.dr] {
        let Some(server) = answers(region) else { continue };
        let holds = placement.holder.as_ref() == Some(region);
        let follows = placement.standby.as_ref() == Some(region);
        if holds && server.writable == Some(false) {
            let why = if server.fence.is_some() {
                "a fence is in force on it"
            } else {
                "it is stopped, or a standby"
            };
            found.push(finding(
                "holder-not-writable",
                cell,
                Some(region),
                format!("{region} holds cell {id}, and its database takes no writes: {why}; look at its agent's log"),
            ));
        }
        if holds
            && !placement.availability_first
            && let Some(level) = server.fence_level.filter(|level| *level < FenceLevel::Supervisor)
        {
            found.push(finding(
                "weak-fence",
                cell,
                Some(region),
                format!("the fence level of cell {id} in {region} is {level}: when its last proof ends, {}; put a `domicile agent` beside the database, which starts it", level.means()),
            ));
        }
        if !holds && server.writable == Some(true) {
            found.push(finding(
                "stray-primary",
                cell,
                Some(region),
                format!("the database of {id} in {region} runs as a primary, and {region} does not hold the cell: it opens for nobody without a proof; keep what only it has, then `domicile cell reprotect {id}`"),
            ));
        }
        if follows
            && server.standby == Some(false)
            && server.writable != Some(true)
            && placement.holder.is_some()
        {
            found.push(finding(
                "standby-down",
                cell,
                Some(region),
                format!("{region} is named as the standby of {id}, and its database is none that runs: look at its agent's log"),
            ));
        }
        if !holds && !follows && server.standby == Some(true) && placement.holder.is_some() {
            found.push(finding(
                "orphaned-standby",
                cell,
                Some(region),
                format!("the database of {id} in {region} is a standby that nothing counts on: `domicile cell reprotect {id}` names it once it streams"),
            ));
        }
    }
    let ids = [&cell.primary, &cell.dr].map(|r| answers(r).and_then(|s| s.system_id.as_deref()));
    if let [Some(a), Some(b)] = ids
        && a != b
    {
        found.push(finding(
            "other-history",
            cell,
            None,
            format!("the two databases of {id} are of different systems ({a} and {b}): neither can follow the other; check the addresses in regions.toml"),
        ));
    }
    if placement.standby.is_none() && placement.holder.is_some() {
        found.push(finding(
            "unprotected",
            cell,
            None,
            format!("cell {id} has no standby: losing its region loses its data; `domicile cell reprotect {id}` builds one"),
        ));
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use domicile_model::fleet::Database;
    use domicile_model::{CellId, Epoch, MoveId, SecretRef, WitnessSet};

    fn region(name: &str) -> RegionId {
        RegionId::new(name).unwrap()
    }

    pub(crate) fn cell() -> Cell {
        Cell {
            id: CellId::new("c").unwrap(),
            primary: region("us-east-1"),
            dr: region("us-west-2"),
            availability_first: false,
            rpo_ms: 1,
            ingress: BTreeMap::new(),
            application: BTreeMap::new(),
            mllp: BTreeMap::new(),
            database: Some(Database {
                name: "d".into(),
                user: "u".into(),
                password: SecretRef::Env("P".into()),
                endpoints: BTreeMap::new(),
            }),
        }
    }

    fn placed() -> Placement {
        Placement {
            cell: CellId::new("c").unwrap(),
            epoch: Epoch(3),
            holder: Some(region("us-east-1")),
            standby: Some(region("us-west-2")),
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of([].into()),
        }
    }

    fn server(writable: bool, standby: bool) -> Observation {
        Observation {
            reachable: true,
            writable: Some(writable),
            standby: Some(standby),
            system_id: Some("7".into()),
            ..Observation::default()
        }
    }

    fn seen(a: Observation, b: Observation) -> Seen {
        [(region("us-east-1"), a), (region("us-west-2"), b)].into()
    }

    fn kinds(placement: &Placement, seen: &Seen) -> Vec<String> {
        findings(&cell(), placement, false, seen).into_iter().map(|f| f.kind).collect()
    }

    #[test]
    fn a_cell_that_is_what_its_placement_says_has_no_findings() {
        let well = seen(server(true, false), server(false, true));
        assert_eq!(kinds(&placed(), &well), Vec::<String>::new());
        // Who does not answer is not known to be anything.
        let away = Observation::default();
        assert_eq!(kinds(&placed(), &seen(away.clone(), away)), Vec::<String>::new());
        assert_eq!(kinds(&placed(), &Seen::new()), Vec::<String>::new());
    }

    #[test]
    fn what_differs_is_named() {
        let (up, standby, down) = (server(true, false), server(false, true), server(false, false));
        assert_eq!(kinds(&placed(), &seen(down.clone(), standby.clone())), ["holder-not-writable"]);
        assert_eq!(kinds(&placed(), &seen(up.clone(), up.clone())), ["stray-primary"]);
        assert_eq!(kinds(&placed(), &seen(up.clone(), down.clone())), ["standby-down"]);
        let other = Observation { system_id: Some("8".into()), ..standby.clone() };
        assert_eq!(kinds(&placed(), &seen(up.clone(), other)), ["other-history"]);
        let level = |level, server: &Observation| Observation { fence_level: Some(level), ..server.clone() };
        for (told, weak) in
            [(FenceLevel::GateOnly, true), (FenceLevel::DeadMan, true), (FenceLevel::Supervisor, false)]
        {
            let found = kinds(&placed(), &seen(level(told, &up), level(FenceLevel::GateOnly, &standby)));
            assert_eq!(found == ["weak-fence"], weak, "{told}: {found:?}");
        }
        let chosen = Placement { availability_first: true, ..placed() };
        let weak = seen(level(FenceLevel::GateOnly, &up), standby.clone());
        assert_eq!(kinds(&chosen, &weak), ["choice-pending"], "nothing but its word stops it anyway");
        let bare = Placement { standby: None, ..placed() };
        assert_eq!(kinds(&bare, &seen(up.clone(), standby)), ["orphaned-standby", "unprotected"]);
        assert_eq!(kinds(&bare, &seen(up.clone(), down.clone())), ["unprotected"]);
        let closed =
            |reason| Placement { holder: None, phase: Phase::Closed { reason, for_ms: 0 }, ..placed() };
        assert_eq!(kinds(&closed(ClosedReason::Conflict), &Seen::new()), ["conflict"]);
        assert_eq!(kinds(&closed(ClosedReason::Moving), &Seen::new()), ["move-without-record"]);
        // A closed cell's database is stopped, and its standby waits: nothing is wrong with that.
        assert_eq!(
            kinds(&closed(ClosedReason::Operator), &seen(down.clone(), down.clone())),
            Vec::<String>::new()
        );
        assert_eq!(kinds(&closed(ClosedReason::Operator), &seen(up, down)), ["stray-primary"]);
        let moved = Placement { moving: Some(MoveId::new()), ..placed() };
        assert_eq!(kinds(&moved, &Seen::new()), ["move-without-record"]);
        assert_eq!(findings(&cell(), &moved, true, &Seen::new()), [], "a move tells of itself");
        let elsewhere = Placement { holder: Some(region("eu-west-1")), ..placed() };
        assert_eq!(kinds(&elsewhere, &Seen::new()), ["placed-elsewhere"]);
    }
}
