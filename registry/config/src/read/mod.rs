//! From the parsed text to the fleet, section by section.

mod approvals;
mod cells;
mod regions;
mod tenants;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use domicile_model::validate::Violation;
use domicile_model::{CellId, Fleet, JurisdictionId, RegionId};
use toml::de::DeTable;

use crate::walk::{Name, Value, Walk, get, shown};

/// The sections of a file.
const SECTIONS: [&str; 5] = ["regions", "jurisdictions", "cells", "tenants", "approvals"];
/// Most addresses of one thing in one region.
const MOST_ADDRESSES: usize = 64;
/// Most entries of one section.
const MOST_ENTRIES: usize = 200_000;

/// What was read.
pub(crate) struct Read {
    /// Everything that is well-formed.
    pub(crate) fleet: Fleet,
    /// What stands in the file but could not be read.
    pub(crate) broken: Broken,
}

/// Things that stand in the file but could not be read whole. Rules that would fail only because of that are not
/// reported: one slip should be one mistake.
#[derive(Default)]
pub(crate) struct Broken {
    pub(crate) regions: BTreeSet<String>,
    pub(crate) jurisdictions: BTreeSet<String>,
    pub(crate) cells: BTreeSet<String>,
}

impl Broken {
    /// Whether a violation is only the shadow of a mistake that was already reported.
    pub(crate) fn explains(&self, violation: &Violation, fleet: &Fleet) -> bool {
        let path: Vec<&str> = violation.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["approvals", "cells", id] => self.cells.contains(*id),
            ["tenants", id, "cell"] => {
                fleet.tenants.get(*id).is_some_and(|tenant| self.cells.contains(tenant.cell.as_str()))
            }
            ["tenants", id, "residency"] => fleet.tenants.get(*id).is_some_and(|tenant| {
                let names =
                    tenant.residency.allowed.iter().chain(tenant.residency.overrides.values()).flatten();
                let cell = fleet.cells.get(&tenant.cell);
                names.map(JurisdictionId::as_str).any(|name| self.jurisdictions.contains(name))
                    || cell.is_some_and(|c| self.has_region(&c.primary) || self.has_region(&c.dr))
            }),
            [_, id, "primary"] => fleet.cells.get(*id).is_some_and(|cell| self.has_region(&cell.primary)),
            [_, id, "dr"] => {
                fleet.cells.get(*id).is_some_and(|c| c.primary != c.dr && self.has_region(&c.dr))
            }
            _ => false,
        }
    }

    fn has_region(&self, region: &RegionId) -> bool {
        self.regions.contains(region.as_str())
    }
}

/// Reads everything that can be read.
pub(crate) fn fleet(walk: &mut Walk, root: &DeTable<'_>) -> Read {
    walk.unknown_keys(root, "the file", &SECTIONS);
    let mut read = Read { fleet: Fleet::default(), broken: Broken::default() };
    if get(root, "regions").is_none() {
        walk.mistake(
            None,
            "there is no [regions]",
            "name the regions: us-east-1 = { country = \"US\", ingress = [\"10.0.1.10:8443\"] }",
        );
    }
    regions::regions(walk, root, &mut read);
    regions::jurisdictions(walk, root, &mut read);
    let drafts = cells::drafts(walk, root, &mut read.broken);
    tenants::tenants(walk, root, drafts, &mut read);
    read.fleet.approvals = approvals::approvals(walk, root);
    read
}

/// The entries of a section; a section that is missing has none.
fn section<'v, 'i>(
    walk: &mut Walk,
    root: &'v DeTable<'i>,
    name: &str,
    example: &str,
) -> Vec<(&'v Name<'i>, &'v Value<'i>)> {
    let Some((_, value)) = get(root, name) else { return Vec::new() };
    let Some(table) = walk.table(value, &format!("[{name}]"), example) else { return Vec::new() };
    if table.len() > MOST_ENTRIES {
        walk.mistake(
            Some(value.span()),
            format!("[{name}] has {} entries, more than {MOST_ENTRIES}", table.len()),
            "split the fleet into several registries",
        );
        return Vec::new();
    }
    table.iter().collect()
}

/// The id that a key is.
fn id<T>(
    walk: &mut Walk,
    name: &Name<'_>,
    new: impl FnOnce(&str) -> Result<T, domicile_model::IdError>,
) -> Option<T> {
    walk.parsed(name.get_ref(), name.span(), "bad name", "choose another name", new)
}

fn region_id(walk: &mut Walk, value: &Value<'_>, what: &str) -> Option<RegionId> {
    let text = walk.string(value, what, "\"us-east-1\"")?;
    walk.parsed(text, value.span(), what, "use a name from [regions]", RegionId::new)
}

fn cell_id(walk: &mut Walk, value: &Value<'_>, what: &str) -> Option<CellId> {
    let text = walk.string(value, what, "\"clinics\"")?;
    walk.parsed(text, value.span(), what, "use a name from [cells]", CellId::new)
}

const ADDRESS_HINT: &str =
    "write IP address and port, as in \"10.0.1.10:8443\" or \"[fd00::1]:8443\"; names are not looked up";

fn address(walk: &mut Walk, text: &str, place: std::ops::Range<usize>, what: &str) -> Option<SocketAddr> {
    walk.parsed(text, place, what, ADDRESS_HINT, |text| {
        let address: SocketAddr = text.parse().map_err(|_| format!("`{}` is not an address", shown(text)))?;
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(format!("`{address}` can't be dialled"));
        }
        Ok(address)
    })
}

/// A list of at least one address.
fn addresses(walk: &mut Walk, value: &Value<'_>, what: &str) -> Option<Vec<SocketAddr>> {
    let texts = walk.strings(value, what, "[\"10.0.1.10:8443\"]", MOST_ADDRESSES)?;
    let written = texts.len();
    let mut list = Vec::with_capacity(written);
    for (text, place) in texts {
        let Some(address) = address(walk, text, place.clone(), what) else { continue };
        if list.contains(&address) {
            walk.mistake(Some(place), format!("{what} names {address} twice"), "remove one of them");
        } else {
            list.push(address);
        }
    }
    if written == 0 {
        walk.mistake(Some(value.span()), format!("{what} is empty"), ADDRESS_HINT);
    }
    (!list.is_empty()).then_some(list)
}

fn missing(walk: &mut Walk, name: &Name<'_>, place: &str, key: &str, example: &str) {
    walk.mistake(Some(name.span()), format!("{place} has no `{key}`"), format!("add {key} = {example}"));
}
