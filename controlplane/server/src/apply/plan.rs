//! What bringing the registry to a fleet takes: changes, refusals with reasons, and the writes. Pure.

use std::collections::BTreeSet;

use domicile_api::views::PlannedChange;
use domicile_engine::witnesses::choose;
use domicile_model::fleet::HostClaim;
use domicile_model::invariants::may_serve;
use domicile_model::validate::violations;
use domicile_model::{Cell, CellId, Fleet, Placement, RegionId, Revision, Tenant, TenantId, WitnessSet};
use domicile_store::{Key, Op, Precondition, Record, Txn, codec, right};
use serde::{Deserialize, Serialize};

use crate::apply::batch::{self, Stage, Unit};
use crate::current::Current;

/// What stands in the history of a thing when it was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its id.
    pub removed: String,
}

impl Record for Removed {
    const NAME: &'static str = "removal";
}

/// What `apply` would do.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// For people, in the order in which it happens; refusals last.
    pub changes: Vec<PlannedChange>,
    /// The writes, in an order in which each prefix is a sound fleet.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// The refusals.
    pub fn refused(&self) -> impl Iterator<Item = &PlannedChange> {
        self.changes.iter().filter(|c| c.action == "refuse")
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(|s| s.units.is_empty())
    }
}

/// Plans the way from `current` to `wanted`; what `wanted` does not name is kept, or removed if `prune`.
#[must_use]
pub fn plan(current: &Current, wanted: &Fleet, prune: bool) -> Plan {
    let mut planner = Planner::new(current, wanted, prune);
    planner.regions();
    planner.cells();
    planner.approvals();
    planner.tenants();
    planner.removals();
    planner.residency();
    planner.end()
}

pub(super) struct Planner<'a> {
    pub(super) current: &'a Current,
    pub(super) wanted: &'a Fleet,
    pub(super) prune: bool,
    /// The fleet as it will stand.
    pub(super) after: Fleet,
    /// The version that history entries of this plan get: above every earlier one, since it follows what was read.
    version: u64,
    changes: Vec<PlannedChange>,
    refused: Vec<PlannedChange>,
    geography: Vec<Unit>,
    cells: Vec<Unit>,
    pub(super) tenants: Vec<Unit>,
    gone: Vec<Unit>,
}

impl<'a> Planner<'a> {
    fn new(current: &'a Current, wanted: &'a Fleet, prune: bool) -> Self {
        let mut after = current.fleet.clone();
        if prune {
            after.tenants.retain(|id, _| wanted.tenants.contains_key(id));
            after.cells.retain(|id, _| wanted.cells.contains_key(id));
            after.regions.retain(|id, _| wanted.regions.contains_key(id));
            after.jurisdictions.retain(|id, _| wanted.jurisdictions.contains_key(id));
        }
        after.tenants.extend(wanted.tenants.clone());
        after.cells.extend(wanted.cells.clone());
        after.regions.extend(wanted.regions.clone());
        after.jurisdictions.extend(wanted.jurisdictions.clone());
        if prune || wanted.approvals.is_some() {
            after.approvals.clone_from(&wanted.approvals);
        }
        let version = u64::try_from(current.revision.next().0).unwrap_or(0);
        Self {
            current,
            wanted,
            prune,
            after,
            version,
            changes: Vec::new(),
            refused: Vec::new(),
            geography: Vec::new(),
            cells: Vec::new(),
            tenants: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn say(&mut self, action: &str, what: &str, id: &dyn std::fmt::Display, why: impl Into<String>) {
        self.changes.push(change(action, what, id, why));
    }

    pub(super) fn refuse(&mut self, what: &str, id: &dyn std::fmt::Display, why: impl Into<String>) {
        let refusal = change("refuse", what, id, why);
        if !self.refused.contains(&refusal) {
            self.refused.push(refusal);
        }
    }

    fn seen(&self, key: &Key) -> Option<Revision> {
        self.current.modified.get(key).copied()
    }

    /// The write of one record, with its history; none if it stands so already.
    pub(super) fn put<T: Record>(
        &self,
        kind: &'static str,
        id: &str,
        key: Key,
        old: Option<&T>,
        new: &T,
    ) -> Option<(Unit, bool)> {
        let bytes = codec::encode(new);
        let exists = old.is_some();
        if old.is_some_and(|old| codec::encode(old) == bytes) {
            return None;
        }
        let when = match self.seen(&key) {
            Some(revision) => Precondition::ModifiedAt(key.clone(), revision),
            None => Precondition::Absent(key.clone()),
        };
        let mut unit = Unit::new(format!("{} {kind} {id}", if exists { "change" } else { "add" }));
        unit.when.push(when);
        unit.then.push(Op::Put(key, bytes.clone(), None));
        unit.then.push(Op::Put(Key::History(kind, id.to_owned(), self.version), bytes, None));
        Some((unit, exists))
    }

    pub(super) fn remove(&self, kind: &'static str, id: &str, key: Key) -> Unit {
        let mut unit = Unit::new(format!("remove {kind} {id}"));
        if let Some(revision) = self.seen(&key) {
            unit.when.push(Precondition::ModifiedAt(key.clone(), revision));
        }
        unit.then.push(Op::Delete(key));
        let removed = codec::encode(&Removed { removed: id.to_owned() });
        unit.then.push(Op::Put(Key::History(kind, id.to_owned(), self.version), removed, None));
        unit
    }

    fn regions(&mut self) {
        for (id, region) in &self.wanted.regions {
            let old = self.current.fleet.regions.get(id);
            let Some((unit, exists)) = self.put("region", id.as_str(), Key::Region(id.clone()), old, region)
            else {
                continue;
            };
            let why = match old {
                Some(old) if old.country != region.country => {
                    format!("country {} becomes {}", old.country, region.country)
                }
                Some(old) if old.ingress == region.ingress => "its edges change".into(),
                Some(old) if old.edges == region.edges => "its ingress changes".into(),
                Some(_) => "its ingress and its edges change".into(),
                None => format!("in {}", region.country),
            };
            self.say(if exists { "change" } else { "add" }, "region", id, why);
            self.geography.push(unit);
        }
        for (id, set) in &self.wanted.jurisdictions {
            let old = self.current.fleet.jurisdictions.get(id);
            let key = Key::Jurisdiction(id.clone());
            let Some((unit, exists)) = self.put("jurisdiction", id.as_str(), key, old, set) else { continue };
            let names: Vec<&str> = set.countries.iter().map(domicile_model::Country::as_str).collect();
            self.say(if exists { "change" } else { "add" }, "jurisdiction", id, names.join(", "));
            self.geography.push(unit);
        }
    }

    fn cells(&mut self) {
        for (id, cell) in &self.wanted.cells {
            let old = self.current.fleet.cells.get(id);
            let Some((mut unit, exists)) = self.put("cell", id.as_str(), Key::Cell(id.clone()), old, cell)
            else {
                continue;
            };
            if let Some(old) = old
                && !self.may_change(old, cell)
            {
                continue;
            }
            if exists {
                unit = unit.when(Precondition::Absent(Key::Move(id.clone())));
            }
            match self.current.placements.get(id) {
                // Also when the cell was removed once: its epochs go on from there.
                Some((placement, _)) => {
                    for region in [&placement.holder, &placement.standby].into_iter().flatten() {
                        if cell.other(region).is_none() {
                            self.refuse("cell", id, format!(
                                "it is placed in `{region}`, which is neither its primary nor its DR region: name that region"
                            ));
                        }
                    }
                }
                None => match first_placement(cell, self.current) {
                    Ok(first) => unit.join(first),
                    Err(why) => self.refuse("cell", id, why),
                },
            }
            let why = if exists {
                changed_cell(old, cell)
            } else {
                format!("served from {}, standby in {}", cell.primary, cell.dr)
            };
            self.say(if exists { "change" } else { "add" }, "cell", id, why);
            self.cells.push(unit);
        }
    }

    /// The approval policy. A file that says nothing about it keeps it.
    fn approvals(&mut self) {
        let (old, id) = (self.current.fleet.approvals.as_ref(), "fleet");
        match (&self.wanted.approvals, old) {
            (Some(new), _) => {
                let Some((unit, exists)) = self.put("approvals", id, Key::Approvals, old, new) else {
                    return;
                };
                self.say(if exists { "change" } else { "add" }, "approvals", &id, asked(new));
                self.geography.push(unit);
            }
            (None, Some(_)) if self.prune => {
                self.say(
                    "remove",
                    "approvals",
                    &id,
                    "the file does not name them: no change waits for approval",
                );
                let unit = self.remove("approvals", id, Key::Approvals);
                self.gone.push(unit);
            }
            (None, Some(_)) => {
                self.say("keep", "approvals", &id, "the file does not name them; --prune removes them");
            }
            (None, None) => {}
        }
    }

    /// Whether an existing cell may change so; says why not.
    fn may_change(&mut self, old: &Cell, new: &Cell) -> bool {
        let id = &new.id;
        if (&old.primary, &old.dr) != (&new.primary, &new.dr) {
            self.refuse("cell", id, format!(
                "its regions can't be changed by a file ({} and {} become {} and {}): its data would stay behind. Move it with `domicile failover start {id} --to REGION`; `primary` and `dr` keep saying where it lives on an ordinary day",
                old.primary, old.dr, new.primary, new.dr
            ));
            return false;
        }
        if let Some(moving) = self.current.moves.get(id) {
            let why = format!(
                "move {moving} of it is under way and relies on it as it stands: wait for its end (`domicile failover watch {moving}`), then apply again"
            );
            self.refuse("cell", id, why);
            return false;
        }
        true
    }

    fn removals(&mut self) {
        let tenants: Vec<TenantId> = gone(&self.current.fleet.tenants, &self.wanted.tenants);
        let cells: Vec<CellId> = gone(&self.current.fleet.cells, &self.wanted.cells);
        let regions: Vec<RegionId> = gone(&self.current.fleet.regions, &self.wanted.regions);
        let sets = gone(&self.current.fleet.jurisdictions, &self.wanted.jurisdictions);
        let action = if self.prune { "remove" } else { "keep" };
        let why = |extra: &str| {
            if self.prune {
                format!("the file does not name it{extra}")
            } else {
                "the file does not name it; --prune removes it".to_owned()
            }
        };
        let mut said = Vec::new();
        for id in &tenants {
            said.push(change(action, "tenant", id, why("; its data stays in its cell's database")));
        }
        for id in &cells {
            said.push(change(
                action,
                "cell",
                id,
                why("; its placement stays, so that its epochs never fall"),
            ));
        }
        for id in &regions {
            said.push(change(action, "region", id, why("")));
        }
        for id in &sets {
            said.push(change(action, "jurisdiction", id, why("")));
        }
        self.changes.extend(said);
        if !self.prune {
            return;
        }
        for id in &cells {
            if let Some(moving) = self.current.moves.get(id) {
                self.refuse("cell", id, format!("move {moving} of it is under way: wait for its end"));
            }
            let users = self.after.tenants.values().filter(|t| t.cell == *id).count();
            if users > 0 {
                self.refuse("cell", id, format!("{users} tenants still use it"));
            }
            let unit = self.remove("cell", id.as_str(), Key::Cell(id.clone()));
            self.gone.push(unit.when(Precondition::Absent(Key::Move(id.clone()))));
        }
        for id in &regions {
            for (placement, _) in self.current.placements.values() {
                let used = [&placement.holder, &placement.standby].into_iter().flatten().any(|r| r == id);
                if used && self.after.cells.contains_key(&placement.cell) {
                    self.refuse("region", id, format!("cell {} is placed there", placement.cell));
                }
            }
            self.gone.push(self.remove("region", id.as_str(), Key::Region(id.clone())));
        }
        for id in &sets {
            self.gone.push(self.remove("jurisdiction", id.as_str(), Key::Jurisdiction(id.clone())));
        }
    }

    /// The rules on the fleet as it will stand, what is kept included, and on where it is served from *now*.
    fn residency(&mut self) {
        for violation in violations(&self.after) {
            let (what, id) = match violation.path.as_slice() {
                [head, id, ..] => (singular(head), id.clone()),
                _ => ("fleet", String::new()),
            };
            self.refuse(
                what,
                &id,
                format!(
                    "together with what the registry already holds: {}. {}",
                    violation.what, violation.hint
                ),
            );
        }
        let tenants: Vec<&Tenant> = self.after.tenants.values().collect();
        let mut refusals = Vec::new();
        for tenant in tenants {
            let Some((placement, _)) = self.current.placements.get(&tenant.cell) else { continue };
            for (region, verb) in [(&placement.holder, "served from"), (&placement.standby, "replicated to")]
            {
                let Some(region) = region else { continue };
                let before = self.current.fleet.tenants.get(&tenant.id).is_none_or(|old| {
                    old.cell != tenant.cell || may_serve(&self.current.fleet, old, region).is_ok()
                });
                if before && let Err(broken) = may_serve(&self.after, tenant, region) {
                    refusals.push((tenant.id.clone(), format!(
                        "its cell {} is {verb} `{region}` now: {}. Move the cell into an allowed region first (`domicile failover start {} --to REGION`)",
                        tenant.cell, broken.detail, tenant.cell
                    )));
                }
            }
        }
        for (id, why) in refusals {
            self.refuse("tenant", &id, why);
        }
    }

    fn end(mut self) -> Plan {
        let stages = batch::stages(
            std::mem::take(&mut self.geography),
            std::mem::take(&mut self.cells),
            std::mem::take(&mut self.tenants),
            std::mem::take(&mut self.gone),
        );
        for (id, why) in batch::unsound(&stages, self.current, self.wanted) {
            self.refuse("fleet", &id, why);
        }
        let mut changes = self.changes;
        // A thing that is refused is not also announced.
        changes.retain(|c| !self.refused.iter().any(|r| r.what == c.what && r.id == c.id));
        changes.extend(self.refused);
        Plan { changes, stages }
    }

    pub(super) fn announce(&mut self, exists: bool, id: &TenantId, why: String) {
        self.say(if exists { "change" } else { "add" }, "tenant", id, why);
    }

    pub(super) fn claim(&self, tenant: &TenantId) -> Vec<u8> {
        codec::encode(&HostClaim { tenant: tenant.clone() })
    }
}

/// Where the approval policy as it would stand asks for fewer people than it does now; none if nowhere.
#[must_use]
pub fn weakens(current: &Current, wanted: &Fleet, prune: bool) -> Option<String> {
    let old = current.fleet.approvals.as_ref()?;
    match &wanted.approvals {
        Some(new) => new.weaker_than(old),
        None if prune => domicile_model::Approvals::default().weaker_than(old),
        None => None,
    }
}

/// Whose approval a policy asks for, in a few words.
fn asked(policy: &domicile_model::Approvals) -> String {
    let needs = |needs: &std::collections::BTreeMap<domicile_model::Change, domicile_model::Need>| {
        needs.iter().map(|(c, n)| format!("{} {n}", c.as_str())).collect::<Vec<_>>().join(", ")
    };
    let mut parts = vec![if policy.fleet.is_empty() { "nobody".to_owned() } else { needs(&policy.fleet) }];
    parts.extend(policy.cells.iter().map(|(cell, own)| format!("in cell {cell}: {}", needs(own))));
    parts.push(format!("within {} s", policy.expires_ms / 1000));
    parts.join("; ")
}

fn change(action: &str, what: &str, id: &dyn std::fmt::Display, why: impl Into<String>) -> PlannedChange {
    PlannedChange { action: action.into(), what: what.into(), id: id.to_string(), why: why.into() }
}

fn gone<K: Ord + Clone, V>(
    current: &std::collections::BTreeMap<K, V>,
    wanted: &std::collections::BTreeMap<K, V>,
) -> Vec<K> {
    current.keys().filter(|k| !wanted.contains_key(k)).cloned().collect()
}

fn singular(head: &str) -> &'static str {
    match head {
        "regions" => "region",
        "jurisdictions" => "jurisdiction",
        "cells" => "cell",
        "approvals" => "approvals",
        _ => "tenant",
    }
}

/// The placement that a new cell begins with: at home, with its witnesses if enough of them are up. Naming them later
/// raises the epoch, and costs the answers that are under way then.
fn first_placement(cell: &Cell, current: &Current) -> Result<Unit, String> {
    let up = current.witnesses.values().filter(|w| current.routers.contains_key(&w.id));
    let chosen = choose(cell, &up.cloned().collect::<Vec<_>>());
    // With fewer than three, losing one region could stop the cell: the reconciler waits for more to register.
    let members = if chosen.len() < 3 { BTreeSet::new() } else { chosen };
    let placement = Placement {
        cell: cell.id.clone(),
        epoch: domicile_model::Epoch::FIRST,
        holder: Some(cell.primary.clone()),
        standby: Some(cell.dr.clone()),
        phase: domicile_model::Phase::Serving,
        moving: None,
        availability_first: cell.availability_first,
        witnesses: WitnessSet::of(members),
    };
    let txn = right::first_right(Txn::bare(), &placement).map_err(|e| e.to_string())?;
    Ok(Unit { what: Vec::new(), when: txn.when, then: txn.then })
}

fn changed_cell(old: Option<&Cell>, new: &Cell) -> String {
    let Some(old) = old else { return String::new() };
    let mut parts = Vec::new();
    if old.rpo_ms != new.rpo_ms {
        parts.push(format!("rpo {} s becomes {} s", old.rpo_ms / 1000, new.rpo_ms / 1000));
    }
    if old.availability_first != new.availability_first {
        // A gate or an agent that has not heard of it would go on as before: only giving the right anew changes it.
        let first = if new.availability_first { "availability" } else { "consistency" };
        parts.push(format!("{first} comes first, from the end of its next move, or once it is closed and opened (`domicile cell close|open {}`); until then as before", new.id));
    }
    for (name, differs) in [
        ("ingress", old.ingress != new.ingress),
        ("application", old.application != new.application),
        ("mllp", old.mllp != new.mllp),
        ("database", old.database != new.database),
    ] {
        if differs {
            parts.push(format!("its {name} changes"));
        }
    }
    parts.join(", ")
}
