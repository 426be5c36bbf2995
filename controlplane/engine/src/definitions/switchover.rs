//! The planned move: nothing acknowledged is lost, no request fails. Until the intent to promote stands, every
//! failure turns it back; it never becomes a forced move by itself.

use domicile_api::moves::LogEvent;
use domicile_model::clock::{BootTime, pause};
use domicile_model::{HandoverToken, Phase, Placement};

use crate::definitions::{no_such_step, promotion, reprotect, stop};
use crate::effect::Way;
use crate::error::Halt;
use crate::failpoint::Point;
use crate::provider::EffectError;
use crate::record::Standing;
use crate::run::{Edge, Pace, Right, Run};

/// How often the new primary's side is asked whether it would take the handover, before the move turns back.
const ACCEPT_TRIES: u32 = 3;

pub(crate) const STEPS: &[&str] = &[
    "claim",
    "approve",
    "settle",
    "hold",
    "close",
    "fence",
    "catch-up",
    "promote",
    "verify",
    "switch",
    "re-protect",
    "protect",
];

pub(crate) async fn forward(run: &mut Run) -> Result<(), Halt> {
    match run.flow.step.as_str() {
        "settle" => settle(run).await,
        "hold" => hold(run).await,
        "close" => stop::close(run, run.options().hold).await,
        "fence" => fence(run).await,
        "catch-up" => catch_up(run).await,
        "promote" => promotion::promote(run).await,
        "verify" => promotion::verify(run).await,
        "switch" => promotion::switch(run, Some(run.from())).await,
        "re-protect" => reprotect::follow(run).await,
        "protect" => reprotect::protect(run).await,
        _ => Err(no_such_step(run)),
    }
}

/// CHECKPOINT on the old primary, while everybody still writes: it makes the stop short.
async fn settle(run: &mut Run) -> Result<(), Halt> {
    let (from, within) = (run.from(), run.options().step);
    run.effect(
        "settle",
        Way::Forward,
        &from,
        within,
        |_, _| None,
        |hands, token| async move { hands.databases.settle(&hands.cell, &hands.from, &token).await },
    )
    .await?;
    run.done("", |_| ()).await.map(|_| ())
}

/// Routers keep new requests waiting; the old region's gates finish what they admitted.
async fn hold(run: &mut Run) -> Result<(), Halt> {
    if run.flow.stands("hold") != Standing::Intended {
        let (old, seen) = run.placement().await?;
        let for_ms = millis(run.options().hold);
        let new = Placement { phase: Phase::Holding { for_ms }, moving: Some(run.flow.id), ..old.clone() };
        run.edge(Edge::of("hold", LogEvent::Intent, "").right(Right { old, seen, new }), |_, _| ()).await?;
    }
    let (_, revision) = run.placement().await?;
    run.reach(Point::BeforeEffect).await;
    run.drained(&run.from(), revision, run.options().drain).await?;
    run.reach(Point::AfterEffect).await;
    run.done("the old region's gates have nothing in flight", |_| ()).await.map(|_| ())
}

/// The old primary stops cleanly and hands over its last position.
async fn fence(run: &mut Run) -> Result<(), Halt> {
    let (from, within, stop) = (run.from(), run.options().step, run.options().clean_stop);
    let epoch = stop::closed_epoch(run)?;
    let (handover, clean) = run
        .effect(
            "fence",
            Way::Forward,
            &from,
            within,
            |seen, mine| seen.fence.clone().filter(|(h, clean)| *clean && h.token.leader == mine.leader),
            |hands, token| async move {
                hands.databases.fence(&hands.cell, &hands.from, &token, epoch, stop, false).await
            },
        )
        .await?;
    if !clean {
        return Err(Halt::Turn(
            "the old primary stopped, but not cleanly: nothing can be handed over".into(),
        ));
    }
    let signed =
        handover.seal.as_ref().map_or("not signed".to_owned(), |s| format!("signed with key {}", s.key));
    let note = format!("handed over at {} on timeline {}, {signed}", handover.checkpoint, handover.timeline);
    run.done(&note, |flow| {
        flow.facts.stopped_by = Some("fenced".to_owned());
        flow.facts.fence_wait_ms = stop::since(flow.outputs.closed_at);
        flow.outputs.handover = Some(handover);
        flow.outputs.clean = true;
    })
    .await
    .map(|_| ())
}

/// The standby has replayed past the handed-over position: never a measure of lag, always the position itself.
async fn catch_up(run: &mut Run) -> Result<(), Halt> {
    let deadline = run.now() + run.options().catch_up;
    let Some(handover) = run.flow.outputs.handover.clone() else {
        return Err(Halt::Turn("the old primary handed nothing over".to_owned()));
    };
    run.reach(Point::BeforeEffect).await;
    let (accepted, caught_up) = tokio::join!(accepted(run, &handover), replayed(run, &handover, deadline));
    accepted?;
    caught_up?;
    run.reach(Point::AfterEffect).await;
    run.done("", |_| ()).await.map(|_| ())
}

/// The new primary's side would promote on this handover. It asks itself again when it does, but then nothing turns back
/// any more: a token that it does not believe must show while the old primary can still be opened again.
async fn accepted(run: &Run, handover: &HandoverToken) -> Result<(), Halt> {
    if run.options().sabotage.skip_acceptance {
        return Ok(());
    }
    let (hands, epoch, token) = (run.hands(), stop::closed_epoch(run)?, run.next_token("promote"));
    let mut pace = Pace::new(run.options().backoff);
    let mut why = String::new();
    for _ in 0..ACCEPT_TRIES {
        let asked = hands.databases.accepts(&hands.cell, &hands.to, &token, epoch, handover);
        why = match tokio::time::timeout(run.options().call, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(EffectError::Deposed(why))) => return Err(Halt::Deposed(why)),
            Ok(Err(EffectError::Refused(why) | EffectError::Unknown(why))) => why,
            Err(_) => format!("no answer from {} in time", run.flow.to),
        };
        pace.wait(&why).await;
    }
    Err(Halt::Turn(format!("the new primary would not be promoted on this handover: {why}")))
}

/// The standby has replayed past the handed-over position, by now or until the deadline.
async fn replayed(run: &Run, handover: &HandoverToken, deadline: BootTime) -> Result<(), Halt> {
    loop {
        let seen = run.observe(&run.to()).await;
        if seen.replayed.is_some_and(|at| at > handover.checkpoint) {
            return Ok(());
        }
        if run.now() >= deadline {
            let at = seen.replayed.map_or("an unknown position".to_owned(), |at| at.to_string());
            return Err(Halt::Turn(format!(
                "the standby in {} has replayed up to {at}, the old primary stopped at {}",
                run.flow.to, handover.checkpoint
            )));
        }
        pause(run.options().poll).await;
    }
}

fn millis(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
