//! Waiting for people, right after the claim: nothing is held, stopped or closed meanwhile, so nobody's requests wait
//! with it. What was approved is looked at again before the move goes on.

use std::collections::BTreeSet;

use domicile_api::moves::{Approval, LogEvent, MovePlan};
use domicile_model::clock::pause;
use domicile_model::{EmergencyStop, RegionId, Role, RouterId};
use domicile_store::Key;
use domicile_store::codec::decode;

use crate::approval::{self, differs, until};
use crate::definitions::APPROVE;
use crate::drive::turn_back;
use crate::error::{Halt, MoveError};
use crate::failpoint::Point;
use crate::run::{Edge, Run};
use crate::snapshot::Snapshot;
use crate::start::may_start;

/// How often it is looked before approvals are void: a single sample that failed is no other situation, nor is a leader
/// that has only begun to sample.
const LOOKS: u32 = 10;

/// What another look saw.
struct Look {
    plan: MovePlan,
    snapshot: Snapshot,
    saw: Vec<domicile_api::moves::Seen>,
    hash: String,
}

/// Goes on once enough people have approved, and what they approved still holds.
pub(crate) async fn approve(run: &mut Run) -> Result<(), Halt> {
    let Some(approval) = run.flow.approval.clone() else {
        return run.done("nobody's approval is asked for", |_| ()).await.map(|_| ());
    };
    let now = (run.options().wall)();
    if now >= approval.until {
        let why = format!(
            "not approved in time: {} of {} people had approved by {:.0}",
            approval.given.len(),
            approval.need.people(),
            approval.until
        );
        return turn_back(run, &why).await;
    }
    if approval.given.len() < approval.need.people() || held_up(run).await? {
        return Err(Halt::Waits);
    }
    run.reach(Point::BeforeEffect).await;
    let looked = look_again(run, &approval).await?;
    run.reach(Point::AfterEffect).await;
    match looked {
        Ok(look) => go_on(run, look).await,
        Err(look) => ask_again(run, &approval, look).await,
    }
}

/// By a pause or the emergency stop. The approvals stand meanwhile, until their time is up.
async fn held_up(run: &Run) -> Result<bool, Halt> {
    if run.flow.paused.is_some() {
        return Ok(true);
    }
    let stop = run.read_one(Key::Stop).await?;
    let stop = stop.map(|e| decode::<EmergencyStop>(&e.value)).transpose();
    Ok(stop.map_err(|e| Halt::Stuck(e.to_string()))?.is_some())
}

/// What was approved, if it still holds; else what is there now.
async fn look_again(run: &Run, approval: &Approval) -> Result<Result<Look, Look>, Halt> {
    let mut tries = 0;
    loop {
        tries += 1;
        let look = look(run, approval).await?;
        let holds = look.hash == approval.hash && may_start(&look.plan);
        if holds || run.options().sabotage.trust_approvals {
            return Ok(Ok(look));
        }
        if tries >= LOOKS {
            return Ok(Err(look));
        }
        pause(run.options().slow_poll).await;
    }
}

async fn look(run: &Run, approval: &Approval) -> Result<Look, Halt> {
    let flow = &run.flow;
    let seen = async {
        let snapshot = Snapshot::read(&*run.shared.store, &flow.cell).await?;
        let plan = run.shared.plan(flow.definition, &flow.request, &snapshot, Some(flow.id)).await;
        let saw = approval::saw(&plan.checks);
        let who = (flow.id, flow.by.as_str(), approval.need);
        let hash = approval::hash(who, &flow.request, &plan, &snapshot, &saw)?;
        Ok::<_, MoveError>(Look { plan, snapshot, saw, hash })
    };
    seen.await.map_err(|error| match error {
        // Whoever looks for unfinished moves takes it up again.
        MoveError::Store(error) => {
            tracing::warn!(%error, id = %flow.id, "an approved move can't be looked at again yet");
            Halt::Waits
        }
        other => Halt::Stuck(other.to_string()),
    })
}

/// The move begins as if it had been asked for now.
async fn go_on(run: &mut Run, look: Look) -> Result<(), Halt> {
    let gates = gates(&look.snapshot, &run.flow.from);
    run.done("approved, and what was approved still holds", |flow| {
        flow.facts.approval_ms = super::stop::since(Some(flow.created));
        flow.facts.preview = look.plan.preview;
        flow.outputs.standby = look.snapshot.placement.standby;
        flow.outputs.gates = gates;
    })
    .await
    .map(|_| ())
}

/// Gates of the region that will lose the cell.
pub(crate) fn gates(snapshot: &Snapshot, from: &RegionId) -> BTreeSet<RouterId> {
    let there = snapshot.routers.iter().filter(|r| r.role == Role::Gate && r.region == *from);
    there.map(|r| r.id.clone()).collect()
}

/// The approvals were of something else: they count no more, and everybody is asked again.
async fn ask_again(run: &mut Run, before: &Approval, look: Look) -> Result<(), Halt> {
    let now = (run.options().wall)();
    let what = if look.hash == before.hash {
        let blocking = look.plan.checks.iter().filter(|c| c.verdict.blocks());
        blocking.map(|c| format!("{}: {}", c.name, c.why)).collect::<Vec<_>>().join("; ")
    } else {
        differs(&before.saw, &look.saw)
    };
    let who: Vec<&str> = before.given.iter().map(|g| g.by.as_str()).collect();
    let asked = Approval {
        hash: look.hash,
        saw: look.saw,
        given: Vec::new(),
        until: until(now, before.expires_ms),
        voided: before.voided.saturating_add(1),
        ..before.clone()
    };
    let note = format!(
        "the approval of {} is void, because something else would be done now: {what}. It {}",
        who.join(" and "),
        approval::asks(&asked, &run.flow.by)
    );
    run.edge(Edge::of(APPROVE, LogEvent::Asked, &note), |flow, _| flow.approval = Some(asked)).await?;
    Err(Halt::Waits)
}
