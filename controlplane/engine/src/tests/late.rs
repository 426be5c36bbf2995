//! The next leader comes late: later than anything that was opened for the move stays open.

use std::time::Duration;

use domicile_model::clock::pause;

use super::happy::{begin, lead, warm_up};
use super::simulate;
use crate::failpoint::{FailpointSet, Point};
use crate::options::Sabotage;
use crate::testkit::{Ended, Sim, end_of};
use crate::{Options, definitions};
use domicile_api::moves::MoveKind;

/// Longer than a proof lives.
const LATE: Duration = Duration::from_secs(12);

/// A leader comes as far as this point and ends; the next one comes late.
async fn taken_up_late(kind: MoveKind, step: &str, point: Point, sabotage: Sabotage) -> (Ended, String) {
    let sim = Sim::start().await;
    let failpoint = format!("{step}:{}=pause", point.as_str());
    let failpoints = std::sync::Arc::new(FailpointSet::parse(&[failpoint]).unwrap());
    let first = sim.engine(Options { failpoints, ..Options::default() });
    let leadership = sim.take_over("one").await;
    let leading = lead(&first, &leadership, &sim);
    warm_up(kind).await;
    let id = begin(&sim, &first, kind, &leadership).await;
    pause(LATE).await;
    drop(leading);
    let second = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("two").await;
    let _leading = lead(&second, &leadership, &sim);
    let (ended, view) = end_of(&second, id).await;
    assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{kind:?} {step} {point:?} {view:#?}");
    (ended, format!("{view:#?}"))
}

#[test]
fn a_move_is_ended_however_late_the_next_leader_comes() {
    for kind in definitions::ALL {
        for step in definitions::steps(kind) {
            if kind == MoveKind::Failover && *step == "fence" {
                // The leader itself goes on once all proofs have lapsed, and the simulation's servers do not stop by
                // themselves then, as an agent's do.
                continue;
            }
            for point in [Point::BeforeEffect, Point::AfterEffect] {
                let (ended, view) = simulate(taken_up_late(kind, step, point, Sabotage::default()));
                // Who comes late has no samples: how much a forced move would lose is for a person to accept.
                let asks = view.contains("an unknown number of transactions would be lost");
                assert!(ended != Ended::Stuck || asks, "{kind:?} {step} {point:?} {view}");
            }
        }
    }
}

/// The switch: a promoted server that was shut meanwhile is not opened again, and no person can get the move going.
#[test]
fn without_opening_it_again_a_late_leader_is_seen_to_be_stuck() {
    for point in [Point::BeforeEffect, Point::AfterEffect] {
        let broken = Sabotage { leave_shut: true, ..Sabotage::default() };
        let (ended, view) = simulate(taken_up_late(MoveKind::Switchover, "verify", point, broken));
        assert!(ended == Ended::Stuck, "the proof does not notice a shut server: {view}");
    }
}
