//! `[approvals]`: whose approval each kind of change waits for, in the fleet and in single cells.

use std::collections::BTreeMap;

use domicile_model::{Approvals, CellId, Change, Need};
use toml::de::DeTable;

use super::{id, section};
use crate::duration::parse_duration_ms;
use crate::walk::{Value, Walk, get, shown};

const EXAMPLE: &str = "[approvals]";

pub(super) fn approvals(walk: &mut Walk, root: &DeTable<'_>) -> Option<Approvals> {
    let (_, value) = get(root, "approvals")?;
    let table = walk.table(value, "[approvals]", EXAMPLE)?;
    let words: Vec<&str> = Change::ALL.iter().map(|c| c.as_str()).chain(["expires", "cells"]).collect();
    walk.unknown_keys(table, "[approvals]", &words);
    let fleet = needs(walk, table, "[approvals]");
    let expires_ms = get(table, "expires").and_then(|(_, value)| expires(walk, value));
    let mut cells = BTreeMap::new();
    for (name, value) in section(walk, table, "cells", "[approvals.cells.clinics]") {
        let Some(cell) = id(walk, name, CellId::new) else { continue };
        let place = format!("[approvals.cells.{cell}]");
        let Some(table) = walk.table(value, &place, "[approvals.cells.clinics]") else { continue };
        let words: Vec<&str> = Change::ALL.iter().map(|c| c.as_str()).collect();
        walk.unknown_keys(table, &place, &words);
        cells.insert(cell, needs(walk, table, &place));
    }
    Some(Approvals { fleet, cells, expires_ms: expires_ms.unwrap_or(Approvals::EXPIRES_MS) })
}

fn needs(walk: &mut Walk, table: &DeTable<'_>, place: &str) -> BTreeMap<Change, Need> {
    let mut needs = BTreeMap::new();
    for change in Change::ALL {
        let Some((_, value)) = get(table, change.as_str()) else { continue };
        let what = format!("{} of {place}", change.as_str());
        let Some(text) = walk.string(value, &what, "\"one\"") else { continue };
        let hint = "write how many people other than the one who asks must approve";
        let need = walk.parsed(text, value.span(), &what, hint, |text| {
            text.parse::<Need>().map_err(|why| format!("`{}`: {why}", shown(text)))
        });
        needs.extend(need.map(|need| (change, need)));
    }
    needs
}

fn expires(walk: &mut Walk, value: &Value<'_>) -> Option<u64> {
    let what = "expires of [approvals]";
    let text = walk.string(value, what, "\"1h\"")?;
    walk.parsed(
        text,
        value.span(),
        what,
        "how long a change waits for its approvals before it ends",
        |text| parse_duration_ms(text).map_err(|why| format!("`{}` is {why}", shown(text))),
    )
}
