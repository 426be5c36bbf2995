//! Building a standby: a workflow of its own, and the tail of the other two. The new standby stands where the old
//! primary stood (`from`), its upstream is the holder (`to`). May take days; nothing else waits for it.

use std::time::Duration;

use domicile_api::agent::Fork;
use domicile_api::moves::{LogEvent, MoveStatus};
use domicile_model::clock::pause;
use domicile_model::{Phase, Placement, Token};

use crate::definitions::{no_such_step, stop};
use crate::effect::Way;
use crate::error::Halt;
use crate::provider::{Job, Observation};
use crate::record::Standing;
use crate::run::{Edge, Right, Run};

pub(crate) const STEPS: &[&str] = &["claim", "re-protect", "protect"];

/// Orders to follow that may fail before a person is asked: the agent attaches, rewinds once, then rebuilds.
const MOST_ORDERS: u32 = 4;

pub(crate) async fn forward(run: &mut Run) -> Result<(), Halt> {
    match run.flow.step.as_str() {
        "re-protect" => follow(run).await,
        "protect" => protect(run).await,
        _ => Err(no_such_step(run)),
    }
}

fn this_moves(job: Option<Job>, run: &Run) -> Option<Job> {
    job.filter(|j| j.token.moving == run.flow.id)
}

/// The old primary follows the new one, and streams past where that one was when this began.
pub(crate) async fn follow(run: &mut Run) -> Result<(), Halt> {
    let (from, to) = (run.from(), run.to());
    let (upstream, timeline, fork) = upstream(run).await?;
    if run.flow.outputs.protect_at.is_none() {
        // Kept in memory until the next edge stores it: a new leader may take a later position, never an earlier.
        run.flow.outputs.protect_at = upstream.flushed;
    }
    let mut orders = 0;
    let mut ordered: Option<Token> = None;
    let mut sent = run.now();
    // A failure that was there before the newest order is no answer to it.
    let mut answered: Option<Token> = None;
    let mut asked = run.now();
    loop {
        run.still_mine(&mut asked).await?;
        let seen = run.observe(&from).await;
        let job = this_moves(seen.follow.clone(), run);
        if protects(run, &seen, timeline) && (ordered.is_some() || job.is_some()) {
            let how = job.map(|j| j.how);
            return run
                .done("", |flow| {
                    flow.facts.unprotected_ms = stop::since(flow.outputs.switched_at);
                    flow.facts.reprotected_by = how;
                })
                .await
                .map(|_| ());
        }
        let failed = job.filter(|_| ordered.is_some()).filter(|j| answered.as_ref() != Some(&j.token));
        let failure = failed.and_then(|j| Some((j.token, j.outcome?.err()?)));
        if let Some((token, why)) = failure {
            answered = Some(token);
            run.edge(Edge::of("re-protect", LogEvent::Failed, &why), |_, _| ()).await?;
            ordered = None;
            if orders >= MOST_ORDERS {
                return Err(Halt::Stuck(format!(
                    "{from} could not be made a standby of {to}: {why}. The cell is unprotected; mend it, then retry"
                )));
            }
        } else if ordered.is_none() && seen.reachable {
            orders += 1;
            ordered = Some(order(run, fork).await?);
            sent = run.now();
        } else if let Some(token) = ordered.as_ref().filter(|_| seen.reachable)
            && run.now().since(sent) >= run.options().nudge
        {
            sent = run.now();
            let hands = run.hands();
            let again = hands.databases.follow(&hands.cell, &hands.from, &hands.to, fork, token);
            run.nudge(token, again).await?;
        }
        pause(if ordered.is_some() { run.options().poll * 10 } else { run.options().slow_poll }).await;
    }
}

/// Sends the order to follow, unless one of this move is under way: a second one could break a rewind. Returns the
/// token that the job runs under.
async fn order(run: &mut Run, fork: Option<Fork>) -> Result<Token, Halt> {
    let (from, within, id) = (run.from(), run.options().step, run.flow.id);
    run.effect(
        "re-protect",
        Way::Forward,
        &from,
        within,
        |seen, _| {
            let job = seen.follow.as_ref().filter(|j| j.token.moving == id);
            job.filter(|j| !matches!(j.outcome, Some(Err(_)))).map(|j| j.token.clone())
        },
        |hands, token| async move {
            hands.databases.follow(&hands.cell, &hands.from, &hands.to, fork, &token).await?;
            Ok(token)
        },
    )
    .await
}

/// The holder's server, its timeline and where that left the old one.
async fn upstream(run: &Run) -> Result<(Observation, Option<u32>, Option<Fork>), Halt> {
    loop {
        let seen = run.observe(&run.to()).await;
        if seen.writable == Some(true) && seen.flushed.is_some() {
            let promoted = run.flow.outputs.promoted.as_ref();
            let timeline = promoted.map(|p| p.timeline).or(seen.timeline);
            let fork = promoted.map(|p| p.fork).or(seen.fork);
            return Ok((seen, timeline, fork));
        }
        pause(run.options().slow_poll).await;
    }
}

/// Whether this server protects the holder's: a standby that streams on its timeline, past where it was.
fn protects(run: &Run, seen: &Observation, timeline: Option<u32>) -> bool {
    let past = run.flow.outputs.protect_at.zip(seen.replayed).is_some_and(|(at, replayed)| replayed >= at);
    seen.standby == Some(true)
        && seen.streaming == Some(true)
        && past
        && (seen.timeline.is_none() || timeline.is_none() || seen.timeline >= timeline)
}

/// The registry names the standby, the claim goes, the move is done. Where that raises the epoch, requests are held
/// for the moment it takes: an answer under the old epoch would be cut.
pub(crate) async fn protect(run: &mut Run) -> Result<(), Halt> {
    let (old, _) = run.placement().await?;
    if old.standby != Some(run.from()) {
        let holding = matches!(old.phase, Phase::Holding { .. });
        if !holding {
            let (old, seen) = run.placement().await?;
            let for_ms = u64::try_from(run.options().hold.as_millis()).unwrap_or(u64::MAX);
            let new = Placement { phase: Phase::Holding { for_ms }, ..old.clone() };
            let edge = match run.flow.stands("protect") {
                Standing::Intended => Edge::default(),
                _ => Edge::of("protect", LogEvent::Intent, "requests wait for the new epoch"),
            };
            run.edge(edge.right(Right { old, seen, new }), |_, _| ()).await?;
        }
        let (_, revision) = run.placement().await?;
        // Past the deadline the few left are cut with an unknown outcome: holding everybody longer is worse.
        match run.drained(&run.to(), revision, run.options().drain.min(Duration::from_secs(3))).await {
            Ok(()) | Err(Halt::Turn(_)) => {}
            Err(other) => return Err(other),
        }
    }
    let (old, seen) = run.placement().await?;
    let new = Placement { standby: Some(run.from()), phase: Phase::Serving, moving: None, ..old.clone() };
    run.edge(
        Edge::of("protect", LogEvent::Done, "").right(Right { old, seen, new }).release(),
        |flow, placed| {
            flow.facts.serving_epoch = placed.map(|p| p.epoch);
            flow.status = MoveStatus::Done;
        },
    )
    .await
    .map(|_| ())
}
