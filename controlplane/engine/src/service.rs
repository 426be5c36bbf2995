//! Taking a cell out of service and putting it back, by a person's will: the checks, and how such a workflow starts.

use domicile_api::moves::{Check, MoveFacts, MoveKind, MovePlan, MoveRequest, Verdict};
use domicile_model::{CellId, ClosedReason, MoveId, Phase, RegionId, World};
use domicile_store::{Leadership, Op};

use crate::brakes;
use crate::engine::Engine;
use crate::error::MoveError;
use crate::prechecks::{Looked, check, registry, residency, target_gates};
use crate::provider::Observation;
use crate::room::registry_room;
use crate::snapshot::Snapshot;

/// The check that keeps a cell from opening with old data.
pub(crate) const NEWEST: &str = "newest-data";

/// What a person wants of a cell's service.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// [`MoveKind::Close`] or [`MoveKind::Open`].
    pub kind: MoveKind,
    /// Which cell.
    pub cell: &'a CellId,
    /// Where it opens; none: where it was closed.
    pub region: Option<&'a RegionId>,
    /// Why.
    pub reason: &'a str,
}

/// What is looked at before a cell is opened.
pub(crate) struct Opening<'a> {
    pub(crate) region: &'a RegionId,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) here: &'a Observation,
    pub(crate) other: Option<&'a Observation>,
    pub(crate) own: Option<MoveId>,
    pub(crate) looked: &'a Looked<'a>,
}

/// Nothing about databases, freezes or the emergency stop: closing must always be possible.
pub(crate) fn close_checks(snapshot: &Snapshot, own: Option<MoveId>) -> Vec<Check> {
    let cell = &snapshot.cell.id;
    let world = match &snapshot.world {
        Some(_) => check("registry", Verdict::Passed, "the registry answers with quorum"),
        None => check("registry", Verdict::Failed, "the registry has no world record: apply a fleet first"),
    };
    let held = match &snapshot.placement.holder {
        Some(_) => check("held", Verdict::Passed, format!("cell {cell} is held, and can be closed")),
        None => check("held", Verdict::Failed, format!("nobody holds cell {cell}: it is closed already")),
    };
    vec![world, unclaimed(snapshot, own), held]
}

fn unclaimed(snapshot: &Snapshot, own: Option<MoveId>) -> Check {
    let cell = &snapshot.cell.id;
    match snapshot.claimed {
        Some(moving) if Some(moving) != own => check(
            "no-other-move",
            Verdict::Failed,
            format!(
                "move {moving} of cell {cell} is under way: roll it back (`domicile failover rollback {moving}`), or end it where its new region serves already (`domicile failover skip {moving}`)"
            ),
        ),
        _ => check("no-other-move", Verdict::Passed, "no move of the cell is under way"),
    }
}

/// All checks before a cell opens. Unknown blocks as failed does.
pub(crate) fn open_checks(on: &Opening<'_>) -> Vec<Check> {
    vec![
        registry(on.looked),
        // As a forced move may: what opens brings service back.
        registry_room(on.looked.room, true),
        brakes::emergency_stop(on.looked),
        unclaimed(on.snapshot, on.own),
        closed(on),
        residency(on.looked),
        target_gates(on.looked),
        newest(on),
    ]
}

fn closed(on: &Opening<'_>) -> Check {
    let (cell, placement) = (&on.snapshot.cell.id, &on.snapshot.placement);
    match (&placement.holder, placement.phase) {
        (None, Phase::Closed { reason: ClosedReason::Operator, .. }) => {
            check("closed", Verdict::Passed, format!("a person has closed cell {cell}"))
        }
        (None, Phase::Closed { reason: ClosedReason::Conflict, .. }) => {
            check("closed", Verdict::Passed, format!("cell {cell} waits for a person to say who holds it"))
        }
        (Some(holder), _) => {
            check("closed", Verdict::Failed, format!("cell {cell} is not closed: {holder} holds it"))
        }
        (None, _) => check("closed", Verdict::Failed, format!("a move has closed cell {cell}, no person")),
    }
}

/// The region's database holds the newest data: it held the cell last and is what it was then, or, where the registry
/// does not know who did, both sides were seen.
fn newest(on: &Opening<'_>) -> Check {
    let (cell, region) = (&on.snapshot.cell, on.region);
    let verdict = |verdict, why: String| check(NEWEST, verdict, why);
    if cell.database.is_none() {
        return verdict(Verdict::NotApplicable, format!("cell {} has no database", cell.id));
    }
    let record = on.snapshot.closed.as_ref();
    if !on.here.reachable {
        return verdict(
            Verdict::Unknown,
            format!("the database in {region} can't be seen: start its agent, or mend the way to it"),
        );
    }
    if on.here.standby == Some(true) {
        return verdict(
            Verdict::Failed,
            format!("the database in {region} is a standby: only a failover makes it a primary"),
        );
    }
    if on.other.is_some_and(|other| other.writable == Some(true)) {
        return verdict(
            Verdict::Failed,
            format!("the other region's database takes writes, so the one in {region} may not"),
        );
    }
    let newer = |other: &&Observation| other.timeline.zip(on.here.timeline).is_some_and(|(o, h)| o > h);
    if let Some(other) = on.other.filter(newer) {
        return verdict(
            Verdict::Failed,
            format!(
                "the other region's database is on timeline {}, the one in {region} on {}: it is older",
                other.timeline.unwrap_or_default(),
                on.here.timeline.unwrap_or_default()
            ),
        );
    }
    match record {
        Some(record) if record.region == *region => match older_than_closed(on, record) {
            Some(why) => verdict(Verdict::Failed, why),
            None => verdict(Verdict::Passed, format!("{region} held the cell when it was closed")),
        },
        Some(record) => verdict(
            Verdict::Failed,
            format!(
                "the cell was closed in {}, whose database has the newest data: open it there, or fail over once it is open",
                record.region
            ),
        ),
        None => both_seen(on),
    }
}

/// Why the database is not what it was when the cell was closed.
fn older_than_closed(on: &Opening<'_>, record: &domicile_model::ClosedCell) -> Option<String> {
    let (stopped, here, region) = (record.stopped.as_ref()?, on.here, on.region);
    let (timeline, checkpoint) = (here.timeline?, here.checkpoint?);
    if here.system_id.as_ref().is_some_and(|id| *id != stopped.system_id) {
        return Some(format!(
            "the database in {region} is another one than was closed: its system identifier is not {}",
            stopped.system_id
        ));
    }
    let older = (timeline, checkpoint.0) < (stopped.timeline, stopped.checkpoint.0);
    older.then(|| {
        format!(
            "the database in {region} is older than when it was closed: at {checkpoint} on timeline {timeline}, it stopped at {} on timeline {}",
            stopped.checkpoint, stopped.timeline
        )
    })
}

/// Without the registry's word on who held it last, both databases must say which one is ahead.
fn both_seen(on: &Opening<'_>) -> Check {
    let region = on.region;
    let seen = on.other.filter(|other| other.reachable);
    let Some((other, (theirs, ours))) = seen.and_then(|o| Some((o, o.timeline.zip(on.here.timeline)?)))
    else {
        return check(
            NEWEST,
            Verdict::Unknown,
            "the registry does not know who held the cell last, so both databases must be seen: start both agents",
        );
    };
    if ours > theirs || other.standby == Some(true) {
        check(NEWEST, Verdict::Passed, format!("the database in {region} is ahead of the other one"))
    } else {
        check(
            NEWEST,
            Verdict::Unknown,
            format!(
                "neither database follows the other, so which one is newer can't be told: look at both; {region} is on the same timeline"
            ),
        )
    }
}

impl Engine {
    /// What closing or opening a cell would do. Changes nothing.
    ///
    /// # Errors
    /// When there is no such cell, nothing says where it should open, or the registry does not answer.
    pub async fn plan_service(&self, wanted: &Service<'_>) -> Result<MovePlan, MoveError> {
        let snapshot = Snapshot::read(&*self.shared.store, wanted.cell).await?;
        let request = request(wanted, &snapshot)?;
        Ok(self.shared.plan(wanted.kind, &request, &snapshot, None).await)
    }

    /// Starts closing or opening a cell under this id; `also` are writes that stand or fall with the start.
    ///
    /// # Errors
    /// When a check blocks, a move holds the cell, or this control plane does not lead.
    pub async fn serve(
        &self,
        (id, also): (MoveId, Vec<Op>),
        wanted: &Service<'_>,
        by: &str,
        leadership: &Leadership,
        world: &World,
    ) -> Result<MoveId, MoveError> {
        let snapshot = Snapshot::read(&*self.shared.store, wanted.cell).await?;
        let request = request(wanted, &snapshot)?;
        let plan = self.shared.plan(wanted.kind, &request, &snapshot, None).await;
        if !crate::may_start(&plan) {
            return Err(MoveError::Blocked(Box::new(plan)));
        }
        let approval = self.approval(id, by, &request, &plan, &snapshot)?;
        let (own, from) = ((id, also, approval), request.to.clone());
        let facts = MoveFacts::default();
        self.claim(own, wanted.kind, request, from, by, facts, &snapshot, leadership, world).await
    }
}

/// Where it happens: a close where the cell is held, an opening where it was closed unless somebody says otherwise.
fn request(wanted: &Service<'_>, snapshot: &Snapshot) -> Result<MoveRequest, MoveError> {
    let (cell, record) = (&snapshot.cell, snapshot.closed.as_ref());
    let was = || record.map(|closed| closed.region.clone());
    let to = match wanted.kind {
        MoveKind::Close => snapshot.placement.holder.clone().or_else(was).unwrap_or_else(|| cell.primary.clone()),
        _ => wanted.region.cloned().or_else(was).or_else(|| snapshot.placement.holder.clone()).ok_or_else(|| {
            MoveError::NotNow(format!(
                "the registry does not know where cell {} was served from last: say where it shall open (--region {} or {})",
                cell.id, cell.primary, cell.dr
            ))
        })?,
    };
    if cell.other(&to).is_none() {
        return Err(MoveError::NotNow(format!(
            "cell {} is only in {} and {}, not in {to}",
            cell.id, cell.primary, cell.dr
        )));
    }
    Ok(MoveRequest {
        cell: cell.id.clone(),
        to,
        force: false,
        accept_loss: None,
        accept_unknown: false,
        tenants: Vec::new(),
        reason: wanted.reason.to_owned(),
    })
}
