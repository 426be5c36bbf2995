//! Planning and starting moves: checks, consent, and the one transaction that claims the cell.

use std::collections::BTreeMap;

use domicile_api::moves::{LogEvent, MoveFacts, MoveKind, MovePlan, MoveRequest, MoveStatus};
use domicile_model::{Cell, CellId, MoveClaim, MoveId, RegionId, Role, World};
use domicile_store::{Commit, Key, Leadership, Op, Precondition, StoreError, Txn};
use jiff::Timestamp;

use crate::brakes;
use crate::definitions;
use crate::engine::Engine;
use crate::error::MoveError;
use crate::prechecks::{Looked, checks};
use crate::provider::Observation;
use crate::record::{Outputs, Workflow};
use crate::run::tell;
use crate::snapshot::Snapshot;

impl Engine {
    /// What a move would do. Changes nothing.
    ///
    /// # Errors
    /// When there is no such cell, or the registry does not answer.
    pub async fn plan(&self, request: &MoveRequest) -> Result<MovePlan, MoveError> {
        let snapshot = Snapshot::read(&*self.shared.store, &request.cell).await?;
        Ok(self.plan_on(request, &snapshot).await)
    }

    async fn observe(&self, cell: &Cell, region: &RegionId) -> Observation {
        let look = self.shared.databases.observe(cell, region);
        tokio::time::timeout(self.shared.options.call, look).await.unwrap_or_else(|_| Observation {
            problems: vec![format!("the database of {} in {region} did not answer in time", cell.id)],
            ..Observation::default()
        })
    }

    async fn plan_on(&self, request: &MoveRequest, snapshot: &Snapshot) -> MovePlan {
        let cell = &snapshot.cell;
        let holder = snapshot.placement.holder.clone();
        let look_at_holder = async {
            match &holder {
                Some(region) => Some(self.observe(cell, region).await),
                None => None,
            }
        };
        let (primary, standby) = futures::join!(look_at_holder, self.observe(cell, &request.to));
        let constants = snapshot.world.as_ref().map(|w| w.constants);
        let preview = constants
            .filter(|_| request.force)
            .map(|constants| self.shared.sampler.preview(&cell.id, &constants));
        let kind = if request.force { MoveKind::Failover } else { MoveKind::Switchover };
        let looked = Looked {
            request,
            snapshot,
            primary: primary.as_ref(),
            standby: &standby,
            lag: self.shared.sampler.lag(&cell.id),
            preview: preview.as_ref(),
            options: &self.shared.options,
            now: Timestamp::now(),
        };
        MovePlan {
            kind,
            cell: cell.id.clone(),
            from: holder.clone(),
            to: request.to.clone(),
            tenants: snapshot.fleet.tenants.keys().cloned().collect(),
            checks: checks(&looked),
            preview,
            steps: definitions::steps(kind).iter().map(|s| (*s).to_owned()).collect(),
        }
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
        let plan = self.plan_on(request, &snapshot).await;
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
            ..MoveFacts::default()
        };
        self.claim((id, also), plan.kind, request.clone(), from, by, facts, &snapshot, leadership, world)
            .await
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
            .filter(|_| !snapshot.claimed && snapshot.cell.database.is_some())
            .and_then(|holder| Some((holder.clone(), snapshot.cell.other(&holder)?.clone())))
        else {
            return Err(MoveError::Busy(cell.clone()));
        };
        if let Some(stop) = &snapshot.brakes.stop {
            return Err(MoveError::NotNow(brakes::stopped(stop)));
        }
        if self.observe(&snapshot.cell, &from).await.writable == Some(true) {
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
        let own = (MoveId::new(), also);
        let facts = MoveFacts::default();
        self.claim(own, MoveKind::Reprotect, request, from, by, facts, &snapshot, leadership, world).await
    }

    #[expect(clippy::too_many_arguments, reason = "what a record is made of; one private caller each")]
    async fn claim(
        &self,
        (id, also): (MoveId, Vec<Op>),
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
        let gates = snapshot.routers.iter().filter(|r| r.role == Role::Gate && r.region == from);
        let outputs = Outputs {
            standby: snapshot.placement.standby.clone(),
            gates: gates.map(|r| r.id.clone()).collect(),
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
        flow.advance();
        let mut txn = Txn::fenced(world, leadership)
            .when(Precondition::Absent(Key::Move(cell.clone())))
            .when(Precondition::Absent(Key::Workflow(id)))
            .when(Precondition::ModifiedAt(Key::Placement(cell.clone()), snapshot.placed_at))
            .when(Precondition::ModifiedAt(Key::Cell(cell.clone()), snapshot.cell_at))
            .when(Precondition::Absent(Key::Stop))
            .put(Key::Move(cell.clone()), &MoveClaim { moving: id })
            .put(Key::Workflow(id), &flow)
            .put(Key::WorkflowLog(id, entry.0.n), &entry);
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
        tell(&flow, "claim", LogEvent::Done, &note);
        self.wake.notify_one();
        Ok(id)
    }
}

/// Whether every check of a plan lets a move start.
#[must_use]
pub fn may_start(plan: &MovePlan) -> bool {
    !plan.checks.iter().any(|c| c.verdict.blocks())
}
