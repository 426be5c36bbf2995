//! Changes: each builds the next table from this one.

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_model::clock::BootTime;
use domicile_model::fleet::HostClaim;
use domicile_model::invariants::epoch_rises;
use domicile_model::{
    Cell, CellId, HostPattern, Jurisdiction, Placement, Region, Residency, Revision, Tenant, TenantId,
    WitnessState, World,
};
use domicile_store::codec::decode;
use domicile_store::{Change, Entry, Key, Record};

use super::{Host, RoutingTable};
use crate::entry::{Placed, TenantEntry};

/// A record that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its key.
    pub key: Key,
    /// Why, for a person.
    pub why: Arc<str>,
}

/// What a batch of changes did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many changes were new to the table (whether or not routing looks at their keys).
    pub new: usize,
    /// How many were at or below the applied revision, and ignored.
    pub ignored: usize,
    /// The cells whose placement changed or fell into doubt.
    pub placements: Vec<CellId>,
    /// What was not taken over; the old values stand.
    pub refused: Vec<Refusal>,
    /// The batch makes the registry another world (or none): nothing of it was applied, the whole registry must be
    /// listed again.
    pub other_world: bool,
}

/// Equal policies share one value: a thousand tenants under `["US"]` are the usual case.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies(Arc<BTreeMap<Vec<u8>, Arc<Residency>>>);

impl Policies {
    /// Beyond this many different ones, further policies are kept apart: sharing would no longer pay.
    const MOST: usize = 4096;

    fn share(&mut self, policy: Residency) -> Arc<Residency> {
        // A policy is plain data, so this can't fail; if it did, the policy is just not shared.
        let Ok(name) = serde_json::to_vec(&policy) else { return Arc::new(policy) };
        if let Some(found) = self.0.get(&name) {
            return found.clone();
        }
        let policy = Arc::new(policy);
        if self.0.len() < Self::MOST {
            Arc::make_mut(&mut self.0).insert(name, policy.clone());
        }
        policy
    }
}

impl RoutingTable {
    /// The table after these changes, which stand in the order of their revisions. Changes at or below the applied
    /// revision are ignored; a change that can't be read, or would lower an epoch, leaves the old value in place and
    /// is reported.
    #[must_use]
    pub fn apply(&self, changes: &[Change], now: BootTime) -> (Self, Applied) {
        let mut next = self.clone();
        let mut report = Applied::default();
        let floor = self.applied;
        for change in changes {
            if change.revision() <= floor {
                report.ignored += 1;
                continue;
            }
            if self.leaves_world(change) {
                return (self.clone(), Applied { other_world: true, ..Applied::default() });
            }
            report.new += 1;
            next.applied = next.applied.max(change.revision());
            match change {
                Change::Put(entry) => {
                    let result = next.put(entry, now, &mut report.placements);
                    next.note(&entry.key, result, &mut report.refused);
                }
                Change::Delete(key, revision) => next.delete(key, *revision, &mut report.placements),
            }
        }
        (next, report)
    }

    /// The table with one placement that was read ahead of the watch. `applied` does not move, so that no proof
    /// covers the placement until the watch has come to it.
    #[must_use]
    pub fn apply_ahead(&self, entry: &Entry, now: BootTime) -> (Self, Applied) {
        let mut next = self.clone();
        let mut report = Applied::default();
        if matches!(entry.key, Key::Placement(_)) {
            let result = next.put(entry, now, &mut report.placements);
            report.new = report.placements.len();
            next.note(&entry.key, result, &mut report.refused);
        }
        (next, report)
    }

    fn leaves_world(&self, change: &Change) -> bool {
        let Some(ours) = self.world() else { return false };
        match change {
            Change::Put(entry) if entry.key == Key::World => {
                decode::<World>(&entry.value).is_ok_and(|world| world.id != ours.id)
            }
            Change::Delete(Key::World, _) => true,
            _ => false,
        }
    }

    /// Remembers or forgets that a record was refused.
    pub(super) fn note(&mut self, key: &Key, result: Result<(), Arc<str>>, refused: &mut Vec<Refusal>) {
        match result {
            Ok(()) => {
                if self.refused.contains_key(key) {
                    Arc::make_mut(&mut self.refused).remove(key);
                }
            }
            Err(why) => {
                Arc::make_mut(&mut self.refused).insert(key.clone(), why.clone());
                refused.push(Refusal { key: key.clone(), why });
            }
        }
    }

    pub(super) fn put(
        &mut self,
        entry: &Entry,
        now: BootTime,
        placements: &mut Vec<CellId>,
    ) -> Result<(), Arc<str>> {
        match &entry.key {
            Key::World => self.world = Some(Arc::new(read::<World>(entry)?)),
            Key::Region(id) => {
                let region = named(read::<Region>(entry)?, |r| r.id == *id)?;
                Arc::make_mut(&mut self.regions).insert(id.clone(), region);
            }
            Key::Jurisdiction(id) => {
                let set = named(read::<Jurisdiction>(entry)?, |j| j.id == *id)?;
                Arc::make_mut(&mut self.jurisdictions).insert(id.clone(), set);
            }
            Key::Cell(id) => {
                let cell = named(read::<Cell>(entry)?, |c| c.id == *id)?;
                self.cells.insert(Arc::new(cell));
            }
            Key::Tenant(id) => {
                let tenant = named(read::<Tenant>(entry)?, |t| t.id == *id)?;
                // The cell's own record and the key already hold these texts.
                let cell = self.cells.get(tenant.cell.as_str()).map_or(tenant.cell, |cell| cell.id.clone());
                let residency = self.policies.share(tenant.residency);
                self.tenants.insert(TenantEntry { id: id.clone(), cell, residency });
            }
            Key::Host(pattern) => {
                let claim = read::<HostClaim>(entry)?;
                self.put_host(pattern, claim.tenant);
            }
            Key::Witness(id) => {
                let witness = named(read::<WitnessState>(entry)?, |w| w.id == *id)?;
                Arc::make_mut(&mut self.witnesses).insert(id.clone(), witness);
            }
            Key::Placement(cell) => return self.put_placement(cell, entry, now, placements),
            _ => {}
        }
        Ok(())
    }

    fn put_host(&mut self, pattern: &HostPattern, tenant: TenantId) {
        let tenant = self.tenants.get(tenant.as_str()).map_or(tenant, |known| known.id.clone());
        match pattern {
            HostPattern::Exact(name) => {
                self.exact.insert(Host { name: name.as_str().into(), tenant });
            }
            HostPattern::Wildcard(name) => {
                self.wildcard.insert(Host { name: name.as_str().into(), tenant });
            }
        }
    }

    fn put_placement(
        &mut self,
        cell: &CellId,
        entry: &Entry,
        now: BootTime,
        changed: &mut Vec<CellId>,
    ) -> Result<(), Arc<str>> {
        let known = self.placements.get(cell.as_str()).cloned();
        if let Some(known) = known.as_ref().filter(|k| entry.modified <= k.modified) {
            // It was read ahead of the watch; or refused before, and still is.
            return known.doubt.clone().map_or(Ok(()), Err);
        }
        let floor = self.floors.get(cell).copied();
        let result = read::<Placement>(entry).and_then(|p| named(p, |p| p.cell == *cell)).and_then(|p| {
            let before = known.as_ref().map_or(&p, |k| &k.placement);
            epoch_rises(before, &p).map_err(|broken| Arc::from(broken.to_string()))?;
            match floor.filter(|floor| p.epoch <= *floor) {
                Some(floor) => Err(Arc::from(format!(
                    "cell {cell} was removed at epoch {floor} and is back at epoch {}, which is not above",
                    p.epoch
                ))),
                None => Ok(p),
            }
        });
        changed.push(cell.clone());
        match result {
            Ok(placement) => {
                self.placements.insert(Arc::new(Placed {
                    placement,
                    modified: entry.modified,
                    applied_at: now,
                    doubt: None,
                }));
                if floor.is_some() {
                    Arc::make_mut(&mut self.floors).remove(cell);
                }
                Ok(())
            }
            Err(why) => {
                self.doubt(cell, &why);
                Err(why)
            }
        }
    }

    /// Marks a placement: the registry holds something else that was refused.
    pub(super) fn doubt(&mut self, cell: &CellId, why: &Arc<str>) {
        if let Some(known) = self.placements.get(cell.as_str()) {
            let doubted = Placed { doubt: Some(why.clone()), ..(**known).clone() };
            self.placements.insert(Arc::new(doubted));
        }
    }

    fn delete(&mut self, key: &Key, revision: Revision, placements: &mut Vec<CellId>) {
        match key {
            Key::Region(id) => {
                Arc::make_mut(&mut self.regions).remove(id);
            }
            Key::Jurisdiction(id) => {
                Arc::make_mut(&mut self.jurisdictions).remove(id);
            }
            Key::Cell(id) => {
                self.cells.remove(id.as_str());
            }
            Key::Tenant(id) => {
                self.tenants.remove(id.as_str());
            }
            Key::Host(HostPattern::Exact(name)) => {
                self.exact.remove(name.as_str());
            }
            Key::Host(HostPattern::Wildcard(name)) => {
                self.wildcard.remove(name.as_str());
            }
            Key::Witness(id) => {
                Arc::make_mut(&mut self.witnesses).remove(id);
            }
            Key::Placement(cell) => {
                let known = self.placements.get(cell.as_str()).filter(|k| k.modified < revision).cloned();
                if let Some(known) = known {
                    self.placements.remove(cell.as_str());
                    Arc::make_mut(&mut self.floors).insert(cell.clone(), known.placement.epoch);
                    placements.push(cell.clone());
                }
            }
            _ => {}
        }
        if self.refused.contains_key(key) {
            Arc::make_mut(&mut self.refused).remove(key);
        }
    }
}

fn read<T: Record>(entry: &Entry) -> Result<T, Arc<str>> {
    decode(&entry.value).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => Arc::from(format!("{error}: {source}")),
        None => Arc::from(error.to_string()),
    })
}

/// A record must be the thing that its key names: another one was put there by hand.
fn named<T: Record>(record: T, is_it: impl Fn(&T) -> bool) -> Result<T, Arc<str>> {
    if is_it(&record) {
        Ok(record)
    } else {
        Err(Arc::from(format!("the {} bears another id than its key", T::NAME)))
    }
}
