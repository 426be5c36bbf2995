//! Taking the right away, and making certain that the old primary has stopped.

use std::time::Duration;

use domicile_api::moves::LogEvent;
use domicile_model::clock::pause;
use domicile_model::proof::lapsed;
use domicile_model::{ClosedReason, Epoch, HandoverToken, Phase, Placement};
use jiff::Timestamp;

use crate::error::Halt;
use crate::failpoint::Point;
use crate::provider::EffectError;
use crate::record::Standing;
use crate::run::{Edge, Pace, Right, Run};

/// How the old primary is known to have stopped.
pub(crate) enum Stopped {
    /// By its agent's word: durable, under this leader's token. Whether the stop was clean.
    Fenced(HandoverToken, bool),
    /// No proof of it is left: WAIT has passed, and enough witnesses are quiet.
    Lapsed,
}

/// Nobody holds the cell any more, and the intent to fence stands: one transaction.
pub(crate) async fn close(run: &mut Run, hold: Duration) -> Result<(), Halt> {
    run.reach(Point::BeforeEffect).await;
    let (old, seen) = run.placement().await?;
    let for_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
    let phase = Phase::Closed { reason: ClosedReason::Moving, for_ms };
    let new = Placement { holder: None, phase, moving: Some(run.flow.id), ..old.clone() };
    let edge = Edge::of("close", LogEvent::Done, "").and("fence", LogEvent::Intent, "");
    run.edge(edge.right(Right { old, seen, new }), |flow, placed| {
        flow.facts.closed_epoch = placed.map(|p| p.epoch);
        flow.outputs.closed_at = Some(Timestamp::now());
        flow.advance();
    })
    .await?;
    // Not before the answer: the close may have been applied at any moment until now.
    run.close_seen = Some(run.now());
    // The cursor stands at the fence already: its intent was part of the same transaction.
    run.options().failpoints.clone().reach("close", Point::AfterEffect).await;
    Ok(())
}

/// The epoch of the close.
pub(crate) fn closed_epoch(run: &Run) -> Result<Epoch, Halt> {
    run.flow
        .facts
        .closed_epoch
        .ok_or_else(|| Halt::Stuck("the record lacks the epoch of the close".to_owned()))
}

/// Milliseconds since a moment on the wall clock, for facts.
pub(crate) fn since(at: Option<Timestamp>) -> Option<u64> {
    u64::try_from(Timestamp::now().duration_since(at?).as_millis()).ok()
}

/// Makes certain that the old primary has stopped: by its agent's word under this leader's token, or, where it does
/// not answer, by letting every proof of it lapse. Needs a closed placement. Records nothing but the intent.
pub(crate) async fn stopped(run: &mut Run, force: bool) -> Result<Stopped, Halt> {
    let epoch = closed_epoch(run)?;
    if run.close_seen.is_none() {
        let (placement, _) = run.placement().await?;
        if placement.holder.is_some() {
            return Err(Halt::Conflict);
        }
        // A new leader's timer starts again: it has only now seen the close.
        run.close_seen = Some(run.now());
    }
    if run.flow.stands("fence") != Standing::Intended || !run.mine.contains("fence") {
        if run.flow.stands("fence") == Standing::Intended {
            run.edge(Edge::of("fence", LogEvent::Unknown, "taken over"), |_, _| ()).await?;
        }
        run.edge(Edge::of("fence", LogEvent::Intent, "under this leader's token"), |_, _| ()).await?;
    }
    let token = run.token("fence")?;
    let hands = run.hands();
    let (call, stop) = (run.options().call, run.options().clean_stop);
    let backoff = run.options().backoff;
    let failpoints = run.options().failpoints.clone();
    // The same token again and again: a repeat does nothing twice, so it needs no new intent.
    let fence = async {
        let mut pace = Pace::new(backoff);
        loop {
            failpoints.reach("fence", Point::BeforeEffect).await;
            let sent = hands.databases.fence(&hands.cell, &hands.from, &token, epoch, stop, force);
            let result = tokio::time::timeout(call, sent).await;
            failpoints.reach("fence", Point::AfterEffect).await;
            match result {
                Ok(Ok((handover, clean))) => return Ok(Stopped::Fenced(handover, clean)),
                Ok(Err(EffectError::Deposed(why))) => return Err(Halt::Deposed(why)),
                Ok(Err(EffectError::Refused(why) | EffectError::Unknown(why))) => pace.wait(&why).await,
                Err(_) => pace.wait(&"no answer in time").await,
            }
        }
    };
    tokio::select! {
        biased;
        result = fence => result,
        result = lapse(run) => result,
    }
}

/// Waits until no proof of the closed epoch is left anywhere. Where availability came first there is no such moment: whoever
/// has not heard of the close goes on without a proof.
async fn lapse(run: &mut Run) -> Result<Stopped, Halt> {
    let (placement, revision) = run.placement().await?;
    if placement.holder.is_some() {
        return Err(Halt::Conflict);
    }
    let close_seen = run.close_seen.unwrap_or_else(|| run.now());
    let constants = run.world.constants;
    let first = placement.availability_first && !run.options().sabotage.ends_by_time;
    let needed = placement.witnesses.r;
    // Whoever was declared destroyed by now counts once WAIT has passed from here.
    run.witnesses().await?;
    loop {
        let now = run.now();
        if run.options().sabotage.skip_wait {
            return Ok(Stopped::Lapsed);
        }
        if now.since(close_seen) >= constants.wait() {
            let quiet = run.quiet(&placement.witnesses.members, revision).await?;
            if lapsed(first, close_seen, now, &constants, quiet, needed) {
                return Ok(Stopped::Lapsed);
            }
            if first && now.since(close_seen) >= constants.wait() + run.options().quiet {
                return Err(Halt::Turn(format!(
                    "in cell {} availability comes first: the database in {} goes on until it hears that it must stop, so no time says that it has, and it does not answer: bring its agent back (a stopped server acknowledges at once), then retry",
                    run.cell.id, run.flow.from
                )));
            }
            if now.since(close_seen) >= constants.wait() + run.options().quiet {
                return Err(Halt::Turn(format!(
                    "the old primary in {} does not answer, and only {quiet} of the {needed} witnesses needed have gone quiet: start them (`domicile cell show {}` names them), then retry; for those whose machines are destroyed, `domicile failover retry {} --destroyed …`",
                    run.flow.from, run.cell.id, run.flow.id
                )));
            }
        }
        pause(run.options().poll).await;
    }
}
