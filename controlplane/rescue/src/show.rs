//! What people and programs read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use domicile_api::agent::Running;
use domicile_cli::exit::Exit;
use domicile_cli::fail::Failure;
use domicile_cli::out::Out;
use domicile_model::{CellId, Epoch, Placement, RegionId};
use domicile_store::Listing;
use serde::Serialize;

use crate::asking::Reports;
use crate::content::Content;
use crate::decide::{Decision, Said, Verdict};
use crate::file::{Backup, Head, is_kept};
use crate::publish::Publication;

/// The summary of a backup that was written.
pub(crate) fn head(path: &Path, head: &Head, bytes: usize, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        return out.data(&serde_json::json!({
            "file": path, "world": head.world, "revision": head.revision, "at": head.at, "entries": head.entries,
            "bytes": bytes,
        }));
    }
    out.pairs(&[
        ("file", path.display().to_string()),
        ("world", head.world.to_string()),
        ("revision", head.revision.to_string()),
        ("taken", head.at.to_string()),
        ("keys", head.entries.to_string()),
        ("bytes", bytes.to_string()),
    ])
}

/// What `verify` found.
pub(crate) fn verified(
    path: &Path,
    head: &Head,
    content: &Content,
    differences: Option<&[String]>,
    out: &mut Out,
) -> Result<(), Failure> {
    let unfinished: Vec<String> =
        content.unfinished.iter().map(|(id, cell)| format!("{id} of cell {cell}")).collect();
    if out.json {
        return out.data(&serde_json::json!({
            "file": path, "intact": true, "world": head.world, "revision": head.revision, "at": head.at,
            "entries": head.entries, "cells": content.fleet.cells.len(), "tenants": content.fleet.tenants.len(),
            "moves_under_way": content.unfinished.keys().collect::<Vec<_>>(), "differences": differences,
        }));
    }
    out.pairs(&[
        ("file", path.display().to_string()),
        ("intact", "yes".into()),
        ("world", head.world.to_string()),
        ("revision", head.revision.to_string()),
        ("taken", head.at.to_string()),
        ("cells", content.fleet.cells.len().to_string()),
        ("tenants", content.fleet.tenants.len().to_string()),
        ("moves under way", if unfinished.is_empty() { "-".into() } else { unfinished.join("\n") }),
    ])?;
    match differences {
        None => {}
        Some([]) => out.say("the registry holds the same")?,
        Some(all) => {
            for line in all {
                writeln!(out.stdout, "{line}")?;
            }
        }
    }
    Ok(())
}

fn name(holder: Option<&RegionId>) -> &str {
    holder.map_or("nobody", RegionId::as_str)
}

/// What a registry holds differently than a backup, in sentences; cells first.
pub(crate) fn differences(backup: &Backup, content: &Content, listing: &Listing) -> Vec<String> {
    let live = Content::of(listing.entries.iter().map(|e| (&e.key, e.value.as_slice())));
    let mut found = Vec::new();
    match &live.world {
        None => found.push("the registry has no world".to_owned()),
        Some(world) if world.id != backup.head.world => {
            found.push(format!("the registry is world {}, the backup of {}", world.id, backup.head.world));
        }
        Some(_) => {}
    }
    for (cell, now) in &live.placements {
        match content.placements.get(cell) {
            None => found.push(format!("cell {cell} came after the backup, epoch {}", now.epoch)),
            Some(then) if then.holder != now.holder => found.push(format!(
                "cell {cell} moved since: {} at epoch {} in the backup, {} at epoch {} now",
                name(then.holder.as_ref()),
                then.epoch,
                name(now.holder.as_ref()),
                now.epoch
            )),
            Some(then) if then.epoch != now.epoch => {
                found.push(format!("cell {cell}: epoch {} in the backup, {} now", then.epoch, now.epoch));
            }
            Some(_) => {}
        }
    }
    for cell in content.placements.keys().filter(|c| !live.placements.contains_key(*c)) {
        found.push(format!("cell {cell} is in the backup only"));
    }
    let then: BTreeMap<_, _> = backup.entries.iter().map(|(k, v)| (k, v)).collect();
    let now: BTreeMap<_, _> =
        listing.entries.iter().filter(|e| is_kept(&e.key)).map(|e| (&e.key, &e.value)).collect();
    let keys: BTreeSet<_> = then.keys().chain(now.keys()).collect();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for key in keys.into_iter().filter(|k| then.get(*k) != now.get(*k)) {
        let text = key.to_string();
        *kinds.entry(text.split('/').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    found.extend(kinds.into_iter().map(|(kind, n)| format!("{n} keys of `{kind}` differ")));
    found
}

/// What a restore or a rebuild does, cell by cell.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    world: domicile_model::WorldId,
    done: bool,
    cells: Vec<Row>,
    routers: Vec<String>,
    silent: Vec<String>,
    /// Cells that routers know and nothing defines.
    unknown_cells: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    cell: CellId,
    holder: Option<RegionId>,
    epoch: Epoch,
    /// Who said what.
    said: Vec<String>,
    /// Why it is closed; none if it is not.
    closed: Option<String>,
}

/// A database's word, in one line.
pub(crate) fn word(region: &RegionId, said: &Said) -> String {
    match said {
        Said::Agent(seen) => {
            let how = match seen.running {
                Running::Open => "can be written",
                Running::Private => "not open",
                Running::Stopped => "stopped",
                Running::Standby => "standby",
            };
            let kind = match (seen.fenced, seen.primary) {
                (true, _) => ", fenced",
                (false, true) => ", a primary",
                (false, false) => "",
            };
            format!("database {region}: {how}{kind}, has seen epoch {}", seen.epoch)
        }
        Said::Database { writable, why } => {
            let how = if *writable { "CAN be written" } else { "read-only" };
            format!("database {region}: {how}; no agent ({why})")
        }
        Said::Silent { why } => format!("database {region}: silent ({why})"),
    }
}

impl Report {
    pub(crate) fn new(
        publication: &Publication<'_>,
        backup: &BTreeMap<CellId, Placement>,
        reports: &Reports,
        strangers: &BTreeMap<CellId, Placement>,
        done: bool,
    ) -> Self {
        let row = |decision: &Decision| {
            let cell = &decision.cell;
            let mut said: Vec<String> = Vec::new();
            if let Some(p) = backup.get(cell) {
                said.push(format!("backup: {} at epoch {}", name(p.holder.as_ref()), p.epoch));
            }
            // Routers mostly say the same; once is enough.
            let mut by: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for known in reports.known(cell) {
                let p = &known.placement;
                let what = format!("{} at epoch {}", name(p.holder.as_ref()), p.epoch);
                by.entry(what).or_default().push(known.router.to_string());
            }
            said.extend(by.into_iter().map(|(what, who)| format!("routers {}: {what}", who.join(", "))));
            let databases = reports.databases.get(cell);
            said.extend(databases.into_iter().flatten().map(|(region, s)| word(region, s)));
            let (holder, closed) = match &decision.verdict {
                Verdict::Holds { region, .. } => (Some(region.clone()), None),
                Verdict::Closed { why } => (None, Some(why.clone())),
            };
            Row { cell: cell.clone(), holder, epoch: decision.epoch, said, closed }
        };
        let unknown = |(cell, p): (&CellId, &Placement)| {
            format!(
                "cell {cell}, {} at epoch {}: nothing here defines it, so it is not brought back; `domicile registry rebuild` from a regions.toml that names it does",
                name(p.holder.as_ref()),
                p.epoch
            )
        };
        Self {
            world: publication.world.id,
            done,
            cells: publication.decisions.iter().map(row).collect(),
            routers: reports.routers.iter().map(|t| t.id.to_string()).collect(),
            silent: reports.silent.iter().map(|(at, why)| format!("router {at}: {why}")).collect(),
            unknown_cells: strangers.iter().map(unknown).collect(),
            notes: publication.because.clone(),
        }
    }

    pub(crate) fn show(&self, out: &mut Out) -> Result<(), Failure> {
        if out.json {
            return out.data(self);
        }
        let rows = self.cells.iter().map(|row| {
            let verdict =
                row.closed.as_ref().map_or_else(|| "holds it".to_owned(), |why| format!("CLOSED: {why}"));
            vec![
                row.cell.to_string(),
                name(row.holder.as_ref()).into(),
                row.epoch.to_string(),
                row.said.join("\n"),
                verdict,
            ]
        });
        out.table(&["CELL", "REGION", "EPOCH", "WHO SAID WHAT", "VERDICT"], rows.collect())?;
        for line in self.notes.iter().chain(&self.silent).chain(&self.unknown_cells) {
            out.say(line)?;
        }
        Ok(())
    }
}

/// What a person's decision did.
pub(crate) fn ruled(
    cell: &CellId,
    region: &RegionId,
    epoch: Epoch,
    said: &[String],
    out: &mut Out,
) -> Result<Exit, Failure> {
    if out.json {
        out.data(&serde_json::json!({"cell": cell, "holder": region, "epoch": epoch, "said": said}))?;
    } else {
        out.pairs(&[
            ("cell", cell.to_string()),
            ("holder", region.to_string()),
            ("epoch", epoch.to_string()),
            ("said", said.join("\n")),
        ])?;
    }
    Ok(Exit::Ok)
}
