//! What a workflow would do: the looks at both databases, and the checks on them. Changes nothing.

use domicile_api::moves::{Check, LossPreview, MoveKind, MovePlan, MoveRequest};
use domicile_model::{Cell, MoveId, Need, RegionId};

use crate::approval;
use crate::definitions;
use crate::fence_level;
use crate::prechecks::{Looked, checks};
use crate::provider::Observation;
use crate::room;
use crate::run::Shared;
use crate::service;
use crate::snapshot::Snapshot;

impl Shared {
    /// Looks at one of the cell's servers; not having been able to look is an empty observation.
    pub(crate) async fn observe(&self, cell: &Cell, region: &RegionId) -> Observation {
        let look = self.databases.observe(cell, region);
        let seen = tokio::time::timeout(self.options.call, look).await.unwrap_or_else(|_| Observation {
            problems: vec![format!("the database of {} in {region} did not answer in time", cell.id)],
            ..Observation::default()
        });
        self.sampler.note(cell, region, &seen);
        seen
    }

    /// The plan of such a workflow on what the registry holds. `own`: the workflow that is looked at again.
    pub(crate) async fn plan(
        &self,
        kind: MoveKind,
        request: &MoveRequest,
        snapshot: &Snapshot,
        own: Option<MoveId>,
    ) -> MovePlan {
        let cell = &snapshot.cell;
        let (checks, preview) = match kind {
            MoveKind::Close => (service::close_checks(snapshot, own), None),
            MoveKind::Open => (self.open_checks(request, snapshot, own).await, None),
            MoveKind::Switchover | MoveKind::Failover | MoveKind::Reprotect => {
                self.move_checks(request, snapshot, own).await
            }
        };
        let policy = snapshot.approvals.as_ref().map(|(approvals, _)| approvals);
        let (approval, expires_ms) = approval::needed(policy, &cell.id, kind);
        let asked = approval != Need::None;
        MovePlan {
            kind,
            cell: cell.id.clone(),
            from: snapshot.placement.holder.clone(),
            to: request.to.clone(),
            tenants: snapshot.fleet.tenants.keys().cloned().collect(),
            checks,
            preview,
            steps: definitions::steps_for(kind, asked).map(str::to_owned).collect(),
            approval,
            approval_expires_ms: asked.then_some(expires_ms),
        }
    }

    async fn move_checks(
        &self,
        request: &MoveRequest,
        snapshot: &Snapshot,
        own: Option<MoveId>,
    ) -> (Vec<Check>, Option<LossPreview>) {
        let cell = &snapshot.cell;
        let holder = snapshot.placement.holder.as_ref();
        let look_at_holder = async {
            match holder {
                Some(region) => Some(self.observe(cell, region).await),
                None => None,
            }
        };
        let (primary, standby, room) = futures::join!(
            look_at_holder,
            self.observe(cell, &request.to),
            room::look(&*self.store, self.options.reserve, snapshot.routers.len()),
        );
        let constants = snapshot.world.as_ref().map(|w| w.constants);
        let fence_level = holder.and_then(|holder| self.sampler.fence_level(&cell.id, holder));
        let mut preview =
            constants.filter(|_| request.force).map(|constants| self.sampler.preview(&cell.id, &constants));
        if let Some(preview) = &mut preview {
            fence_level::bound(preview, fence_level.map(|(level, _)| level), self.options.sabotage);
        }
        let looked = Looked {
            request,
            snapshot,
            primary: primary.as_ref(),
            standby: &standby,
            room: &room,
            lag: self.sampler.lag(&cell.id),
            fence_level,
            preview: preview.as_ref(),
            options: &self.options,
            own,
            now: (self.options.wall)(),
        };
        (checks(&looked), preview)
    }

    async fn open_checks(
        &self,
        request: &MoveRequest,
        snapshot: &Snapshot,
        own: Option<MoveId>,
    ) -> Vec<Check> {
        let cell = &snapshot.cell;
        let other = async {
            match cell.other(&request.to) {
                Some(region) => Some(self.observe(cell, region).await),
                None => None,
            }
        };
        let room = room::look(&*self.store, self.options.reserve, snapshot.routers.len());
        let (here, other, room) = futures::join!(self.observe(cell, &request.to), other, room);
        let mut checks = service::open_checks(&service::Opening {
            region: &request.to,
            snapshot,
            here: &here,
            other: other.as_ref(),
            own,
            looked: &Looked {
                request,
                snapshot,
                room: &room,
                primary: None,
                standby: &here,
                lag: None,
                fence_level: None,
                preview: None,
                options: &self.options,
                own,
                now: (self.options.wall)(),
            },
        });
        if self.options.sabotage.open_anyway {
            checks.retain(|check| check.name != service::NEWEST);
        }
        checks
    }
}

/// The workflow that a request for a move asks for.
pub(crate) const fn kind_of(request: &MoveRequest) -> MoveKind {
    if request.force { MoveKind::Failover } else { MoveKind::Switchover }
}
