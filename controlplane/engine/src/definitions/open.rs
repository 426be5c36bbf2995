//! Putting a closed cell back into service, where its newest data is: its database takes a write, then its region holds
//! it again. Until that, any failure leaves it closed.

use domicile_api::moves::{LogEvent, MoveStatus};
use domicile_model::{Phase, Placement, RegionId};
use domicile_store::{Key, Op};

use crate::definitions::{close, no_such_step};
use crate::effect::Way;
use crate::error::Halt;
use crate::failpoint::Point;
use crate::provider::Observation;
use crate::record::Standing;
use crate::renewal;
use crate::run::{Edge, Right, Run};

pub(crate) const STEPS: &[&str] = &["claim", "approve", "unfence", "open"];

pub(crate) async fn forward(run: &mut Run) -> Result<(), Halt> {
    match run.flow.step.as_str() {
        "unfence" => unfence(run).await,
        "open" => open(run).await,
        _ => Err(no_such_step(run)),
    }
}

/// The database runs again, for itself alone until its region holds the cell, and a write was seen to succeed.
async fn unfence(run: &mut Run) -> Result<(), Halt> {
    if run.cell.database.is_none() {
        return run.done("the cell has no database", |_| ()).await.map(|_| ());
    }
    let (to, within) = (run.to(), run.options().step);
    run.effect(
        "unfence",
        Way::Forward,
        &to,
        within,
        |_, _| None,
        |hands, token| async move { hands.databases.unfence(&hands.cell, &hands.to, &token).await },
    )
    .await?;
    // A standby is told to go on as one and takes no write: it would hold the cell and not serve it.
    if run.observe(&to).await.writable != Some(true) {
        return Err(Halt::Turn(format!(
            "the database in {to} was told to run and takes no writes: look at it there"
        )));
    }
    run.done("a write was seen to succeed", |_| ()).await.map(|_| ())
}

/// The region holds the cell again, and why it was closed goes: one transaction. Routers are awaited afterwards.
async fn open(run: &mut Run) -> Result<(), Halt> {
    if run.flow.stands("open") != Standing::Intended {
        let (old, seen) = run.placement().await?;
        let standby = standby(run, &old).await?;
        // It is out of service anyway: a wish for other witnesses is waited for.
        let named = renewal::named(run, &old, seen, true).await?;
        let availability_first = first(run, &old).await?;
        let new = Placement {
            holder: Some(run.to()),
            standby,
            phase: Phase::Serving,
            moving: None,
            availability_first,
            witnesses: named.witnesses,
            ..old.clone()
        };
        let gone = Op::Delete(Key::Closed(run.flow.cell.clone()));
        let edge = Edge::of("open", LogEvent::Intent, &named.note).right(Right { old, seen, new });
        run.edge(edge.silent(named.silence).with([gone]).with(named.also), |flow, placed| {
            flow.facts.serving_epoch = placed.map(|p| p.epoch);
        })
        .await?;
    }
    run.reach(Point::BeforeEffect).await;
    let (_, revision) = run.placement().await?;
    let behind = run.followed(revision, run.options().edges).await?;
    run.reach(Point::AfterEffect).await;
    let note = if behind.is_empty() { String::new() } else { format!("left behind: {}", behind.join(", ")) };
    run.edge(Edge::of("open", LogEvent::Done, &note).release(), |flow, _| {
        flow.facts.edges_left_behind = behind;
        flow.status = MoveStatus::Done;
    })
    .await
    .map(|_| ())
}

/// What comes first from now on: the owner's wish, unless those who served under the opposite may still do so. Where
/// availability came first, only the database's own word says that they have stopped.
async fn first(run: &Run, old: &Placement) -> Result<bool, Halt> {
    if old.availability_first && close::closed(run).await?.is_none_or(|c| c.stopped.is_none()) {
        return Ok(true);
    }
    Ok(run.cell.availability_first)
}

/// The standby goes on being one unless its database is seen to belong to another history than the one that opens.
async fn standby(run: &Run, old: &Placement) -> Result<Option<RegionId>, Halt> {
    let Some(region) = old.standby.clone().filter(|s| *s != run.flow.to) else { return Ok(None) };
    let stopped = close::closed(run).await?.and_then(|c| c.stopped);
    let (here, there) = (run.observe(&run.to()).await, run.observe(&region).await);
    let left = |seen: &Observation| {
        // The timeline that it had when it was closed, where that is known: a restore begins another one.
        let same = stopped.as_ref().is_none_or(|s| seen.timeline.is_none_or(|t| t == s.timeline));
        !same || differs(here.system_id.as_deref(), seen.system_id.as_deref())
    };
    Ok((!left(&here) && !left(&there)).then_some(region))
}

fn differs(a: Option<&str>, b: Option<&str>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}

/// What did not open stays closed: its database is stopped again where it answers. Where it does not, nothing opens it:
/// nobody holds the cell, so it has no proof to serve under.
pub(crate) async fn stop_again(run: &mut Run) -> Result<(), Halt> {
    let (to, within, stop) = (run.to(), run.options().step, run.options().clean_stop);
    let (placement, _) = run.placement().await?;
    let epoch = placement.epoch;
    let fenced = run
        .effect(
            "unfence",
            Way::Back,
            &to,
            within,
            |_, _| None,
            |hands, token| async move {
                hands.databases.fence(&hands.cell, &hands.to, &token, epoch, stop, true).await
            },
        )
        .await;
    let note = match fenced {
        Ok(_) => "stopped again",
        Err(Halt::Turn(_)) => "not heard of; without a proof it stays shut",
        Err(other) => return Err(other),
    };
    run.edge(Edge::of("unfence", LogEvent::Undone, note), |_, _| ()).await.map(|_| ())
}
