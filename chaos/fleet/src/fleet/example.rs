//! The example fleet, `regions.toml` at the root of the repository: what it says, and how it reads on this machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Context;
use domicile_model::{Category, Fleet, JurisdictionId};
use toml_edit::{Array, DocumentMut, InlineTable, Value};

use super::files::{DATABASE, LOOK_ROLE, Layout};
use super::plan::{Kind, Plan, Unit};

/// Its text.
pub const TEXT: &str = include_str!("../../../../regions.toml");

/// The first line of what [`on_this_machine`] makes.
const HEAD: &str = "\
# Made by domicile-chaos: the example regions.toml, where only the addresses and the databases' names, users and \
password files were replaced by those of this machine, and `tls` lets its few edges, which speak in the clear, read \
every tenant's requests.
";

/// What it says.
///
/// # Errors
/// When it has mistakes: this program was built from a broken file.
pub fn fleet() -> anyhow::Result<Fleet> {
    domicile_config::parse("regions.toml", TEXT).context("the example regions.toml is not right")
}

/// Its text with the addresses of the plan's units. Everything else is left as it stands, comments included.
///
/// # Errors
/// When the example lacks something that a fleet needs, with its key.
pub fn on_this_machine(plan: &Plan, layout: &Layout) -> anyhow::Result<String> {
    let mut document: DocumentMut = TEXT.parse().context("the example regions.toml is no TOML")?;
    let listens = |kind: Kind, cell: &str, region: &str| {
        let unit = plan.of(kind, cell, region);
        unit.map(Unit::listen).with_context(|| format!("no {} of {cell} in {region}", kind.word()))
    };
    for region in plan.fleet.regions.keys() {
        let region = region.as_str();
        let gate = plan.at(Kind::Gate, region).context("every region has a gate")?.listen();
        replace(&mut document, &["regions", region, "ingress"], list(gate))?;
        // They take no TLS, so nothing can be passed on to them.
        if let Some(table) = document["regions"][region].as_table_like_mut() {
            table.remove("edges");
        }
    }
    for (tenant, residency) in plan.fleet.tenants.iter().map(|(id, t)| (id.as_str(), &t.residency)) {
        let key = ["tenants", tenant, "residency"];
        let clear = Array::from_iter(clear_countries(plan));
        match &residency.allowed {
            Some(allowed) if residency.overrides.is_empty() => {
                let mut both = InlineTable::new();
                both.insert("allowed", Array::from_iter(allowed.iter().map(JurisdictionId::as_str)).into());
                both.insert("tls", clear.into());
                replace(&mut document, &key, both)?;
            }
            _ if residency.restriction(Category::Tls).is_some() => {
                replace(&mut document, &[&key[..], &["tls"]].concat(), clear)?;
            }
            _ => {}
        }
    }
    let password = layout.secret("db-domicile").to_string();
    for cell in plan.fleet.cells.values() {
        let id = cell.id.as_str();
        let database = ["cells", id, "database"];
        for (key, value) in [("name", DATABASE), ("user", LOOK_ROLE), ("password", &password)] {
            replace(&mut document, &[&database[..], &[key]].concat(), value)?;
        }
        for region in [cell.primary.as_str(), cell.dr.as_str()] {
            let app = list(listens(Kind::App, id, region)?);
            replace(&mut document, &["cells", id, "application", region], app)?;
            for (key, kind) in [("address", Kind::Database), ("agent", Kind::Agent)] {
                let at = listens(kind, id, region)?.to_string();
                replace(&mut document, &[&database[..], &[region, key]].concat(), at)?;
            }
        }
    }
    Ok(format!("{HEAD}{document}"))
}

/// Where this fleet's edges stand.
fn clear_countries(plan: &Plan) -> BTreeSet<String> {
    let regions = plan.all(Kind::Edge).filter_map(|edge| plan.fleet.regions.get(edge.region.as_str()));
    regions.map(|region| region.country.to_string()).collect()
}

fn list(address: SocketAddr) -> Array {
    Array::from_iter([address.to_string()])
}

/// Replaces a value that is there, and nothing around it.
fn replace(document: &mut DocumentMut, path: &[&str], value: impl Into<Value>) -> anyhow::Result<()> {
    let missing = || format!("the example regions.toml has no `{}`, which a fleet needs", path.join("."));
    let mut item = document.as_item_mut();
    for key in path {
        item = item.as_table_like_mut().and_then(|table| table.get_mut(key)).with_context(missing)?;
    }
    let old = item.as_value_mut().with_context(missing)?;
    let mut new = value.into();
    *new.decor_mut() = old.decor().clone();
    *old = new;
    Ok(())
}

#[cfg(test)]
mod tests {
    use domicile_chaos_kit::ports;
    use domicile_model::SecretRef;

    use super::*;

    fn made() -> (Plan, String) {
        let plan = Plan::new(fleet().unwrap(), ports::free_address).unwrap();
        let layout = Layout { dir: "/d".into(), home: "/h".into(), data: "/m".into() };
        let text = on_this_machine(&plan, &layout).unwrap();
        (plan, text)
    }

    /// Every address that a fleet names.
    fn addresses(fleet: &Fleet) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = fleet.regions.values().flat_map(|r| r.ingress.clone()).collect();
        for cell in fleet.cells.values() {
            all.extend(cell.application.values().chain(cell.ingress.values()).flatten());
            let endpoints = cell.database.iter().flat_map(|d| d.endpoints.values());
            all.extend(endpoints.flat_map(|e| [e.address, e.agent]));
        }
        all
    }

    /// A fleet without what belongs to a machine.
    fn without_machine(mut fleet: Fleet) -> Fleet {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 1));
        for region in fleet.regions.values_mut() {
            region.ingress.fill(nowhere);
            region.edges.clear();
        }
        for tenant in fleet.tenants.values_mut() {
            tenant.residency.overrides.remove(&Category::Tls);
        }
        for cell in fleet.cells.values_mut() {
            cell.application.values_mut().for_each(|at| at.fill(nowhere));
            if let Some(database) = &mut cell.database {
                (database.name, database.user) = (String::new(), String::new());
                database.password = SecretRef::File("/nowhere".into());
                for endpoint in database.endpoints.values_mut() {
                    (endpoint.address, endpoint.agent) = (nowhere, nowhere);
                }
            }
        }
        fleet
    }

    #[test]
    fn it_is_the_example_but_for_what_belongs_to_the_machine() {
        let (_, text) = made();
        let made = domicile_config::parse("made", &text).unwrap();
        assert_eq!(without_machine(made.clone()), without_machine(fleet().unwrap()));
        assert_ne!(made, fleet().unwrap(), "or the comparison sees nothing");
    }

    #[test]
    fn every_address_is_a_unit_of_this_machine_and_no_placeholder_is_left() {
        let (plan, text) = made();
        let made = domicile_config::parse("made", &text).unwrap();
        let units: BTreeSet<SocketAddr> = plan.units.iter().map(Unit::listen).collect();
        let all = addresses(&made);
        assert!(all.iter().all(|at| units.contains(at)), "{all:?}");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "no two share one");
        let edges = fleet().unwrap().regions.into_values().flat_map(|r| r.edges);
        for placeholder in addresses(&fleet().unwrap()).into_iter().chain(edges) {
            assert!(!text.contains(&format!("\"{placeholder}\"")), "{placeholder} is still there");
        }
        assert!(!text.contains("/etc/domicile"), "the example's password files are not on this machine");
        for cell in made.cells.values() {
            let database = cell.database.as_ref().unwrap();
            assert_eq!(database.password, SecretRef::File("/h/secrets/db-domicile".into()));
        }
    }

    #[test]
    fn it_says_what_it_is_and_keeps_every_other_line() {
        let (_, text) = made();
        let (head, rest) = text.split_once('\n').unwrap();
        assert!(head.starts_with("# Made by domicile-chaos") && head.contains("replaced"), "{head}");
        assert_eq!(rest.lines().count(), TEXT.lines().count());
        let key = |line: &str| line.split_once('=').map(|(key, _)| key.to_owned());
        let comment = |line: &str| line.split_once('#').map(|(_, comment)| comment.to_owned());
        for (was, is) in TEXT.lines().zip(rest.lines()).filter(|(was, is)| was != is) {
            assert!(key(was).is_some() && key(was) == key(is) && comment(was) == comment(is), "{was} | {is}");
        }
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        let mut document: DocumentMut = "[regions]\n".parse().unwrap();
        let error = replace(&mut document, &["regions", "mars", "ingress"], "x").unwrap_err().to_string();
        assert!(error.contains("regions.mars.ingress"), "{error}");
    }
}
