//! Reading what has left the registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_api::archive::{ArchiveView, CopyView};
use domicile_api::moves::MoveView;
use domicile_archive::items;
use domicile_engine::engine::views;
use domicile_model::{MoveId, Revision};
use domicile_store::{Entry, Key};

use super::{Archive, Problem, copies, head, ring};
use crate::app::App;

/// Most archived moves that one listing shows.
pub(crate) const MOST_LISTED: usize = 1_000;

/// The entries of these segments that the choice takes.
async fn entries(
    archive: &Arc<Archive>,
    segments: Vec<u64>,
    wanted: impl Fn(&Key) -> bool + Send + 'static,
) -> Result<Vec<Entry>, Problem> {
    archive
        .on_disk(move |own| {
            let mut found = Vec::new();
            for n in segments {
                // One that was set aside meanwhile holds nothing that has left the registry.
                let Some((segment, _)) = own.load(n)? else { continue };
                found.extend(items(&segment).into_iter().filter_map(|item| {
                    let key: Key = item.key.parse().ok().filter(|key| wanted(key))?;
                    let (created, modified) = (Revision(item.created), Revision(item.modified));
                    Some(Entry { key, value: item.value, created, modified })
                }));
            }
            Ok(found)
        })
        .await
}

/// Of a move, wherever its record and its log are: in the registry, in this copy, or partly in each.
pub(crate) async fn find(app: &App, id: MoveId) -> Result<Option<MoveView>, Problem> {
    // First the registry: what has left it in between is in the archive by then.
    let live = app.store.list(&Key::Workflow(id).to_string()).await?.entries;
    let Some(archive) = &app.archive else { return Ok(one(live, id)) };
    let segments: Vec<u64> = archive.held().moves.get(&id).into_iter().flatten().copied().collect();
    if segments.is_empty() {
        return Ok(one(live, id));
    }
    let mut all = entries(
        archive,
        segments,
        move |key| matches!(key, Key::Workflow(of) | Key::WorkflowLog(of, _) if *of == id),
    )
    .await?;
    all.extend(live);
    Ok(one(all, id))
}

fn one(entries: Vec<Entry>, id: MoveId) -> Option<MoveView> {
    views(&distinct(entries)).ok()?.into_iter().find(|view| view.id == id)
}

/// Each key once: a segment that does not count yet repeats what the registry still holds.
fn distinct(entries: Vec<Entry>) -> Vec<Entry> {
    entries
        .into_iter()
        .map(|entry| (entry.key.clone(), entry))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect()
}

/// The moves that are in the registry and, as far as there is room in the list, the newest archived ones.
pub(crate) async fn list(app: &App) -> Result<Vec<MoveView>, Problem> {
    let mut all = app.store.list("workflows/").await?.entries;
    if let Some(archive) = &app.archive {
        let mut segments: Vec<u64> = Vec::new();
        {
            let held = archive.held();
            let mut counted = 0;
            let newest = held.ends.keys().rev();
            for n in newest {
                let moves = held.moves.values().filter(|at| at.contains(n)).count();
                if moves > 0 {
                    segments.push(*n);
                    counted += moves;
                }
                if counted >= MOST_LISTED {
                    break;
                }
            }
        }
        let archived =
            entries(archive, segments, |key| matches!(key, Key::Workflow(_) | Key::WorkflowLog(..))).await?;
        all.extend(archived);
    }
    let mut moves = views(&distinct(all)).map_err(|e| Problem::Other(e.to_string()))?;
    moves.sort_by_key(|m| std::cmp::Reverse(m.created));
    Ok(moves)
}

/// Whether this control plane holds everything that has left the registry.
pub(crate) async fn is_complete(app: &App) -> Result<bool, Problem> {
    let (head, seen) = head(app, None).await?;
    if seen.is_none() {
        return Ok(true);
    }
    let held = app.archive.as_ref().and_then(|archive| {
        let end = archive.end(head.segment)?;
        Some(end.head == head.head && archive.held().sound >= head.segment)
    });
    Ok(held.unwrap_or(false))
}

/// How the archive stands.
pub(crate) async fn view(app: &App) -> Result<ArchiveView, Problem> {
    let head = match head(app, None).await {
        Ok((head, Some(_))) => Some(head),
        _ => None,
    };
    let reached = head.as_ref().map_or(0, |head| head.segment);
    let copies = copies::all(app).await?;
    let ring = ring(app).await?;
    Ok(ArchiveView {
        server: app.name.clone(),
        keeps: app.archive.is_some(),
        chain: head.as_ref().map(|h| h.chain.clone()),
        head: head.as_ref().map(|h| format!("{}:{}:{}", h.segment, h.head.n, h.head.digest)),
        links: head.as_ref().map_or(0, |h| h.head.n),
        copies: copies
            .into_iter()
            .map(|copy| CopyView {
                complete: copy.segment >= reached,
                server: copy.server,
                segment: copy.segment,
            })
            .collect(),
        keys: ring.keys().iter().map(|key| (key.id.to_string(), key.owner.clone())).collect(),
        waiting: app.archive.as_ref().and_then(|archive| archive.waiting()),
    })
}
