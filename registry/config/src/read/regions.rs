//! `[regions]` and `[jurisdictions]`.

use std::collections::BTreeSet;

use domicile_model::{Country, Jurisdiction, JurisdictionId, Region, RegionId};
use toml::de::DeTable;

use super::{Read, addresses, id, missing, section};
use crate::walk::{Name, Value, Walk, get};

const REGION: &str = "{ country = \"US\", ingress = [\"10.0.1.10:8443\"] }";
const COUNTRY_HINT: &str = "write its ISO 3166-1 code in capitals, as in \"US\", \"GB\" or \"IN\"";
const MOST_COUNTRIES: usize = 300;

pub(super) fn regions(walk: &mut Walk, root: &DeTable<'_>, read: &mut Read) {
    for (name, value) in section(walk, root, "regions", "[regions]") {
        let Some(region_id) = id(walk, name, RegionId::new) else { continue };
        match region(walk, name, value, &region_id) {
            Some(region) => {
                read.fleet.regions.insert(region_id, region);
            }
            None => {
                read.broken.regions.insert(region_id.to_string());
            }
        }
    }
}

fn region(walk: &mut Walk, name: &Name<'_>, value: &Value<'_>, id: &RegionId) -> Option<Region> {
    let place = format!("region `{id}`");
    let table = walk.table(value, &place, REGION)?;
    walk.unknown_keys(table, &place, &["country", "ingress", "edges"]);
    let country = match get(table, "country") {
        Some((_, value)) => country(walk, value, &format!("country of {place}")),
        None => {
            missing(walk, name, &place, "country", "\"US\": it is never guessed from the name");
            None
        }
    };
    let ingress = match get(table, "ingress") {
        Some((_, value)) => addresses(walk, value, &format!("ingress of {place}")),
        None => {
            missing(walk, name, &place, "ingress", "[\"10.0.1.10:8443\"], the addresses of its gates");
            None
        }
    };
    let edges = match get(table, "edges") {
        Some((_, value)) => addresses(walk, value, &format!("edges of {place}")),
        None => Some(Vec::new()),
    };
    Some(Region { id: id.clone(), country: country?, ingress: ingress?, edges: edges? })
}

fn country(walk: &mut Walk, value: &Value<'_>, what: &str) -> Option<Country> {
    let text = walk.string(value, what, "\"US\"")?;
    walk.parsed(text, value.span(), what, COUNTRY_HINT, Country::new)
}

pub(super) fn jurisdictions(walk: &mut Walk, root: &DeTable<'_>, read: &mut Read) {
    for (name, value) in section(walk, root, "jurisdictions", "[jurisdictions]") {
        let Some(set_id) = id(walk, name, JurisdictionId::new) else { continue };
        let what = format!("jurisdiction `{set_id}`");
        let Some(texts) = walk.strings(value, &what, "[\"DE\", \"IE\"]", MOST_COUNTRIES) else {
            read.broken.jurisdictions.insert(set_id.to_string());
            continue;
        };
        let written = texts.len();
        let countries: BTreeSet<Country> = texts
            .into_iter()
            .filter_map(|(text, place)| walk.parsed(text, place, &what, COUNTRY_HINT, Country::new))
            .collect();
        if written == 0 {
            walk.mistake(Some(value.span()), format!("{what} names no country"), COUNTRY_HINT);
        }
        if countries.len() < written || written == 0 {
            read.broken.jurisdictions.insert(set_id.to_string());
        }
        read.fleet.jurisdictions.insert(set_id.clone(), Jurisdiction { id: set_id, countries });
    }
}
