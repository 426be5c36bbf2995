//! Taking a cell out of service where it is: nobody holds it any more, and its database is stopped for certain. At once:
//! what is under way is cut, because whoever closes a cell may suspect what it writes.

use domicile_api::moves::{LogEvent, MoveStatus};
use domicile_model::{ClosedCell, ClosedReason, Phase, Placement, StoppedAt};
use domicile_store::codec::{decode, encode};
use domicile_store::{Key, Op};
use jiff::Timestamp;

use crate::definitions::no_such_step;
use crate::definitions::stop::{self, Stopped};
use crate::error::Halt;
use crate::failpoint::Point;
use crate::run::{Edge, Right, Run};

pub(crate) const STEPS: &[&str] = &["claim", "approve", "close", "fence"];

pub(crate) async fn forward(run: &mut Run) -> Result<(), Halt> {
    match run.flow.step.as_str() {
        "close" => close(run).await,
        "fence" => fence(run).await,
        _ => Err(no_such_step(run)),
    }
}

/// Nobody holds the cell, requests are refused, why stands beside it, and the intent to fence: one transaction.
async fn close(run: &mut Run) -> Result<(), Halt> {
    run.reach(Point::BeforeEffect).await;
    let (old, seen) = run.placement().await?;
    let phase = Phase::Closed { reason: ClosedReason::Operator, for_ms: 0 };
    let new = Placement { holder: None, phase, moving: Some(run.flow.id), ..old.clone() };
    let closed = ClosedCell {
        cell: run.flow.cell.clone(),
        moving: run.flow.id,
        by: run.flow.by.clone(),
        reason: run.flow.request.reason.clone(),
        at: Timestamp::now(),
        region: run.from(),
        epoch: old.epoch.next(),
        stopped: None,
    };
    let put = Op::Put(Key::Closed(run.flow.cell.clone()), encode(&closed), None);
    let edge = Edge::of("close", LogEvent::Done, &closed.reason).and("fence", LogEvent::Intent, "");
    run.edge(edge.right(Right { old, seen, new }).with([put]), |flow, placed| {
        flow.facts.closed_epoch = placed.map(|p| p.epoch);
        flow.outputs.closed_at = Some(Timestamp::now());
        flow.advance();
    })
    .await?;
    run.close_seen = Some(run.now());
    run.options().failpoints.clone().reach("close", Point::AfterEffect).await;
    Ok(())
}

/// The database has certainly stopped: by its agent's word, or because no proof is left that it could serve under.
async fn fence(run: &mut Run) -> Result<(), Halt> {
    let stopped = stop::stopped(run, true).await?;
    let closed = closed(run).await?;
    let (old, seen) = run.placement().await?;
    let new = Placement { moving: None, ..old.clone() };
    let (note, by, at) = match &stopped {
        Stopped::Fenced(handover, clean) => (
            if *clean { "stopped cleanly" } else { "stopped at once" },
            "fenced",
            Some(StoppedAt {
                system_id: handover.system_id.clone(),
                timeline: handover.timeline,
                checkpoint: handover.checkpoint,
            }),
        ),
        Stopped::Lapsed => ("no answer; every proof has lapsed", "lapsed", None),
    };
    let put = closed.map(|closed| {
        Op::Put(Key::Closed(run.flow.cell.clone()), encode(&ClosedCell { stopped: at, ..closed }), None)
    });
    let edge = Edge::of("fence", LogEvent::Done, note).right(Right { old, seen, new }).with(put).release();
    run.edge(edge, |flow, _| {
        flow.facts.fence_wait_ms = stop::since(flow.outputs.closed_at);
        flow.facts.stopped_by = Some(by.to_owned());
        flow.status = MoveStatus::Done;
    })
    .await
    .map(|_| ())
}

/// Why the cell is closed.
pub(crate) async fn closed(run: &Run) -> Result<Option<ClosedCell>, Halt> {
    let entry = run.read_one(Key::Closed(run.flow.cell.clone())).await?;
    entry.map(|e| decode(&e.value)).transpose().map_err(|e| Halt::Stuck(e.to_string()))
}
