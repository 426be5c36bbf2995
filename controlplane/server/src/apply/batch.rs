//! From single changes to transactions: as few as the registry's limits allow, each prefix of them a sound fleet.

use std::collections::BTreeMap;

use domicile_model::validate::violations;
use domicile_model::{Fleet, TenantId};
use domicile_store::{Op, Precondition};

use crate::current::Current;

/// Most writes, and most preconditions, of one transaction: etcd's 128, less what every transaction carries (world,
/// leader, audit).
pub(crate) const MOST: usize = 120;
/// Most bytes of one transaction's values, well under etcd's 1.5 MiB.
const MOST_BYTES: usize = 1 << 20;

/// What must be written together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// For the audit log.
    pub what: Vec<String>,
    /// What must hold.
    pub when: Vec<Precondition>,
    /// What is written.
    pub then: Vec<Op>,
}

impl Unit {
    pub(crate) fn new(what: String) -> Self {
        Self { what: vec![what], when: Vec::new(), then: Vec::new() }
    }

    pub(crate) fn when(mut self, precondition: Precondition) -> Self {
        self.when.push(precondition);
        self
    }

    /// Takes another unit in. The same precondition is asked once.
    pub(crate) fn join(&mut self, other: Self) {
        self.what.extend(other.what);
        for precondition in other.when {
            if !self.when.contains(&precondition) {
                self.when.push(precondition);
            }
        }
        self.then.extend(other.then);
    }

    fn bytes(&self) -> usize {
        let puts = self.then.iter().map(|op| match op {
            Op::Put(_, value, _) => value.len() + 200,
            Op::Delete(_) => 200,
        });
        puts.sum()
    }

    /// Whether one transaction holds it.
    pub(crate) fn fits(&self) -> bool {
        self.then.len() <= MOST && self.when.len() <= MOST && self.bytes() <= MOST_BYTES
    }
}

/// What may be written in any order and in any number of transactions, after the stages before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its name, in messages.
    pub name: &'static str,
    /// The units.
    pub units: Vec<Unit>,
}

/// Everything in one stage if one transaction holds it; else what others refer to comes first and goes last.
pub(crate) fn stages(
    geography: Vec<Unit>,
    cells: Vec<Unit>,
    tenants: Vec<Unit>,
    gone: Vec<Unit>,
) -> Vec<Stage> {
    let all = [
        ("regions and jurisdictions", geography),
        ("cells", cells),
        ("tenants", tenants),
        ("removals", gone),
    ];
    let mut whole = Unit::default();
    for unit in all.iter().flat_map(|(_, units)| units) {
        whole.join(unit.clone());
        if !whole.fits() {
            return all.into_iter().map(|(name, units)| Stage { name, units }).collect();
        }
    }
    if whole.then.is_empty() { Vec::new() } else { vec![Stage { name: "everything", units: vec![whole] }] }
}

/// If the stages can't be one transaction: what would be wrong between two of them.
pub(crate) fn unsound(stages: &[Stage], current: &Current, wanted: &Fleet) -> Vec<(String, String)> {
    if stages.len() < 2 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut between = current.fleet.clone();
    // What was wrong before is not made wrong by this file.
    let known = violations(&between);
    between.regions.extend(wanted.regions.clone());
    between.jurisdictions.extend(wanted.jurisdictions.clone());
    let after_geography = violations(&between);
    between.cells.extend(wanted.cells.clone());
    let after_cells = violations(&between);
    for (stage, list) in [("regions and jurisdictions", after_geography), ("cells", after_cells)] {
        for violation in list.into_iter().filter(|v| !known.contains(v)) {
            found.push((
                violation.path.get(1).cloned().unwrap_or_default(),
                format!(
                    "this file takes several transactions, and after the {stage} were written this would be wrong for a moment: {}. Apply a file with fewer changes first, so that what belongs together goes together",
                    violation.what
                ),
            ));
        }
    }
    found
}

/// Joins the units of tenants that must change together.
pub(crate) fn join(mut units: BTreeMap<TenantId, Unit>, together: &[(TenantId, TenantId)]) -> Vec<Unit> {
    // Each tenant points to the one that it was joined into.
    let mut into: BTreeMap<TenantId, TenantId> = BTreeMap::new();
    fn root(into: &BTreeMap<TenantId, TenantId>, id: &TenantId) -> TenantId {
        let mut at = id.clone();
        while let Some(next) = into.get(&at) {
            at = next.clone();
        }
        at
    }
    for (a, b) in together {
        let (a, b) = (root(&into, a), root(&into, b));
        if a == b {
            continue;
        }
        if let Some(unit) = units.remove(&a) {
            match units.get_mut(&b) {
                Some(target) => target.join(unit),
                None => drop(units.insert(b.clone(), unit)),
            }
        }
        into.insert(a, b);
    }
    units.into_values().collect()
}

/// Packs units into transactions of at most [`MOST`] writes, in their order.
pub(crate) fn pack(units: &[Unit]) -> Vec<Unit> {
    let mut packed: Vec<Unit> = Vec::new();
    for unit in units {
        if let Some(last) = packed.last_mut() {
            let mut both = last.clone();
            both.join(unit.clone());
            if both.fits() {
                *last = both;
                continue;
            }
        }
        packed.push(unit.clone());
    }
    packed
}
