//! Tenants and the names that lead to them. A name that passes from one tenant to another passes in one transaction.

use std::collections::BTreeMap;

use domicile_model::{HostPattern, Tenant, TenantId};
use domicile_store::{Key, Op, Precondition};

use crate::apply::batch::{self, Unit};
use crate::apply::plan::Planner;

impl Planner<'_> {
    pub(super) fn tenants(&mut self) {
        let mut units: BTreeMap<TenantId, Unit> = BTreeMap::new();
        for (id, tenant) in &self.wanted.tenants {
            let old = self.current.fleet.tenants.get(id);
            let Some((unit, exists)) = self.put("tenant", id.as_str(), Key::Tenant(id.clone()), old, tenant)
            else {
                continue;
            };
            if let Some(old) = old
                && old.cell != tenant.cell
            {
                let why = format!(
                    "its data lies in cell `{}`; a file can't carry it to cell `{}`. Keep `cell = \"{}\"`",
                    old.cell, tenant.cell, old.cell
                );
                self.refuse("tenant", id, why);
                continue;
            }
            self.announce(exists, id, describe(old, tenant));
            units.insert(id.clone(), self.with_placement(unit, tenant));
        }
        if self.prune {
            for id in self.current.fleet.tenants.keys() {
                if !self.wanted.tenants.contains_key(id) {
                    units.insert(id.clone(), self.remove("tenant", id.as_str(), Key::Tenant(id.clone())));
                }
            }
        }
        let together = self.hosts(&mut units);
        for unit in batch::join(units, &together) {
            if !unit.fits() {
                let whose = unit.what.join(", ");
                self.refuse("tenant", &whose, format!(
                    "it takes {} writes at once, more than one transaction holds: spread its hosts over several applies",
                    unit.then.len()
                ));
            }
            self.tenants.push(unit);
        }
    }

    /// Residency was judged against the placement as it was read, and no move may change it meanwhile.
    fn with_placement(&self, unit: Unit, tenant: &Tenant) -> Unit {
        match self.current.placements.get(&tenant.cell) {
            Some((_, revision)) => {
                unit.when(Precondition::ModifiedAt(Key::Placement(tenant.cell.clone()), *revision))
            }
            None => unit,
        }
    }

    /// Adds the claims to the tenants' units; returns the pairs that must stay together.
    fn hosts(&mut self, units: &mut BTreeMap<TenantId, Unit>) -> Vec<(TenantId, TenantId)> {
        let mut wanted: BTreeMap<HostPattern, TenantId> = BTreeMap::new();
        for tenant in self.after.tenants.values() {
            for host in &tenant.hosts {
                wanted.insert(host.clone(), tenant.id.clone());
            }
        }
        let mut together = Vec::new();
        let mut claims = Vec::new();
        for (host, tenant) in &wanted {
            let key = Key::Host(host.clone());
            match (self.current.hosts.get(host), self.current.modified.get(&key)) {
                (Some(holder), _) if holder == tenant => {}
                (Some(holder), Some(revision)) => {
                    if self.after.tenants.get(holder).is_some_and(|t| t.hosts.contains(host)) {
                        // Two tenants with one host: refused as a violation already.
                        continue;
                    }
                    together.push((holder.clone(), tenant.clone()));
                    let op = Op::Put(key.clone(), self.claim(tenant), None);
                    claims.push((tenant.clone(), Precondition::ModifiedAt(key, *revision), op));
                }
                _ => {
                    let op = Op::Put(key.clone(), self.claim(tenant), None);
                    claims.push((tenant.clone(), Precondition::Absent(key), op));
                }
            }
        }
        for (host, holder) in &self.current.hosts {
            let key = Key::Host(host.clone());
            if !wanted.contains_key(host)
                && let Some(revision) = self.current.modified.get(&key)
            {
                claims.push((
                    holder.clone(),
                    Precondition::ModifiedAt(key.clone(), *revision),
                    Op::Delete(key),
                ));
            }
        }
        for (tenant, when, op) in claims {
            let unit =
                units.entry(tenant.clone()).or_insert_with(|| Unit::new(format!("hosts of tenant {tenant}")));
            unit.when.push(when);
            unit.then.push(op);
        }
        together
    }
}

fn describe(old: Option<&Tenant>, new: &Tenant) -> String {
    let Some(old) = old else { return format!("in cell {}", new.cell) };
    let mut parts = Vec::new();
    let names =
        |hosts: Vec<&HostPattern>| hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let added: Vec<_> = new.hosts.difference(&old.hosts).collect();
    if !added.is_empty() {
        parts.push(format!("gains {}", names(added)));
    }
    let lost: Vec<_> = old.hosts.difference(&new.hosts).collect();
    if !lost.is_empty() {
        parts.push(format!("loses {}", names(lost)));
    }
    if old.name != new.name {
        parts.push("its name changes".into());
    }
    if old.residency != new.residency {
        parts.push("its residency policy changes".into());
    }
    parts.join("; ")
}
