//! How a move must have ended, whatever happened on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::{MoveKind, MoveStatus, MoveView};
use domicile_model::clock::pause;
use domicile_model::{ClosedReason, MoveId, Phase, Placement};
use domicile_store::Key;
use domicile_store::codec::decode;

use super::{A, B, Sim, region};
use crate::Engine;
use crate::record::Standing;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    Done,
    RolledBack,
    Stuck,
}

/// Waits for the end of a move.
pub(crate) async fn end_of(engine: &Arc<Engine>, id: MoveId) -> (Ended, MoveView) {
    for _ in 0..60_000 {
        if let Ok(Some(view)) = engine.view(id).await {
            match view.status {
                MoveStatus::Done => return (Ended::Done, view),
                MoveStatus::RolledBack { .. } => return (Ended::RolledBack, view),
                MoveStatus::Stuck { .. } => return (Ended::Stuck, view),
                MoveStatus::Running | MoveStatus::RollingBack => {}
            }
        }
        pause(Duration::from_millis(20)).await;
    }
    panic!("the move did not end: {:#?}", engine.view(id).await);
}

impl Sim {
    /// Everything that does not hold at the end of a move; empty if all is well.
    pub(crate) async fn judge(&self, ended: Ended, view: &MoveView) -> Vec<String> {
        // Lets the fleet see the last placement.
        pause(Duration::from_millis(50)).await;
        let claim = self.get(Key::Move(self.cell.id.clone())).await;
        let closed = self.get(Key::Closed(self.cell.id.clone())).await;
        let entry = self.get(Key::Placement(self.cell.id.clone())).await.unwrap();
        let placement: Placement = decode(&entry.value).unwrap();
        let world = self.world();
        let mut found = world.violations.clone();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                found.push(what.to_owned());
            }
        };
        let (a, b) = (&world.servers[&region(A)], &world.servers[&region(B)]);
        must(a.promotions + b.promotions <= 1, "promoted more than once");
        must(!(a.writable && a.fence.is_none() && b.writable), "two servers take writes");
        must(claim.is_some() == (ended == Ended::Stuck), "the claim and the status contradict each other");
        let is_closed = placement.holder.is_none()
            && placement.phase == Phase::Closed { reason: ClosedReason::Operator, for_ms: 0 };
        let opens = view.kind == MoveKind::Open;
        must(closed.is_some() == is_closed, "the placement and why it is closed contradict each other");
        match ended {
            Ended::Done if view.kind == MoveKind::Close => {
                must(is_closed && placement.moving.is_none(), "done, and not closed");
                must(
                    !a.writable || a.fence.is_some() || !a.reachable,
                    "closed, and its database takes writes",
                );
            }
            Ended::RolledBack if opens => must(is_closed, "rolled back, and not closed"),
            Ended::Done => {
                must(
                    placement.phase == Phase::Serving && placement.moving.is_none(),
                    "done, and not serving",
                );
                must(
                    placement.holder == Some(region(B)) || view.kind == MoveKind::Reprotect || opens,
                    "done, and not moved",
                );
                if opens {
                    must(placement.holder == Some(region(A)), "done, and not opened where it was closed");
                    must(a.writable && a.fence.is_none(), "opened, and the database takes no writes");
                } else if view.kind != MoveKind::Reprotect {
                    must(placement.standby == Some(region(A)), "done, and unprotected");
                    must(
                        a.standby && a.streaming && a.fence.is_none(),
                        "done, and the old primary does not follow",
                    );
                    must(b.writable && b.promotions == 1, "done, and not promoted");
                }
            }
            Ended::RolledBack => {
                must(placement.holder == Some(region(A)), "rolled back, and the old region does not hold");
                must(
                    placement.phase == Phase::Serving && placement.moving.is_none(),
                    "rolled back, not serving",
                );
                must(a.writable && a.fence.is_none(), "rolled back, and the old primary takes no writes");
                must(b.promotions == 0, "rolled back after a promotion");
            }
            Ended::Stuck => {}
        }
        let mut stands: BTreeMap<&str, Standing> = BTreeMap::new();
        for (i, entry) in view.log.iter().enumerate() {
            must(entry.n == i as u64 + 1, "the log has a gap");
            let state = stands.entry(&entry.step).or_default();
            match state.after(entry.event) {
                Some(next) => *state = next,
                None => must(false, &format!("{:?} at {} is out of order", entry.event, entry.step)),
            }
        }
        found
    }
}
