//! Planning and starting moves: checks, consent, and the one transaction that claims the cell.

use std::collections::BTreeMap;

use domicile_api::moves::{Approval, LogEvent, MoveFacts, MoveKind, MovePlan, MoveRequest, MoveStatus};
use domicile_model::{CellId, MoveClaim, MoveId, RegionId, World};
use domicile_store::{Commit, Key, Leadership, Op, Precondition, StoreError, Txn};
use jiff::Timestamp;

use crate::approval;
use crate::brakes;
use crate::definitions::{self, APPROVE};
use crate::engine::Engine;
use crate::error::MoveError;
use crate::plan::kind_of;
use crate::record::{LogRecord, Outputs, Workflow};
use crate::run::tell;
use crate::snapshot::Snapshot;

impl Engine {
    /// What a move would do. Changes nothing.
    ///
    /// # Errors
    /// When there is no such cell, or the registry does not answer.
    pub async fn plan(&self, request: &MoveRequest) -> Result<MovePlan, MoveError> {
        let snapshot = Snapshot::read(&*self.shared.store, &request.cell).await?;
        Ok(self.shared.plan(kind_of(request), request, &snapshot, None).await)
    }

    /// Checks again, then starts a move: its claim, its record and its first log entry stand together or not at all.
    ///
    /// # Errors
    /// When a check blocks, consent is missing, another move holds the cell, or this control plane does not lead.
    pub async fn request(
        &self,
        request: &MoveRequest,
        by: &str,
        leadership: &Leadership,
        world: &World,
    ) -> Result<MoveId, MoveError> {
        self.request_as(MoveId::new(), Vec::new(), request, by, leadership, world).await
    }

    /// The same under an id that the caller chose, so that a repeat can be told from a second move; and with writes
    /// that stand or fall with the start, such as its entry in the audit log.
    ///
    /// # Errors
    /// As [`Engine::request`]; [`MoveError::Busy`] also when there is a move of this id already.
    pub async fn request_as(
        &self,
        id: MoveId,
        also: Vec<Op>,
        request: &MoveRequest,
        by: &str,
        leadership: &Leadership,
        world: &World,
    ) -> Result<MoveId, MoveError> {
        let snapshot = Snapshot::read(&*self.shared.store, &request.cell).await?;
        let plan = self.shared.plan(kind_of(request), request, &snapshot, None).await;
        let blocking: Vec<_> = plan.checks.iter().filter(|c| c.verdict.blocks()).collect();
        if let [only] = blocking.as_slice()
            && only.name == "consent"
        {
            return Err(MoveError::Consent { why: only.why.clone(), plan: Box::new(plan) });
        }
        if !blocking.is_empty() {
            return Err(MoveError::Blocked(Box::new(plan)));
        }
        let Some(from) = plan.from.clone() else { return Err(MoveError::Busy(request.cell.clone())) };
        let facts = MoveFacts {
            accepted_loss: request.accept_loss,
            preview: plan.preview.clone(),
            fence_level: self.shared.sampler.fence_level(&request.cell, &from).map(|(level, _)| level),
            ..MoveFacts::default()
        };
        let approval = self.approval(id, by, request, &plan, &snapshot)?;
        let own = (id, also, approval);
        self.claim(own, plan.kind, request.clone(), from, by, facts, &snapshot, leadership, world).await
    }

    /// Starts building a standby for a cell that has lost its own; `also` are writes that stand or fall with the start.
    /// `by` stands in the log.
    ///
    /// # Errors
    /// When the cell is moved or has no database, or its other server takes writes.
    pub async fn reprotect(
        &self,
        cell: &CellId,
        also: Vec<Op>,
        by: &str,
        leadership: &Leadership,
        world: &World,
    ) -> Result<MoveId, MoveError> {
        let snapshot = Snapshot::read(&*self.shared.store, cell).await?;
        let Some((to, from)) = snapshot
            .placement
            .holder
            .clone()
            .filter(|_| snapshot.claimed.is_none() && snapshot.cell.database.is_some())
            .and_then(|holder| Some((holder.clone(), snapshot.cell.other(&holder)?.clone())))
        else {
            return Err(MoveError::Busy(cell.clone()));
        };
        if let Some(stop) = &snapshot.brakes.stop {
            return Err(MoveError::NotNow(brakes::stopped(stop)));
        }
        if self.shared.observe(&snapshot.cell, &from).await.writable == Some(true) {
            return Err(MoveError::NotNow(format!(
                "the database of {cell} in {from} takes writes: what it holds would be overwritten; look at it first"
            )));
        }
        let request = MoveRequest {
            cell: cell.clone(),
            to,
            force: false,
            accept_loss: None,
            accept_unknown: false,
            tenants: Vec::new(),
            reason: String::new(),
        };
        let own = (MoveId::new(), also, None);
        let facts = MoveFacts::default();
        self.claim(own, MoveKind::Reprotect, request, from, by, facts, &snapshot, leadership, world).await
    }

    /// What people are asked to approve; none where nobody is asked.
    pub(crate) fn approval(
        &self,
        id: MoveId,
        by: &str,
        request: &MoveRequest,
        plan: &MovePlan,
        snapshot: &Snapshot,
    ) -> Result<Option<Approval>, MoveError> {
        let Some(expires_ms) = plan.approval_expires_ms else { return Ok(None) };
        let saw = approval::saw(&plan.checks);
        let hash = approval::hash((id, by, plan.approval), request, plan, snapshot, &saw)?;
        let until = approval::until((self.shared.options.wall)(), expires_ms);
        Ok(Some(Approval { need: plan.approval, hash, saw, given: Vec::new(), until, expires_ms, voided: 0 }))
    }

    #[expect(clippy::too_many_arguments, reason = "what a record is made of; one private caller each")]
    pub(crate) async fn claim(
        &self,
        (id, also, approval): (MoveId, Vec<Op>, Option<Approval>),
        kind: MoveKind,
        request: MoveRequest,
        from: RegionId,
        by: &str,
        facts: MoveFacts,
        snapshot: &Snapshot,
        leadership: &Leadership,
        world: &World,
    ) -> Result<MoveId, MoveError> {
        let now = Timestamp::now();
        let outputs = Outputs {
            standby: snapshot.placement.standby.clone(),
            gates: definitions::gates(snapshot, &from),
            ..Outputs::default()
        };
        let cell = request.cell.clone();
        let mut flow = Workflow {
            id,
            definition: kind,
            version: definitions::VERSION,
            cell: cell.clone(),
            from,
            to: request.to.clone(),
            request,
            by: by.chars().take(200).collect(),
            created: now,
            updated: now,
            status: MoveStatus::Running,
            paused: None,
            approval,
            back: false,
            back_because: String::new(),
            step: "claim".to_owned(),
            attempt: u64::try_from(snapshot.revision.0).unwrap_or(0),
            log: 0,
            steps: BTreeMap::new(),
            outputs,
            facts,
        };
        let note = format!("asked for by {}", flow.by);
        let entry = flow
            .take("claim", LogEvent::Done, &note, &self.shared.options.name, now)
            .map_err(|e| MoveError::NotNow(e.to_string()))?;
        let mut entries = vec![entry];
        flow.advance();
        if let Some(asked) = &flow.approval {
            let note = approval::asks(asked, &flow.by);
            let entry = flow.take(APPROVE, LogEvent::Asked, &note, &self.shared.options.name, now);
            entries.push(entry.map_err(|e| MoveError::NotNow(e.to_string()))?);
        }
        // The policy too: one that was tightened meanwhile counts.
        let policy = match &snapshot.approvals {
            Some((_, at)) => Precondition::ModifiedAt(Key::Approvals, *at),
            None => Precondition::Absent(Key::Approvals),
        };
        let mut txn = Txn::fenced(world, leadership)
            .when(Precondition::Absent(Key::Move(cell.clone())))
            .when(Precondition::Absent(Key::Workflow(id)))
            .when(Precondition::ModifiedAt(Key::Placement(cell.clone()), snapshot.placed_at))
            .when(Precondition::ModifiedAt(Key::Cell(cell.clone()), snapshot.cell_at))
            .when(policy)
            .put(Key::Move(cell.clone()), &MoveClaim { moving: id })
            .put(Key::Workflow(id), &flow);
        // Nothing holds up taking a cell out of service.
        if kind != MoveKind::Close {
            txn = txn.when(Precondition::Absent(Key::Stop));
        }
        for entry in &entries {
            txn = txn.put(Key::WorkflowLog(id, entry.0.n), entry);
        }
        txn.then.extend(also);
        match self.shared.store.commit(txn).await {
            Ok(Commit::Done(_)) => {}
            Ok(Commit::Refused { current, .. }) => {
                let led =
                    current.get(1).and_then(Option::as_ref).is_some_and(|e| e.value == leadership.value);
                return Err(if led { MoveError::Busy(cell) } else { MoveError::Deposed });
            }
            Err(StoreError::UnknownOutcome { .. }) => {
                let (_, found) = self
                    .shared
                    .store
                    .read(&[Key::Workflow(id)])
                    .await
                    .map_err(|_| MoveError::Unconfirmed(id))?;
                if found.first().is_none_or(Option::is_none) {
                    return Err(MoveError::Unconfirmed(id));
                }
            }
            Err(error) => return Err(error.into()),
        }
        for LogRecord(entry) in &entries {
            tell(&flow, &entry.step, entry.event, &entry.note);
        }
        self.wake.notify_one();
        Ok(id)
    }
}

/// Whether every check of a plan lets a move start.
#[must_use]
pub fn may_start(plan: &MovePlan) -> bool {
    !plan.checks.iter().any(|c| c.verdict.blocks())
}
