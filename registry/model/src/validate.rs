//! Whether a fleet makes sense: every mistake at once, each with the place it stands at.

use std::collections::BTreeMap;

use crate::fleet::{Cell, Fleet, Tenant};
use crate::host::HostPattern;
use crate::ids::{JurisdictionId, RegionId, TenantId};
use crate::residency::Category;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Keys from the root of regions.toml to the place, most exact first tried: `["tenants", "mercy", "dr"]`.
    pub path: Vec<String>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Finds every mistake in a fleet whose single values are well-formed. Empty: the fleet is sound.
#[must_use]
pub fn violations(fleet: &Fleet) -> Vec<Violation> {
    let mut found = Vec::new();
    for cell in fleet.cells.values() {
        check_cell(fleet, cell, &mut found);
    }
    let mut claims: BTreeMap<&HostPattern, &TenantId> = BTreeMap::new();
    for tenant in fleet.tenants.values() {
        check_tenant(fleet, tenant, &mut found);
        for host in &tenant.hosts {
            if let Some(first) = claims.insert(host, &tenant.id) {
                found.push(Violation {
                    path: path(&["tenants", tenant.id.as_str(), "hosts"]),
                    what: format!("host `{host}` is claimed by `{first}` and by `{}`", tenant.id),
                    hint: "a host leads to one tenant: take it from one of them".into(),
                });
            }
        }
    }
    found
}

fn path(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|k| (*k).to_owned()).collect()
}

/// Where a cell's own key stands: in `[cells.<id>]`, or in the tenant that got a cell of its own name.
fn cell_path(fleet: &Fleet, cell: &Cell, key: &str) -> Vec<String> {
    let silo = TenantId::new(cell.id.as_str()).ok().and_then(|id| fleet.tenants.get(&id));
    match silo {
        Some(tenant) if tenant.cell == cell.id => path(&["cells|tenants", cell.id.as_str(), key]),
        _ => path(&["cells", cell.id.as_str(), key]),
    }
}

fn known_regions(fleet: &Fleet) -> String {
    let names: Vec<&str> = fleet.regions.keys().map(RegionId::as_str).collect();
    if names.is_empty() {
        "define it under [regions]".into()
    } else {
        format!("known regions: {}", names.join(", "))
    }
}

fn check_cell(fleet: &Fleet, cell: &Cell, found: &mut Vec<Violation>) {
    for (key, region) in [("primary", &cell.primary), ("dr", &cell.dr)] {
        if !fleet.regions.contains_key(region) {
            found.push(Violation {
                path: cell_path(fleet, cell, key),
                what: format!("cell `{}`: region `{region}` does not exist", cell.id),
                hint: known_regions(fleet),
            });
        }
    }
    if cell.primary == cell.dr {
        found.push(Violation {
            path: cell_path(fleet, cell, "dr"),
            what: format!("cell `{}`: the primary region `{}` is also its DR region", cell.id, cell.dr),
            hint: "a disaster takes a whole region: name another one".into(),
        });
    }
    let named = [
        ("ingress", cell.ingress.keys().collect::<Vec<_>>()),
        ("application", cell.application.keys().collect()),
    ];
    for (key, regions) in named {
        for region in regions {
            if cell.other(region).is_none() {
                found.push(Violation {
                    path: path(&["cells", cell.id.as_str(), key, region.as_str()]),
                    what: format!("cell `{}`: `{region}` is neither its primary nor its DR region", cell.id),
                    hint: format!("use `{}` or `{}`", cell.primary, cell.dr),
                });
            }
        }
    }
    if let Some(database) = &cell.database {
        for region in [&cell.primary, &cell.dr] {
            if !database.endpoints.contains_key(region) {
                found.push(Violation {
                    path: path(&["cells", cell.id.as_str(), "database"]),
                    what: format!("cell `{}`: its database has no endpoint in `{region}`", cell.id),
                    hint: format!("add [cells.{}.database.{region}] with address and agent", cell.id),
                });
            }
        }
        for region in database.endpoints.keys().filter(|r| cell.other(r).is_none()) {
            found.push(Violation {
                path: path(&["cells", cell.id.as_str(), "database", region.as_str()]),
                what: format!("cell `{}`: `{region}` is neither its primary nor its DR region", cell.id),
                hint: format!("use `{}` or `{}`", cell.primary, cell.dr),
            });
        }
    }
}

fn check_tenant(fleet: &Fleet, tenant: &Tenant, found: &mut Vec<Violation>) {
    let id = tenant.id.as_str();
    let names = tenant.residency.allowed.iter().chain(tenant.residency.overrides.values()).flatten();
    for name in names {
        if !is_known(fleet, name) {
            found.push(Violation {
                path: path(&["tenants", id, "residency"]),
                what: format!("tenant `{id}`: jurisdiction `{name}` is neither a country nor defined"),
                hint: "use a country (US, GB, IN) or define the set under [jurisdictions]".into(),
            });
        }
    }
    let Some(cell) = fleet.cells.get(&tenant.cell) else {
        found.push(Violation {
            path: path(&["tenants", id, "cell"]),
            what: format!("tenant `{id}`: cell `{}` does not exist", tenant.cell),
            hint: format!("define [cells.{}], or give the tenant `primary` and `dr` of its own", tenant.cell),
        });
        return;
    };
    let wanted = [
        (Category::Processing, &cell.primary, "primary"),
        (Category::Storage, &cell.primary, "primary"),
        (Category::Dr, &cell.dr, "dr"),
    ];
    for (category, region_id, key) in wanted {
        let Some(region) = fleet.regions.get(region_id) else { continue };
        if tenant.residency.allows(category, region.country, &fleet.jurisdictions) {
            continue;
        }
        let allowed: Vec<&str> = tenant
            .residency
            .restriction(category)
            .into_iter()
            .flatten()
            .map(JurisdictionId::as_str)
            .collect();
        found.push(Violation {
            path: path(&["tenants", id, "residency"]),
            what: format!(
                "tenant `{id}`: its {key} region `{region_id}` is in {}, which its residency policy does not allow for {category}",
                region.country
            ),
            hint: format!(
                "allowed for {category}: {}; choose a region there, or have the contract changed first",
                if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") }
            ),
        });
    }
}

fn is_known(fleet: &Fleet, name: &JurisdictionId) -> bool {
    fleet.jurisdictions.contains_key(name) || crate::ids::Country::new(name.as_str()).is_ok()
}
