//! The way back: only before the intent to promote stands. The old primary is seen writable, then holds again.

use domicile_api::moves::{LogEvent, MoveKind, MoveStatus};
use domicile_model::{Phase, Placement};
use domicile_store::{Key, Op};

use crate::definitions::open;
use crate::effect::Way;
use crate::error::Halt;
use crate::record::Standing;
use crate::run::{Edge, Right, Run};

/// Undoes what was done, last first, and ends the move.
pub(crate) async fn backward(run: &mut Run) -> Result<(), Halt> {
    if run.flow.past_return() {
        return Err(Halt::Stuck("the promotion was intended: there is no way back".to_owned()));
    }
    if run.flow.definition == MoveKind::Open {
        if run.flow.was_intended("unfence") && run.flow.stands("unfence") != Standing::Undone {
            open::stop_again(run).await?;
        }
        return release(run).await;
    }
    let database = run.cell.database.is_some();
    if database && run.flow.was_intended("fence") && run.flow.stands("fence") != Standing::Undone {
        unfence(run).await?;
    }
    reopen(run).await
}

/// The old primary runs again, and a write was seen to succeed, under a token above every fence ever sent.
async fn unfence(run: &mut Run) -> Result<(), Halt> {
    let (from, within) = (run.from(), run.options().step);
    run.effect(
        "fence",
        Way::Back,
        &from,
        within,
        |seen, mine| {
            let ours = seen
                .highest
                .as_ref()
                .is_some_and(|h| h.leader == mine.leader && h.attempt == mine.attempt - 1);
            (ours && seen.fence.is_none() && seen.writable == Some(true)).then_some(())
        },
        |hands, token| async move { hands.databases.unfence(&hands.cell, &hands.from, &token).await },
    )
    .await?;
    run.edge(Edge::of("fence", LogEvent::Undone, "a write was seen to succeed"), |_, _| ()).await.map(|_| ())
}

/// The old region holds again, under a new epoch if it had lost the right; the claim goes.
async fn reopen(run: &mut Run) -> Result<(), Halt> {
    if !run.flow.touched_the_cell() {
        return release(run).await;
    }
    let (old, seen) = run.placement().await?;
    let kept = run.flow.definition == MoveKind::Reprotect;
    let new = Placement {
        holder: if kept { old.holder.clone() } else { Some(run.from()) },
        standby: run.flow.outputs.standby.clone(),
        phase: Phase::Serving,
        moving: None,
        ..old.clone()
    };
    let mut edge = Edge::default().right(Right { old, seen, new }).release();
    if run.flow.definition == MoveKind::Close {
        edge = edge.with([Op::Delete(Key::Closed(run.flow.cell.clone()))]);
    }
    for step in ["close", "hold", "claim"] {
        if run.flow.stands(step) != Standing::Untouched && run.flow.stands(step) != Standing::Undone {
            edge = edge.and(step, LogEvent::Undone, "");
        }
    }
    run.edge(edge, |flow, _| flow.status = MoveStatus::RolledBack { why: flow.back_because.clone() })
        .await
        .map(|_| ())
}

/// The placement stays as it is, and the claim goes.
async fn release(run: &mut Run) -> Result<(), Halt> {
    let why = run.flow.back_because.clone();
    let edge = Edge::of("claim", LogEvent::Undone, "").release();
    run.edge(edge, |flow, _| flow.status = MoveStatus::RolledBack { why }).await.map(|_| ())
}
