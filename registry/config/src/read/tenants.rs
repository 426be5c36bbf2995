//! `[tenants.<id>]`, and the cells that they live in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use domicile_model::residency::Category;
use domicile_model::{CellId, HostPattern, JurisdictionId, Residency, Tenant, TenantId};
use toml::de::DeTable;

use super::cells::{Draft, RegionPair, availability_first, pair, word};
use super::{Read, cell_id, id, section};
use crate::walk::{Name, Value, Walk, get};

const KEYS: [&str; 7] = ["name", "cell", "primary", "dr", "availability_first", "hosts", "residency"];
const MOST_HOSTS: usize = 1_000;
const MOST_JURISDICTIONS: usize = 300;

pub(super) fn tenants(
    walk: &mut Walk,
    root: &DeTable<'_>,
    mut drafts: BTreeMap<CellId, Draft>,
    read: &mut Read,
) {
    let mut found = Found { drafts: &drafts, silos: BTreeMap::new(), chosen: BTreeMap::new() };
    for (name, value) in section(walk, root, "tenants", "[tenants.mercy-health]") {
        let Some(tenant_id) = id(walk, name, TenantId::new) else { continue };
        if let Some(tenant) = found.tenant(walk, name, value, &tenant_id) {
            read.fleet.tenants.insert(tenant_id, tenant);
        }
    }
    let mut chosen = found.chosen;
    for (cell, silo) in found.silos {
        let mut draft = drafts.remove(&cell).unwrap_or_else(Draft::empty);
        if let Some((wanted, place)) = chosen.remove(&cell) {
            if draft.availability_first.is_some_and(|own| own != wanted) {
                walk.mistake(
                    Some(place),
                    format!("cell `{cell}` and the tenant of that name say different things about `availability_first`"),
                    "say it in one of the two places",
                );
            }
            draft.availability_first = Some(wanted);
        }
        match silo {
            Some(pair) => {
                if draft.names_regions && draft.cell.as_ref().is_some_and(|own| *own != pair) {
                    walk.mistake(
                        Some(draft.place.clone()),
                        format!("cell `{cell}` and the tenant of that name give different regions"),
                        "give `primary` and `dr` in one of the two places",
                    );
                }
                read.fleet.cells.insert(cell.clone(), draft.build(cell, pair));
            }
            None => {
                read.broken.cells.insert(cell.to_string());
            }
        }
    }
    for (cell, draft) in drafts {
        match draft.cell.clone() {
            Some(pair) => {
                read.fleet.cells.insert(cell.clone(), draft.build(cell, pair));
            }
            None => {
                if !draft.names_regions {
                    walk.mistake(
                        Some(draft.place.clone()),
                        format!("cell `{cell}` has no `primary` and no `dr`, and no tenant of that name gives them"),
                        "add primary = \"…\" and dr = \"…\"",
                    );
                }
                read.broken.cells.insert(cell.to_string());
            }
        }
    }
}

/// Cells, as far as they are known while the tenants are read.
struct Found<'a> {
    /// Those with a section of their own.
    drafts: &'a BTreeMap<CellId, Draft>,
    /// Silo cells; none where the regions could not be read.
    silos: BTreeMap<CellId, Option<RegionPair>>,
    /// What tenants say comes first in their own cells, and where.
    chosen: BTreeMap<CellId, (bool, Range<usize>)>,
}

impl Found<'_> {
    fn tenant(
        &mut self,
        walk: &mut Walk,
        name: &Name<'_>,
        value: &Value<'_>,
        id: &TenantId,
    ) -> Option<Tenant> {
        let place = format!("tenant `{id}`");
        let table = walk.table(value, &place, "[tenants.mercy-health]")?;
        walk.unknown_keys(table, &place, &KEYS);
        let display = get(table, "name").and_then(|(_, v)| word(walk, v, &format!("name of {place}")));
        let hosts = get(table, "hosts").map(|(_, v)| hosts(walk, v, &place)).unwrap_or_default();
        let residency = get(table, "residency").map(|(_, v)| residency(walk, v, &place)).unwrap_or_default();
        let cell = self.cell(walk, name, table, id)?;
        Some(Tenant {
            id: id.clone(),
            name: display.unwrap_or_else(|| id.to_string()),
            cell,
            hosts,
            residency,
        })
    }

    /// The cell that a tenant lives in. What is wrong with it is noted; the id is none only if `cell` itself can't be read.
    fn cell(
        &mut self,
        walk: &mut Walk,
        name: &Name<'_>,
        table: &DeTable<'_>,
        id: &TenantId,
    ) -> Option<CellId> {
        let place = format!("tenant `{id}`");
        let regions = get(table, "primary").or_else(|| get(table, "dr"));
        let choice = get(table, "availability_first").map(|(key, _)| key.span());
        let chosen = availability_first(walk, table, &place);
        if let Some(key) = choice.clone().filter(|_| regions.is_none()) {
            walk.mistake(
                Some(key),
                format!("{place} says `availability_first` and gives no regions of its own"),
                "it holds for everybody in a cell: say it in [cells.…]",
            );
        }
        if let Some((_, value)) = get(table, "cell") {
            if let Some((key, _)) = regions {
                walk.mistake(
                    Some(key.span()),
                    format!("{place} names a cell and `{}` of its own", key.get_ref()),
                    "a tenant in a cell moves with the cell: remove `primary` and `dr`, or `cell`",
                );
            }
            return cell_id(walk, value, &format!("cell of {place}"));
        }
        let own = CellId::new(id.as_str()).ok()?;
        if regions.is_some() {
            if let Some(said) = chosen.zip(choice) {
                self.chosen.insert(own.clone(), said);
            }
            self.silos.insert(own.clone(), pair(walk, name, table, &place));
        } else if !self.drafts.get(&own).is_some_and(|draft| draft.names_regions) {
            walk.mistake(
                Some(name.span()),
                format!("{place} has neither `cell` nor `primary` and `dr`"),
                "name the cell that it shares, or give it primary = \"…\" and dr = \"…\" of its own",
            );
            self.silos.insert(own.clone(), None);
        }
        Some(own)
    }
}

fn hosts(walk: &mut Walk, value: &Value<'_>, place: &str) -> BTreeSet<HostPattern> {
    let what = format!("hosts of {place}");
    let mut found = BTreeSet::new();
    for (text, span) in
        walk.strings(value, &what, "[\"mercy-health.example.com\"]", MOST_HOSTS).unwrap_or_default()
    {
        let hint = "write the full name without scheme, port and path; `*.` in front means one label more";
        let Some(host) = walk.parsed(text, span.clone(), &what, hint, HostPattern::new) else { continue };
        if !found.insert(host.clone()) {
            walk.mistake(Some(span), format!("{what}: `{host}` stands there twice"), "remove one of them");
        }
    }
    found
}

fn residency(walk: &mut Walk, value: &Value<'_>, place: &str) -> Residency {
    let what = format!("residency of {place}");
    let Some(table) = value.get_ref().as_table() else {
        return Residency { allowed: allowed(walk, value, &what), overrides: BTreeMap::new() };
    };
    walk.unknown_keys(table, &format!("the {what}"), &["allowed", "processing", "storage", "dr", "tls"]);
    let mut policy = Residency::default();
    if let Some((_, value)) = get(table, "allowed") {
        policy.allowed = allowed(walk, value, &format!("allowed in the {what}"));
    }
    for category in Category::ALL {
        let Some((_, value)) = get(table, category.as_str()) else { continue };
        if let Some(names) = allowed(walk, value, &format!("{category} in the {what}")) {
            policy.overrides.insert(category, names);
        }
    }
    if table.is_empty() {
        walk.mistake(
            Some(value.span()),
            format!("{what} is an empty table"),
            "remove it if nothing is restricted",
        );
    }
    policy
}

fn allowed(walk: &mut Walk, value: &Value<'_>, what: &str) -> Option<BTreeSet<JurisdictionId>> {
    let texts = walk.strings(value, what, "[\"US\"]", MOST_JURISDICTIONS)?;
    if texts.is_empty() {
        walk.mistake(
            Some(value.span()),
            format!("{what} allows no place at all"),
            "name the jurisdictions, or remove the key if nothing is restricted",
        );
    }
    let hint = "use a country (US, GB, IN) or a name from [jurisdictions]";
    Some(
        texts
            .into_iter()
            .filter_map(|(text, span)| walk.parsed(text, span, what, hint, JurisdictionId::new))
            .collect(),
    )
}
