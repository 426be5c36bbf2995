//! The forced move: the primary is gone or given up. What is lost was shown, consented to, compared again when the
//! old primary had certainly stopped, and is listed as soon as the old primary can be read.

use domicile_api::moves::{LogEvent, LossPreview};
use domicile_model::FenceLevel;
use domicile_model::clock::pause;

use crate::definitions::stop::{self, Stopped};
use crate::definitions::{no_such_step, promotion, reprotect};
use crate::effect::Way;
use crate::error::Halt;
use crate::fence_level;
use crate::provider::Observation;
use crate::record::Standing;
use crate::run::{Edge, Run};

pub(crate) const STEPS: &[&str] = &[
    "claim",
    "approve",
    "close",
    "fence",
    "catch-up",
    "loss-check",
    "promote",
    "verify",
    "switch",
    "return",
    "losses",
    "re-protect",
    "protect",
];

pub(crate) async fn forward(run: &mut Run) -> Result<(), Halt> {
    match run.flow.step.as_str() {
        "close" => stop::close(run, run.options().hold_forced).await,
        "fence" => fence(run).await,
        "catch-up" => catch_up(run).await,
        "loss-check" => loss_check(run).await,
        "promote" => promotion::promote(run).await,
        "verify" => promotion::verify(run).await,
        "switch" => promotion::switch(run, None).await,
        "return" => wait_for_return(run).await,
        "losses" => export_losses(run).await,
        "re-protect" => reprotect::follow(run).await,
        "protect" => reprotect::protect(run).await,
        _ => Err(no_such_step(run)),
    }
}

/// The old primary has certainly stopped: by its agent's word, at once; else by waiting until no proof is left.
async fn fence(run: &mut Run) -> Result<(), Halt> {
    let stopped = stop::stopped(run, true).await?;
    let level = fence_level(run);
    let note = match &stopped {
        Stopped::Fenced(_, true) => "stopped cleanly",
        Stopped::Fenced(_, false) => "stopped at once",
        Stopped::Lapsed => &fence_level::waited_for(level),
    };
    run.done(note, |flow| {
        flow.facts.fence_level = level;
        flow.facts.fence_wait_ms = stop::since(flow.outputs.closed_at);
        flow.facts.stopped_by = Some(match stopped {
            Stopped::Fenced(handover, clean) => {
                flow.outputs.handover = Some(handover);
                flow.outputs.clean = clean;
                "fenced".to_owned()
            }
            Stopped::Lapsed => "lapsed".to_owned(),
        });
    })
    .await
    .map(|_| ())
}

/// What stops direct writers of the old primary: as it told last, here or to whoever started the move.
fn fence_level(run: &Run) -> Option<FenceLevel> {
    let told = run.shared.sampler.fence_level(&run.cell.id, &run.flow.from);
    told.map(|(level, _)| level).or(run.flow.facts.fence_level)
}

/// The standby replays all that it received: up to the handed-over position, or until it stands still.
async fn catch_up(run: &mut Run) -> Result<(), Halt> {
    let deadline = run.now() + run.options().step;
    let mut moved = run.now();
    let mut last = None;
    loop {
        let seen = run.observe(&run.to()).await;
        if handed_over(run, &seen) {
            return run.done("up to where the old primary stopped", |_| ()).await.map(|_| ());
        }
        if seen.replayed != last {
            (last, moved) = (seen.replayed, run.now());
        }
        if last.is_some() && run.now().since(moved) >= run.options().settled {
            return run.done("all that it received", |_| ()).await.map(|_| ());
        }
        if run.now() >= deadline {
            let problems = seen.problems.join("; ");
            return Err(Halt::Stuck(format!(
                "the standby in {} does not say how far it has replayed ({problems}): look at it, then retry",
                run.flow.to
            )));
        }
        pause(run.options().poll).await;
    }
}

/// Whether the old primary stopped cleanly and the standby has all of it: then nothing is lost.
fn handed_over(run: &Run, seen: &Observation) -> bool {
    let handover = run.flow.outputs.handover.as_ref().filter(|_| run.flow.outputs.clean);
    handover.zip(seen.replayed).is_some_and(|(handover, at)| at > handover.checkpoint)
}

/// The loss is computed again, now that nothing can be added to it. More than accepted stops here.
async fn loss_check(run: &mut Run) -> Result<(), Halt> {
    let seen = run.observe(&run.to()).await;
    let preview = if handed_over(run, &seen) {
        LossPreview {
            sampled_transactions: Some(0),
            sampled_bytes: Some(0),
            sample_age_ms: None,
            until_stopped_transactions: Some(0),
            write_rate_per_s: None,
            because: vec![
                "the old primary stopped cleanly, and the standby has replayed all of it".to_owned(),
            ],
        }
    } else {
        // Where availability comes first nothing has ended by time: it took writes until its word came.
        let (placement, _) = run.placement().await?;
        let closed = run.close_seen.filter(|_| !placement.availability_first);
        let mut loss =
            run.shared.sampler.loss_when_stopped(&run.cell.id, &run.world.constants, closed, seen.replayed);
        // By its agent's word it has stopped, and with it all who wrote to it directly.
        if run.flow.outputs.handover.is_none() {
            fence_level::bound(&mut loss, fence_level(run), run.options().sabotage);
        }
        loss
    };
    let accepted = run.flow.outputs.consented.or(run.flow.request.accept_loss).unwrap_or(0);
    let fine = match preview.total() {
        Some(total) => total <= accepted,
        None => run.flow.request.accept_unknown,
    };
    if !fine && !run.options().sabotage.skip_loss_check {
        let found = preview.total().map_or("an unknown number of".to_owned(), |n| format!("up to {n}"));
        let why = format!(
            "{found} transactions would be lost, {accepted} were accepted: retry with a new consent, or roll back if the old primary can be reached"
        );
        // What the answer will rest on stands in the same edge as the question.
        run.edge(Edge::of("loss-check", LogEvent::Stuck, &why), |flow, _| {
            flow.facts.preview_at_promotion = Some(preview);
            flow.status =
                domicile_api::moves::MoveStatus::Stuck { step: "loss-check".to_owned(), why: why.clone() };
        })
        .await?;
        return Ok(());
    }
    run.done("", |flow| {
        flow.facts.accepted_loss = Some(accepted);
        flow.facts.preview_at_promotion = Some(preview);
    })
    .await
    .map(|_| ())
}

/// The lost primary is fenced at its first answer, before it opens for others. This may take days.
async fn wait_for_return(run: &mut Run) -> Result<(), Halt> {
    let (from, within, stop) = (run.from(), run.options().step, run.options().clean_stop);
    let epoch = stop::closed_epoch(run)?;
    let mut asked = run.now();
    while !run.observe(&from).await.reachable {
        run.still_mine(&mut asked).await?;
        pause(run.options().slow_poll).await;
    }
    run.effect(
        "return",
        Way::Forward,
        &from,
        within,
        |_, _| None,
        |hands, token| async move {
            hands.databases.fence(&hands.cell, &hands.from, &token, epoch, stop, true).await
        },
    )
    .await?;
    run.done("the old primary is back and fenced", |_| ()).await.map(|_| ())
}

/// What the new primary never saw is read from the old one, before anything there is rewound.
async fn export_losses(run: &mut Run) -> Result<(), Halt> {
    if run.flow.outputs.clean
        && run.flow.facts.preview_at_promotion.as_ref().and_then(LossPreview::total) == Some(0)
    {
        return run
            .done("nothing to list: it stopped cleanly and was replayed to its end", |flow| {
                flow.facts.lost_transactions = Some(0);
            })
            .await
            .map(|_| ());
    }
    let (from, within, id) = (run.from(), run.options().step, run.flow.id);
    let Some(fork) = run.flow.outputs.promoted.as_ref().map(|p| p.fork) else {
        return Err(Halt::Stuck("the record lacks where the timelines part".to_owned()));
    };
    if run.flow.stands("losses") != Standing::Intended || !run.mine.contains("losses") {
        run.effect(
            "losses",
            Way::Forward,
            &from,
            within,
            |seen, _| {
                seen.losses.as_ref().filter(|j| j.token.moving == id && failed(j).is_none()).map(|_| ())
            },
            |hands, token| async move {
                hands.databases.export_losses(&hands.cell, &hands.from, fork, &token).await
            },
        )
        .await?;
    }
    let mut sent = run.now();
    loop {
        let job = run.observe(&from).await.losses.filter(|j| j.token.moving == id);
        match job.and_then(|j| j.outcome) {
            Some(Ok(())) => break,
            Some(Err(why)) if run.flow.request.accept_unknown => {
                return run.done(&format!("not listable, as was accepted: {why}"), |_| ()).await.map(|_| ());
            }
            Some(Err(why)) => {
                return Err(Halt::Stuck(format!(
                    "the lost transactions can't be read from {from}: {why}. Nothing was rewound; mend it, then retry"
                )));
            }
            None => pause(run.options().slow_poll).await,
        }
        if run.now().since(sent) >= run.options().nudge {
            sent = run.now();
            let (hands, token) = (run.hands(), run.token("losses")?);
            let again = hands.databases.export_losses(&hands.cell, &hands.from, fork, &token);
            run.nudge(&token, again).await?;
        }
    }
    let report = loop {
        match run.shared.databases.losses(&run.cell, &from, id).await {
            Ok(Some(report)) => break report,
            Ok(None) => {
                return Err(Halt::Stuck(format!("{from} says that its list is ready and has none: retry")));
            }
            Err(why) => {
                tracing::info!(%why, "the list of lost transactions can't be read yet");
                pause(run.options().slow_poll).await;
            }
        }
    };
    let lost = report.lost();
    run.done("", |flow| flow.facts.lost_transactions = Some(lost)).await.map(|_| ())
}

fn failed(job: &crate::provider::Job) -> Option<&str> {
    job.outcome.as_ref().and_then(|o| o.as_ref().err()).map(String::as_str)
}
