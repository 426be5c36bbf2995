//! What people hold up, stop, skip and turn back.

use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::{MoveKind, MoveStatus, MoveView};
use domicile_model::clock::pause;
use domicile_model::{CellId, EmergencyStop, Freeze, FreezeId, MoveId, Moved, Phase, Placement};
use domicile_store::codec::decode;
use domicile_store::{Key, Store, Txn};
use jiff::{SignedDuration, Timestamp};

use super::happy::{ask, begin, lead, warm_up};
use super::{said, simulate};
use crate::testkit::{A, B, Ended, Sim, end_of, region};
use crate::{Engine, MoveError, Options};

async fn until_step(engine: &Arc<Engine>, id: MoveId, step: &str) -> MoveView {
    for _ in 0..2_000 {
        let view = engine.view(id).await.unwrap().unwrap();
        if view.step == step {
            return view;
        }
        pause(Duration::from_millis(20)).await;
    }
    panic!("never at {step}: {:#?}", engine.view(id).await);
}

async fn placement(sim: &Sim) -> Placement {
    let entry = sim.get(Key::Placement(sim.cell.id.clone())).await.unwrap();
    decode(&entry.value).unwrap()
}

fn blocks(refused: &MoveError, check: &str) -> bool {
    matches!(refused, MoveError::Blocked(plan)
        if plan.checks.iter().any(|c| c.name == check && c.verdict.blocks()))
}

async fn put(sim: &Sim, txn: Txn) {
    sim.store.commit(txn).await.unwrap();
}

fn pulled() -> EmergencyStop {
    EmergencyStop { by: "ann".into(), reason: "something is odd".into(), at: Timestamp::now() }
}

#[test]
fn a_paused_move_stops_before_anybody_waits_and_goes_on_when_told() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Switchover).await;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        engine.pause(id, "the vendor calls", said(&leadership, &sim)).await.unwrap();
        let _leading = lead(&engine, &leadership, &sim);
        pause(Duration::from_secs(5)).await;
        let view = engine.view(id).await.unwrap().unwrap();
        assert_eq!((view.step.as_str(), view.status.clone()), ("settle", MoveStatus::Running), "{view:#?}");
        assert_eq!(view.paused.unwrap().reason, "the vendor calls");
        assert_eq!(placement(&sim).await.phase, Phase::Serving);
        let twice = engine.pause(id, "again", said(&leadership, &sim)).await;
        assert!(matches!(twice, Err(MoveError::NotNow(_))));
        engine.resume(id, said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
    });
}

/// Requests wait: they are not left waiting for a person.
#[test]
fn a_move_that_is_paused_while_requests_wait_serves_them_first() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        sim.world().busy = 1;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        until_step(&engine, id, "hold").await;
        pause(Duration::from_millis(200)).await;
        engine.pause(id, "wait", said(&leadership, &sim)).await.unwrap();
        sim.world().busy = 0;
        until_step(&engine, id, "re-protect").await;
        pause(Duration::from_secs(5)).await;
        let view = engine.view(id).await.unwrap().unwrap();
        assert_eq!(
            (view.step.as_str(), view.status.clone()),
            ("re-protect", MoveStatus::Running),
            "{view:#?}"
        );
        let now = placement(&sim).await;
        assert_eq!((now.holder, now.phase), (Some(region(B)), Phase::Serving));
        engine.resume(id, said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
    });
}

#[test]
fn the_emergency_stop_lets_no_move_start_and_holds_up_those_that_have() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Failover).await;
        put(&sim, Txn::bare().put(Key::Stop, &pulled())).await;
        for kind in [MoveKind::Switchover, MoveKind::Failover] {
            let refused =
                engine.request(&ask(&sim, kind), "bob", &leadership, &sim.registry).await.unwrap_err();
            assert!(blocks(&refused, "emergency-stop"), "{refused}");
            assert!(refused.to_string().contains("allow-all"), "{refused}");
        }
        put(&sim, Txn::bare().delete(Key::Stop)).await;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        put(&sim, Txn::bare().put(Key::Stop, &pulled())).await;
        let _leading = lead(&engine, &leadership, &sim);
        pause(Duration::from_secs(5)).await;
        assert_eq!(engine.view(id).await.unwrap().unwrap().step, "settle");
        put(&sim, Txn::bare().delete(Key::Stop)).await;
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
    });
}

#[test]
fn a_freeze_holds_planned_moves_of_its_cells_and_no_others() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Failover).await;
        let now = Timestamp::now();
        let mut freeze = Freeze {
            id: FreezeId::new(),
            from: now - SignedDuration::from_mins(1),
            until: now + SignedDuration::from_mins(1),
            cells: [sim.cell.id.clone()].into(),
            by: "ann".into(),
            reason: "go-live".into(),
        };
        put(&sim, Txn::bare().put(Key::Freeze(freeze.id), &freeze)).await;
        let planned = ask(&sim, MoveKind::Switchover);
        let refused = engine.request(&planned, "bob", &leadership, &sim.registry).await.unwrap_err();
        assert!(blocks(&refused, "freeze") && refused.to_string().contains("go-live"), "{refused}");
        let forced = engine.plan(&ask(&sim, MoveKind::Failover)).await.unwrap();
        assert!(crate::may_start(&forced), "a disaster keeps no calendar: {forced:#?}");
        freeze.cells = [CellId::new("another").unwrap()].into();
        put(&sim, Txn::bare().put(Key::Freeze(freeze.id), &freeze)).await;
        assert!(crate::may_start(&engine.plan(&planned).await.unwrap()));
    });
}

#[test]
fn a_cell_does_not_go_back_and_forth() {
    simulate(async {
        let sim = Sim::start().await;
        let min_interval = Duration::from_secs(3_600);
        let engine = sim.engine(Options { min_interval, ..Options::default() });
        let leadership = sim.take_over("one").await;
        let leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        assert_eq!(end_of(&engine, id).await.0, Ended::Done);
        leading.cancel.cancel();
        let mut back = ask(&sim, MoveKind::Switchover);
        back.to = region(A);
        let plan = engine.plan(&back).await.unwrap();
        let interval = |plan: &domicile_api::moves::MovePlan| {
            plan.checks.iter().find(|c| c.name == "interval").unwrap().verdict.blocks()
        };
        assert!(interval(&plan), "{plan:#?}");
        let long_ago = Moved { moving: id, at: Timestamp::now() - SignedDuration::from_secs(3_601) };
        put(&sim, Txn::bare().put(Key::Moved(sim.cell.id.clone()), &long_ago)).await;
        assert!(!interval(&engine.plan(&back).await.unwrap()));
    });
}

/// The old region is destroyed: nobody waits for it for ever.
#[test]
fn what_comes_after_the_switch_may_be_skipped_and_nothing_before() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        sim.lose_a(false);
        let id = begin(&sim, &engine, MoveKind::Failover, &leadership).await;
        let early = engine.skip(id, "impatient", said(&leadership, &sim)).await;
        assert!(matches!(early, Err(MoveError::NotNow(_))), "{early:?}");
        until_step(&engine, id, "return").await;
        engine.skip(id, "the building is gone", said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(view.facts.skipped, ["return", "losses", "re-protect", "protect"]);
        assert_eq!(view.facts.lost_transactions, None, "not listed is not none");
        let now = placement(&sim).await;
        assert_eq!((now.holder, now.standby, now.phase), (Some(region(B)), None, Phase::Serving));
        assert_eq!(now.moving, None);
        assert!(sim.get(Key::Move(sim.cell.id.clone())).await.is_none(), "the claim is gone");
    });
}

#[test]
fn a_move_under_way_turns_back_when_told_before_the_promotion() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        sim.world().busy = 1;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        until_step(&engine, id, "hold").await;
        engine.rollback(id, said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::RolledBack, "{view:#?}");
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
        let late = engine.rollback(id, said(&leadership, &sim)).await;
        assert!(matches!(late, Err(MoveError::NotNow(_))));
    });
}
