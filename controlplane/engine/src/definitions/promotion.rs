//! From the point of no return to the new holder: promote, verify, switch. The same in planned and forced moves.

use domicile_api::agent::Consent;
use domicile_api::moves::{LogEvent, LossPreview, MoveKind};
use domicile_model::{HandoverToken, Moved, Phase, Placement, RegionId};
use domicile_store::codec::encode;
use domicile_store::{Key, Op};
use jiff::Timestamp;

use crate::definitions::stop::{self, Stopped};
use crate::effect::Way;
use crate::error::Halt;
use crate::failpoint::Point;
use crate::provider::{EffectError, Observation, Promoted};
use crate::record::{PromotedServer, Standing};
use crate::renewal;
use crate::run::{Edge, Right, Run};

fn promoted_already(seen: &Observation) -> Option<Promoted> {
    seen.writable.filter(|w| *w)?;
    Some(Promoted {
        system_id: seen.system_id.clone()?,
        timeline: seen.timeline?,
        fork: seen.fork?,
        sequences: None,
    })
}

/// The standby becomes the primary. The record of the intent is the point of no return.
///
/// A server that is seen to write was promoted, but only its agent's answer says that it also has the slots without
/// which nothing may be written there: so the order is sent again, and the agent, which promotes once per move, makes
/// up what is missing and tells what it did.
pub(crate) async fn promote(run: &mut Run) -> Result<(), Halt> {
    let (to, within, epoch) = (run.to(), run.options().step, stop::closed_epoch(run)?);
    if run.flow.definition == MoveKind::Switchover && !run.flow.past_return() {
        renewal::await_silence(run).await?;
    }
    // An earlier leader may have promoted: then there is nothing left to fence for.
    let taken_over = run.flow.was_intended("promote") && !run.mine.contains("promote");
    let found = if taken_over { promoted_already(&run.observe(&to).await) } else { None };
    let trusting = run.options().sabotage.trust_sight;
    let promoted = if let Some(promoted) = found.clone().filter(|_| trusting) {
        promoted
    } else {
        if found.is_none() {
            fence_again(run).await?;
        }
        let (handover, consent) = warrant(run);
        run.effect(
            "promote",
            Way::Forward,
            &to,
            within,
            |seen, _| promoted_already(seen).filter(|_| trusting),
            |hands, token| {
                let (handover, consent) = (handover.clone(), consent.clone());
                async move {
                    let (handover, consent) = (handover.as_ref(), consent.as_ref());
                    hands.databases.promote(&hands.cell, &hands.to, &token, epoch, handover, consent).await
                }
            },
        )
        .await?
    };
    run.done("", |flow| {
        flow.facts.timeline = Some(promoted.timeline);
        flow.facts.fork_at = Some(promoted.fork.at);
        flow.facts.system_id = Some(promoted.system_id.clone());
        flow.facts.sequences = promoted.sequences.clone();
        flow.outputs.promoted = Some(PromotedServer {
            system_id: promoted.system_id,
            timeline: promoted.timeline,
            fork: promoted.fork,
            sequences: promoted.sequences,
        });
    })
    .await
    .map(|_| ())
}

/// What the promotion rests on. A planned move: the old primary's signed word. A forced one: consent, and the word too
/// where nothing is lost, so that the new primary checks once more that nothing is.
fn warrant(run: &Run) -> (Option<HandoverToken>, Option<Consent>) {
    let flow = &run.flow;
    let handover = flow.outputs.handover.clone().filter(|_| flow.outputs.clean);
    if flow.definition != MoveKind::Failover {
        return (handover, None);
    }
    let lost = flow.facts.preview_at_promotion.as_ref().and_then(LossPreview::total);
    let consent = Consent {
        by: flow.by.clone(),
        accept_loss: flow.outputs.consented.or(flow.request.accept_loss),
        accept_unknown: flow.request.accept_unknown,
    };
    (handover.filter(|_| lost == Some(0)), Some(consent))
}

/// A new leader promotes only on a fence under its own token: whatever an earlier leader still sends to the old
/// primary ranks lower from then on. Where the old primary does not answer any more, its proofs lapse instead.
async fn fence_again(run: &mut Run) -> Result<(), Halt> {
    let own = run.flow.steps.get("fence").is_some_and(|s| {
        s.stands == Standing::Done && s.token.as_ref().is_some_and(|t| t.leader == run.leadership.fence)
    });
    if own || run.options().sabotage.trust_old_fence {
        return Ok(());
    }
    let force = run.flow.definition == MoveKind::Failover;
    let stopped = stop::stopped(run, force).await?;
    let note = match &stopped {
        Stopped::Fenced(..) => "again, by a new leader",
        Stopped::Lapsed => "again, by a new leader: no answer, every proof has lapsed",
    };
    run.edge(Edge::of("fence", LogEvent::Done, note), |flow, _| {
        // Only a clean stop can be handed over, and one that was handed over stays so.
        if let Stopped::Fenced(handover, true) = stopped {
            flow.outputs.handover = Some(handover);
            flow.outputs.clean = true;
        }
    })
    .await
    .map(|_| ())
}

/// The new primary takes a write and gives it back.
///
/// What was promoted is open for as long as a proof lives, counted from the order or from a read of its agent that shows this
/// move's close, since nobody holds the cell yet. One that was ended meanwhile (a silent registry, a restart) is shut, and shut
/// it would stay: so the promotion is ordered again, which promotes nothing twice, and opens it.
pub(crate) async fn verify(run: &mut Run) -> Result<(), Halt> {
    let (to, within, epoch) = (run.to(), run.options().step, stop::closed_epoch(run)?);
    let (handover, consent) = warrant(run);
    let opens = !run.options().sabotage.leave_shut;
    run.effect(
        "verify",
        Way::Forward,
        &to,
        within,
        |_, _| None,
        |hands, token| {
            let (handover, consent) = (handover.clone(), consent.clone());
            async move {
                match hands.databases.verify(&hands.cell, &hands.to, &token).await {
                    Err(EffectError::Refused(_) | EffectError::Unknown(_)) if opens => {}
                    verified => return verified,
                }
                let (handover, consent) = (handover.as_ref(), consent.as_ref());
                hands.databases.promote(&hands.cell, &hands.to, &token, epoch, handover, consent).await?;
                hands.databases.verify(&hands.cell, &hands.to, &token).await
            }
        },
    )
    .await?;
    run.done("", |_| ()).await.map(|_| ())
}

/// The new region holds the cell; what was held is released by that very placement. Routers are awaited afterwards.
pub(crate) async fn switch(run: &mut Run, standby: Option<RegionId>) -> Result<(), Halt> {
    if run.flow.stands("switch") != Standing::Intended {
        let (old, seen) = run.placement().await?;
        let named = renewal::named(run, &old, seen, false).await?;
        let new = Placement {
            holder: Some(run.to()),
            standby,
            phase: Phase::Serving,
            moving: Some(run.flow.id),
            // The old holder has certainly stopped, by the rule of its own time: from here on the owner's present wish counts.
            availability_first: run.cell.availability_first,
            witnesses: named.witnesses,
            ..old.clone()
        };
        let moved = Moved { moving: run.flow.id, at: Timestamp::now() };
        let moved = Op::Put(Key::Moved(run.flow.cell.clone()), encode(&moved), None);
        let edge = Edge::of("switch", LogEvent::Intent, &named.note).right(Right { old, seen, new });
        run.edge(edge.silent(named.silence).with([moved]).with(named.also), |flow, placed| {
            flow.facts.serving_epoch = placed.map(|p| p.epoch);
            flow.facts.closed_ms = stop::since(flow.outputs.closed_at);
            flow.outputs.switched_at = Some(Timestamp::now());
        })
        .await?;
    }
    run.reach(Point::BeforeEffect).await;
    let (_, revision) = run.placement().await?;
    let behind = run.followed(revision, run.options().edges).await?;
    run.reach(Point::AfterEffect).await;
    let note = if behind.is_empty() {
        String::new()
    } else {
        format!("left behind, they will be sent on by the gates: {}", behind.join(", "))
    };
    run.done(&note, |flow| flow.facts.edges_left_behind = behind).await.map(|_| ())
}
