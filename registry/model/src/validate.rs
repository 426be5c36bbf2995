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
    for cell in fleet.approvals.iter().flat_map(|a| a.cells.keys()).filter(|c| !fleet.cells.contains_key(*c))
    {
        found.push(Violation {
            path: path(&["approvals", "cells", cell.as_str()]),
            what: format!("cell `{cell}` does not exist"),
            hint: "use a cell of [cells], or a tenant that has a cell of its own".into(),
        });
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
        ("mllp", cell.mllp.keys().collect()),
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
    if cell.availability_first && cell.database.is_none() {
        found.push(Violation {
            path: path(&["cells|tenants", cell.id.as_str(), "availability_first"]),
            what: format!("cell `{}`: availability comes first, and it has no database that could say that it has stopped", cell.id),
            hint: format!("add [cells.{}.database], or leave `availability_first` out", cell.id),
        });
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use super::*;
    use crate::fleet::{Database, DatabaseEndpoint, Jurisdiction, Region};
    use crate::ids::{CellId, Country};
    use crate::residency::Residency;
    use crate::secret::SecretRef;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn names(list: &[&str]) -> BTreeSet<JurisdictionId> {
        list.iter().map(|name| JurisdictionId::new(name).unwrap()).collect()
    }

    /// Two regions in the US, one in Ireland; the cell `c` with a database, the tenant `t` in it.
    fn sound() -> Fleet {
        let mut fleet = Fleet::default();
        for (id, country) in [("us-east-1", "US"), ("us-west-2", "US"), ("eu-west-1", "IE")] {
            let id = RegionId::new(id).unwrap();
            let country = Country::new(country).unwrap();
            fleet
                .regions
                .insert(id.clone(), Region { id, country, ingress: vec![address(1)], edges: Vec::new() });
        }
        let eu = JurisdictionId::new("EU").unwrap();
        let countries = [Country::new("IE").unwrap()].into();
        fleet.jurisdictions.insert(eu.clone(), Jurisdiction { id: eu, countries });
        let (primary, dr) = (RegionId::new("us-east-1").unwrap(), RegionId::new("us-west-2").unwrap());
        let endpoint = DatabaseEndpoint { address: address(5432), agent: address(7070) };
        let database = Database {
            name: "clinic".into(),
            user: "domicile".into(),
            password: SecretRef::new("env:PW").unwrap(),
            endpoints: [(primary.clone(), endpoint.clone()), (dr.clone(), endpoint)].into(),
        };
        let id = CellId::new("c").unwrap();
        let application = [(primary.clone(), vec![address(8080)])].into();
        let (ingress, rpo_ms) = (BTreeMap::new(), 1_000);
        let cell = Cell {
            id: id.clone(),
            primary,
            dr,
            rpo_ms,
            availability_first: false,
            ingress,
            application,
            mllp: BTreeMap::new(),
            database: Some(database),
        };
        fleet.cells.insert(id.clone(), cell);
        add(&mut fleet, "t", "t.example.com");
        fleet
    }

    fn add<'f>(fleet: &'f mut Fleet, id: &str, host: &str) -> &'f mut Tenant {
        let id = TenantId::new(id).unwrap();
        let tenant = Tenant {
            id: id.clone(),
            name: id.to_string(),
            cell: CellId::new("c").unwrap(),
            hosts: [HostPattern::new(host).unwrap()].into(),
            residency: Residency { allowed: Some(names(&["US"])), ..Residency::default() },
        };
        fleet.tenants.entry(id).or_insert(tenant)
    }

    fn cell(fleet: &mut Fleet) -> &mut Cell {
        fleet.cells.get_mut("c").unwrap()
    }

    /// Exactly these violations, by path and a piece of their text.
    #[track_caller]
    fn only(fleet: &Fleet, wanted: &[(&str, &str)]) {
        let found = violations(fleet);
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (violation, (path, what)) in found.iter().zip(wanted) {
            assert_eq!(violation.path.join("."), *path);
            assert!(violation.what.contains(what), "{violation:?} must say {what:?}");
            assert!(!violation.hint.is_empty());
        }
    }

    #[test]
    fn a_sound_fleet_has_no_violation() {
        only(&sound(), &[]);
        only(&Fleet::default(), &[]);
    }

    #[test]
    fn a_region_that_does_not_exist_is_named_where_it_stands() {
        let mut fleet = sound();
        cell(&mut fleet).database = None;
        cell(&mut fleet).dr = RegionId::new("us-west-9").unwrap();
        only(&fleet, &[("cells.c.dr", "region `us-west-9` does not exist")]);
        assert_eq!(violations(&fleet)[0].hint, "known regions: eu-west-1, us-east-1, us-west-2");
    }

    #[test]
    fn in_a_silo_the_regions_may_stand_with_the_tenant() {
        let mut fleet = sound();
        add(&mut fleet, "c", "c.example.com");
        cell(&mut fleet).database = None;
        cell(&mut fleet).dr = RegionId::new("us-west-9").unwrap();
        only(&fleet, &[("cells|tenants.c.dr", "does not exist")]);
    }

    #[test]
    fn availability_comes_first_only_where_a_database_can_say_that_it_has_stopped() {
        let mut fleet = sound();
        cell(&mut fleet).availability_first = true;
        only(&fleet, &[]);
        cell(&mut fleet).database = None;
        only(&fleet, &[("cells|tenants.c.availability_first", "could say that it has stopped")]);
    }

    #[test]
    fn a_cell_must_not_be_its_own_disaster_recovery() {
        let mut fleet = sound();
        cell(&mut fleet).database = None;
        cell(&mut fleet).dr = RegionId::new("us-east-1").unwrap();
        only(&fleet, &[("cells.c.dr", "is also its DR region")]);
    }

    #[test]
    fn two_tenants_must_not_claim_one_host_but_a_name_below_a_wildcard_is_free() {
        let mut fleet = sound();
        add(&mut fleet, "u", "*.example.com");
        only(&fleet, &[]);
        add(&mut fleet, "v", "t.example.com");
        only(&fleet, &[("tenants.v.hosts", "`t.example.com` is claimed by `t` and by `v`")]);
    }

    #[test]
    fn each_category_is_judged_by_its_own_list() {
        let mut fleet = sound();
        cell(&mut fleet).database = None;
        cell(&mut fleet).dr = RegionId::new("eu-west-1").unwrap();
        only(&fleet, &[("tenants.t.residency", "its dr region `eu-west-1` is in IE")]);
        let tenant = fleet.tenants.get_mut("t").unwrap();
        tenant.residency.overrides.insert(Category::Dr, names(&["EU"]));
        only(&fleet, &[]);
        let tenant = fleet.tenants.get_mut("t").unwrap();
        tenant.residency.overrides.insert(Category::Storage, names(&["EU"]));
        only(&fleet, &[("tenants.t.residency", "does not allow for storage")]);
        // Without a policy the tenant did not ask.
        fleet.tenants.get_mut("t").unwrap().residency = Residency::default();
        only(&fleet, &[]);
    }

    #[test]
    fn a_list_that_names_no_place_allows_none() {
        let mut fleet = sound();
        fleet.tenants.get_mut("t").unwrap().residency.allowed = Some(BTreeSet::new());
        only(
            &fleet,
            &[
                ("tenants.t.residency", "does not allow for processing"),
                ("tenants.t.residency", "does not allow for storage"),
                ("tenants.t.residency", "does not allow for dr"),
            ],
        );
        assert!(violations(&fleet)[0].hint.contains("nothing"));
    }

    #[test]
    fn an_undefined_jurisdiction_is_named() {
        let mut fleet = sound();
        fleet.tenants.get_mut("t").unwrap().residency.allowed = Some(names(&["US", "EEA"]));
        only(&fleet, &[("tenants.t.residency", "`EEA` is neither a country nor defined")]);
    }

    #[test]
    fn a_tenant_must_live_somewhere() {
        let mut fleet = sound();
        fleet.tenants.get_mut("t").unwrap().cell = CellId::new("gone").unwrap();
        only(&fleet, &[("tenants.t.cell", "cell `gone` does not exist")]);
    }

    #[test]
    fn addresses_and_endpoints_belong_to_the_two_regions() {
        let mut fleet = sound();
        let eu = RegionId::new("eu-west-1").unwrap();
        let east = RegionId::new("us-east-1").unwrap();
        cell(&mut fleet).ingress.insert(eu.clone(), vec![address(1)]);
        cell(&mut fleet).application.insert(eu.clone(), vec![address(1)]);
        let endpoints = &mut cell(&mut fleet).database.as_mut().unwrap().endpoints;
        let endpoint = endpoints.remove(&east).unwrap();
        endpoints.insert(eu, endpoint);
        only(
            &fleet,
            &[
                ("cells.c.ingress.eu-west-1", "neither its primary nor its DR"),
                ("cells.c.application.eu-west-1", "neither its primary nor its DR"),
                ("cells.c.database", "no endpoint in `us-east-1`"),
                ("cells.c.database.eu-west-1", "neither its primary nor its DR"),
            ],
        );
    }
}
