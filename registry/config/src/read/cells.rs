//! `[cells.<id>]`: as drafts, because a tenant may give its own cell the regions.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use domicile_model::{Cell, CellId, Database, DatabaseEndpoint, RegionId, SecretRef};
use toml::de::DeTable;

use super::{Broken, address, addresses, id, missing, region_id, section};
use crate::duration::parse_duration_ms;
use crate::walk::{Name, Value, Walk, get, shown};

const KEYS: [&str; 8] =
    ["primary", "dr", "rpo", "availability_first", "ingress", "application", "mllp", "database"];
const DATABASE_KEYS: [&str; 3] = ["name", "user", "password"];
const MOST_REGIONS: usize = 64;

/// A cell as `[cells.<id>]` gives it.
pub(super) struct Draft {
    pub(super) cell: Option<RegionPair>,
    /// `primary` or `dr` is there, well-formed or not.
    pub(super) names_regions: bool,
    /// Where its header stands.
    pub(super) place: std::ops::Range<usize>,
    rpo_ms: Option<u64>,
    /// Said here, or by the tenant whose cell it is.
    pub(super) availability_first: Option<bool>,
    ingress: BTreeMap<RegionId, Vec<SocketAddr>>,
    application: BTreeMap<RegionId, Vec<SocketAddr>>,
    mllp: BTreeMap<RegionId, Vec<SocketAddr>>,
    database: Option<Database>,
}

/// Primary and DR region.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RegionPair {
    pub(super) primary: RegionId,
    pub(super) dr: RegionId,
}

impl Draft {
    /// The cell with these regions.
    pub(super) fn build(self, id: CellId, pair: RegionPair) -> Cell {
        Cell {
            id,
            primary: pair.primary,
            dr: pair.dr,
            availability_first: self.availability_first.unwrap_or(false),
            rpo_ms: self.rpo_ms.unwrap_or(Cell::DEFAULT_RPO_MS),
            ingress: self.ingress,
            application: self.application,
            mllp: self.mllp,
            database: self.database,
        }
    }

    /// A draft of nothing, for a tenant that has no `[cells.<id>]`.
    pub(super) fn empty() -> Self {
        Self {
            cell: None,
            names_regions: false,
            place: 0..0,
            rpo_ms: None,
            availability_first: None,
            ingress: BTreeMap::new(),
            application: BTreeMap::new(),
            mllp: BTreeMap::new(),
            database: None,
        }
    }
}

pub(super) fn drafts(walk: &mut Walk, root: &DeTable<'_>, broken: &mut Broken) -> BTreeMap<CellId, Draft> {
    let mut drafts = BTreeMap::new();
    for (name, value) in section(walk, root, "cells", "[cells.clinics]") {
        let Some(cell_id) = id(walk, name, CellId::new) else { continue };
        match draft(walk, name, value, &cell_id) {
            Some(draft) => {
                drafts.insert(cell_id, draft);
            }
            None => {
                broken.cells.insert(cell_id.to_string());
            }
        }
    }
    drafts
}

/// `primary` and `dr` of a cell or a tenant; what is wrong with them is noted. None if either is missing or broken.
pub(super) fn pair(walk: &mut Walk, name: &Name<'_>, table: &DeTable<'_>, place: &str) -> Option<RegionPair> {
    let mut read = |key: &str, example: &str| match get(table, key) {
        Some((_, value)) => region_id(walk, value, &format!("{key} of {place}")),
        None => {
            missing(walk, name, place, key, example);
            None
        }
    };
    let primary = read("primary", "\"us-east-1\", where it lives on an ordinary day");
    let dr = read("dr", "\"us-west-2\", where it goes in a disaster");
    Some(RegionPair { primary: primary?, dr: dr? })
}

/// What comes first where the serving region can prove nothing; none where nothing is said.
pub(super) fn availability_first(walk: &mut Walk, table: &DeTable<'_>, place: &str) -> Option<bool> {
    let (_, value) = get(table, "availability_first")?;
    walk.boolean(value, &format!("availability_first of {place}"))
}

fn draft(walk: &mut Walk, name: &Name<'_>, value: &Value<'_>, id: &CellId) -> Option<Draft> {
    let place = format!("cell `{id}`");
    let table = walk.table(value, &place, "[cells.clinics]")?;
    walk.unknown_keys(table, &place, &KEYS);
    let names_regions = get(table, "primary").is_some() || get(table, "dr").is_some();
    let cell = names_regions.then(|| pair(walk, name, table, &place)).flatten();
    let rpo_ms = get(table, "rpo").and_then(|(_, value)| {
        let what = format!("rpo of {place}");
        let text = walk.string(value, &what, "\"1h\"")?;
        walk.parsed(text, value.span(), &what, "the most data, as time, that may be lost", |text| {
            parse_duration_ms(text).map_err(|why| format!("`{}` is {why}", shown(text)))
        })
    });
    let availability_first = availability_first(walk, table, &place);
    let ingress = by_region(walk, table, "ingress", &place);
    let application = by_region(walk, table, "application", &place);
    let mllp = by_region(walk, table, "mllp", &place);
    let database = get(table, "database").and_then(|(name, value)| database(walk, name, value, &place));
    let place = name.span();
    Some(Draft {
        cell,
        names_regions,
        place,
        rpo_ms,
        availability_first,
        ingress,
        application,
        mllp,
        database,
    })
}

fn by_region(
    walk: &mut Walk,
    table: &DeTable<'_>,
    key: &str,
    place: &str,
) -> BTreeMap<RegionId, Vec<SocketAddr>> {
    let mut found = BTreeMap::new();
    let what = format!("{key} of {place}");
    let Some((_, value)) = get(table, key) else { return found };
    let Some(regions) = walk.table(value, &what, "us-east-1 = [\"10.0.1.10:8080\"]") else { return found };
    if too_many(walk, value, regions.len(), &what) {
        return found;
    }
    for (name, value) in regions {
        let Some(region) = id(walk, name, RegionId::new) else { continue };
        if let Some(list) = addresses(walk, value, &format!("{what} in `{region}`")) {
            found.insert(region, list);
        }
    }
    found
}

fn too_many(walk: &mut Walk, value: &Value<'_>, count: usize, what: &str) -> bool {
    if count > MOST_REGIONS {
        walk.mistake(
            Some(value.span()),
            format!("{what} has {count} entries, more than {MOST_REGIONS}"),
            "a cell has a primary and a DR region",
        );
    }
    count > MOST_REGIONS
}

fn database(walk: &mut Walk, name: &Name<'_>, value: &Value<'_>, place: &str) -> Option<Database> {
    let what = format!("database of {place}");
    let table = walk.table(value, &what, "[cells.clinics.database]")?;
    if too_many(walk, value, table.len(), &what) {
        return None;
    }
    let mut text = |key: &str, example: &str| match get(table, key) {
        Some((_, value)) => word(walk, value, &format!("{key} of the {what}")),
        None => {
            missing(walk, name, &what, key, example);
            None
        }
    };
    let database_name = text("name", "\"clinic\"");
    let user = text("user", "\"domicile\"");
    let password = match get(table, "password") {
        Some((_, value)) => {
            let what = format!("password of the {what}");
            // The text is never repeated: it may be the password itself.
            walk.string(value, &what, "\"file:/etc/domicile/clinic.password\"").and_then(|text| {
                walk.parsed(
                    text,
                    value.span(),
                    &what,
                    "the registry holds only the reference",
                    SecretRef::new,
                )
            })
        }
        None => {
            missing(walk, name, &what, "password", "\"file:/etc/domicile/clinic.password\"");
            None
        }
    };
    let mut endpoints = BTreeMap::new();
    for (name, value) in table.iter().filter(|(name, _)| !DATABASE_KEYS.contains(&name.get_ref().as_ref())) {
        if !value.get_ref().is_table() {
            walk.unknown_key(name, &format!("the {what}"), &DATABASE_KEYS);
            continue;
        }
        let Some(region) = id(walk, name, RegionId::new) else { continue };
        if let Some(endpoint) = endpoint(walk, name, value, &format!("{what} in `{region}`")) {
            endpoints.insert(region, endpoint);
        } else {
            // Reported; a database without this endpoint would be reported a second time.
            return None;
        }
    }
    Some(Database { name: database_name?, user: user?, password: password?, endpoints })
}

fn endpoint(walk: &mut Walk, name: &Name<'_>, value: &Value<'_>, what: &str) -> Option<DatabaseEndpoint> {
    let table =
        walk.table(value, what, "us-east-1 = { address = \"10.0.1.20:5432\", agent = \"10.0.1.20:7070\" }")?;
    walk.unknown_keys(table, &format!("the {what}"), &["address", "agent"]);
    let mut read = |key: &str, example: &str| match get(table, key) {
        Some((_, value)) => {
            let what = format!("{key} of the {what}");
            walk.string(value, &what, example).and_then(|text| address(walk, text, value.span(), &what))
        }
        None => {
            missing(walk, name, what, key, example);
            None
        }
    };
    let address = read("address", "\"10.0.1.20:5432\"");
    let agent = read("agent", "\"10.0.1.20:7070\"");
    Some(DatabaseEndpoint { address: address?, agent: agent? })
}

/// A short text without control characters.
pub(super) fn word(walk: &mut Walk, value: &Value<'_>, what: &str) -> Option<String> {
    let text = walk.string(value, what, "\"…\"")?;
    walk.parsed(text, value.span(), what, "write 1 to 200 characters without control characters", |text| {
        let fine = !text.trim().is_empty() && text.chars().count() <= 200 && !text.contains(char::is_control);
        if fine { Ok(text.to_owned()) } else { Err(format!("`{}` is not a name", shown(text))) }
    })
}
