//! What a person may say to a move that has begun: retry, skip and roll back, pause and resume. Each is one fenced
//! transaction that also holds its entry in the audit log.

use domicile_api::moves::{LogEvent, MoveKind, MoveStatus};
use domicile_model::{Approvals, MoveId, Need, Phase, Placement, World};
use domicile_store::codec::decode;
use domicile_store::{Key, Leadership, Op};

use crate::approval;
use crate::brakes;
use crate::definitions::SKIPPABLE;
use crate::engine::{Engine, no_such_move, not_now};
use crate::error::MoveError;
use crate::record::{Standing, Workflow};
use crate::run::{Edge, Right, Run};

/// Consent that is given to a move which has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Consent {
    /// The most transactions that may be lost.
    pub accept_loss: Option<u64>,
    /// An unknown number may be.
    pub accept_unknown: bool,
}

/// Who speaks, as what leader this control plane passes it on, and what else is written with it.
#[derive(Debug)]
pub struct Said<'a> {
    /// The person.
    pub by: &'a str,
    /// The leader.
    pub leadership: &'a Leadership,
    /// The world that it leads.
    pub world: &'a World,
    /// Its entry in the audit log.
    pub also: Vec<Op>,
}

impl Engine {
    /// A stuck move tries its step again, forward or back as it was going. A forced move that asked for more consent
    /// gets it here.
    ///
    /// # Errors
    /// When the move is not stuck, or this control plane does not lead.
    pub async fn retry(&self, id: MoveId, consent: Consent, said: Said<'_>) -> Result<(), MoveError> {
        let mut run = self.spoken_to(id, &said).await?;
        let step = stuck_at(&run.flow)?.to_owned();
        let note = format!("retry, by {}", said.by);
        let edge = Edge::of(&step, LogEvent::Verb, &note).with(said.also);
        self.write(&mut run, edge, |flow| {
            flow.outputs.consented = consent.accept_loss.or(flow.outputs.consented);
            flow.request.accept_unknown |= consent.accept_unknown;
            flow.status = if flow.back { MoveStatus::RollingBack } else { MoveStatus::Running };
        })
        .await
    }

    /// A move that is stuck or under way turns back. Only before the intent to promote.
    ///
    /// # Errors
    /// When the move is over or can't turn back any more, or this control plane does not lead.
    pub async fn rollback(&self, id: MoveId, said: Said<'_>) -> Result<(), MoveError> {
        let mut run = self.spoken_to(id, &said).await?;
        if run.flow.past_return() {
            return Err(MoveError::NotNow(format!(
                "move {id} can't turn back: its promotion was intended; if it is stuck, retry it"
            )));
        }
        if run.flow.back && !matches!(run.flow.status, MoveStatus::Stuck { .. }) {
            return Err(MoveError::NotNow(format!("move {id} is turning back already")));
        }
        if run.flow.definition == MoveKind::Close && run.flow.stands("close") != Standing::Untouched {
            self.may_reopen(&run).await?;
        }
        let step = run.flow.step.clone();
        let note = format!("roll back, by {}", said.by);
        let because = format!("asked for by {}", said.by);
        let edge = Edge::of(&step, LogEvent::Verb, &note).with(said.also);
        self.write(&mut run, edge, |flow| {
            flow.back = true;
            flow.back_because = because;
            flow.paused = None;
            flow.status = MoveStatus::RollingBack;
        })
        .await
    }

    /// A move ends without the rest of its steps, which a person has decided to do without. Only after the new region
    /// serves: the cell stays unprotected, and what is lost with the old primary stays unlisted.
    ///
    /// # Errors
    /// When the step is none of [`SKIPPABLE`], or is under way and takes no days; or this control plane does not lead.
    pub async fn skip(&self, id: MoveId, reason: &str, said: Said<'_>) -> Result<(), MoveError> {
        let mut run = self.spoken_to(id, &said).await?;
        let step = run.flow.step.clone();
        // Both may take days, and whoever must close the cell meanwhile can't wait for them.
        let waits =
            matches!(run.flow.status, MoveStatus::Running) && matches!(&*step, "return" | "re-protect");
        if !waits {
            stuck_at(&run.flow)?;
        }
        if run.flow.back || !SKIPPABLE.contains(&step.as_str()) {
            return Err(MoveError::NotNow(format!(
                "step {step} of move {id} can't be skipped, only {} can: retry it, or roll the move back",
                SKIPPABLE.join(", ")
            )));
        }
        if run.flow.definition == MoveKind::Reprotect {
            return Err(MoveError::NotNow(format!(
                "nothing would be left of move {id}: roll it back instead"
            )));
        }
        let note = format!("skip, by {}: {reason}", said.by);
        let rest: Vec<&str> = run.flow.steps().skip_while(|s| *s != step).collect();
        let mut edge = Edge::of(&step, LogEvent::Verb, &note).with(said.also);
        for skipped in &rest {
            edge = edge.and(skipped, LogEvent::Skipped, "");
        }
        let (old, seen) = run.placement().await.map_err(not_now)?;
        let new = Placement { phase: Phase::Serving, moving: None, ..old.clone() };
        let edge = edge.right(Right { old, seen, new }).release();
        self.write(&mut run, edge, |flow| {
            flow.facts.skipped = rest.iter().map(|s| (*s).to_owned()).collect();
            flow.status = MoveStatus::Done;
        })
        .await
    }

    /// A move stops before its next step at which nobody waits.
    ///
    /// # Errors
    /// When the move is over, turns back, is paused already, or this control plane does not lead.
    pub async fn pause(&self, id: MoveId, reason: &str, said: Said<'_>) -> Result<(), MoveError> {
        let mut run = self.spoken_to(id, &said).await?;
        if run.flow.paused.is_some() || run.flow.status != MoveStatus::Running {
            return Err(MoveError::NotNow(format!(
                "move {id} is paused already, stuck or turning back: look at it with `domicile failover show {id}`"
            )));
        }
        let step = run.flow.step.clone();
        let note = format!("pause, by {}: {reason}", said.by);
        let paused = brakes::pause_by(said.by, reason);
        let edge = Edge::of(&step, LogEvent::Verb, &note).with(said.also);
        self.write(&mut run, edge, |flow| flow.paused = Some(paused)).await
    }

    /// A paused move goes on.
    ///
    /// # Errors
    /// When the move is not paused, or this control plane does not lead.
    pub async fn resume(&self, id: MoveId, said: Said<'_>) -> Result<(), MoveError> {
        let mut run = self.spoken_to(id, &said).await?;
        if run.flow.paused.is_none() {
            return Err(MoveError::NotNow(format!("move {id} is not paused")));
        }
        let step = run.flow.step.clone();
        let note = format!("resume, by {}", said.by);
        let edge = Edge::of(&step, LogEvent::Verb, &note).with(said.also);
        self.write(&mut run, edge, |flow| flow.paused = None).await
    }

    /// Turning back a close that was made opens the cell: not past those whose approval that takes.
    async fn may_reopen(&self, run: &Run) -> Result<(), MoveError> {
        let entry = run.read_one(Key::Approvals).await.map_err(not_now)?;
        let policy = entry.map(|e| decode::<Approvals>(&e.value)).transpose()?;
        let (need, _) = approval::needed(policy.as_ref(), &run.flow.cell, MoveKind::Open);
        if need == Need::None {
            return Ok(());
        }
        Err(MoveError::NotNow(format!(
            "cell {} is closed, and opening it takes approval: let the close end (retry it if it is stuck), then `domicile cell open {}`",
            run.flow.cell, run.flow.cell
        )))
    }

    pub(crate) async fn spoken_to(&self, id: MoveId, said: &Said<'_>) -> Result<Run, MoveError> {
        let run = Run::load(self.shared.clone(), said.leadership.clone(), said.world.clone(), id).await;
        let run = run.map_err(not_now)?.ok_or_else(|| no_such_move(id))?;
        if run.flow.status.is_final() {
            return Err(MoveError::NotNow(format!("move {id} is over")));
        }
        Ok(run)
    }

    pub(crate) async fn write(
        &self,
        run: &mut Run,
        edge: Edge<'_>,
        change: impl FnOnce(&mut Workflow),
    ) -> Result<(), MoveError> {
        run.edge(edge, |flow, _| change(flow)).await.map_err(not_now)?;
        self.wake.notify_one();
        Ok(())
    }
}

pub(crate) fn stuck_at(flow: &Workflow) -> Result<&str, MoveError> {
    match &flow.status {
        MoveStatus::Stuck { step, .. } => Ok(step),
        _ => Err(MoveError::NotNow(format!("move {} is not stuck: nobody needs to answer", flow.id))),
    }
}
