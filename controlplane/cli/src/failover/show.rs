//! `domicile failover show ID`

use domicile_api::agent::SequenceGuard;
use domicile_api::moves::MoveView;
use domicile_model::MoveId;

use crate::cell::show::progress;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::watch::event;
use crate::failover::{approve, kind, standing};
use crate::out::{Out, millis, or_dash};

/// Runs it.
///
/// # Errors
/// When the move does not exist, or no control plane answers.
pub async fn run(id: MoveId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let view: MoveView = client.get(&format!("/v1/moves/{id}")).await?;
    if out.json {
        out.data(&view)?;
    } else {
        table(&view, out)?;
    }
    Ok(Exit::Ok)
}

/// What became of the sequences, in a sentence.
fn sequences(guard: &SequenceGuard) -> String {
    let left = if guard.left.is_empty() {
        String::new()
    } else {
        format!("; NOT raised, may repeat: {}", guard.left.join(", "))
    };
    match guard.values {
        0 => "not raised: the guard is switched off, numbers may repeat".to_owned(),
        values => format!("{} raised by {values} values or their cache{left}", guard.raised),
    }
}

/// A move with its facts and its log.
pub(crate) fn table(view: &MoveView, out: &mut Out) -> Result<(), Failure> {
    let facts = &view.facts;
    let mut pairs = vec![
        ("move", view.id.to_string()),
        ("kind", kind(view.kind).to_owned()),
        ("cell", view.cell.to_string()),
        ("from", or_dash(view.from.as_ref())),
        ("to", view.to.to_string()),
        ("status", standing(view)),
        ("step", view.step.clone()),
        ("paused", or_dash(view.paused.as_ref().map(|p| format!("by {}: {}", p.by, p.reason)).as_ref())),
        ("asked for by", view.by.clone()),
        ("created", view.created.to_string()),
        ("updated", view.updated.to_string()),
    ];
    if let Some(approval) = &view.approval {
        pairs.extend(approve::lines(approval));
    }
    let measured = [
        ("waited for approval", facts.approval_ms.map(millis)),
        ("stopped by", facts.stopped_by.clone()),
        ("fence level", facts.fence_level.map(|l| l.to_string())),
        ("waited for the fence", facts.fence_wait_ms.map(millis)),
        ("closed for", facts.closed_ms.map(millis)),
        ("serving epoch", facts.serving_epoch.map(|e| e.to_string())),
        ("timeline", facts.timeline.map(|t| t.to_string())),
        ("unprotected for", facts.unprotected_ms.map(millis)),
        ("skipped", (!facts.skipped.is_empty()).then(|| facts.skipped.join(", "))),
        ("new standby", view.building.as_ref().map(progress)),
        ("re-protected by", facts.reprotected_by.clone()),
        ("sequences", facts.sequences.as_ref().map(sequences)),
        ("loss accepted", facts.accepted_loss.map(|n| n.to_string())),
        ("transactions lost", facts.lost_transactions.map(|n| n.to_string())),
        (
            "edges left behind",
            (!facts.edges_left_behind.is_empty()).then(|| facts.edges_left_behind.join(", ")),
        ),
    ];
    pairs.extend(measured.into_iter().filter_map(|(name, value)| value.map(|v| (name, v))));
    out.pairs(&pairs)?;
    let rows = view
        .log
        .iter()
        .map(|e| {
            vec![
                e.n.to_string(),
                e.at.to_string(),
                e.step.clone(),
                event(e.event).to_owned(),
                e.leader.clone(),
                e.note.clone(),
            ]
        })
        .collect();
    writeln!(out.stdout)?;
    out.table(&["N", "AT", "STEP", "EVENT", "LEADER", "NOTE"], rows)
}
