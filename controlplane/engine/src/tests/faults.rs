//! Every effect refused, lost, or answered into the void, and every effect done twice.

use domicile_api::moves::MoveKind;

use super::happy::{begin, lead, warm_up};
use super::{said, simulate};
use crate::testkit::{Ended, Fault, Sim, end_of};
use crate::{Options, definitions};

/// Runs a move with these faults and returns how it ended; fails if anything does not hold that must.
fn run(kind: MoveKind, faults: &[(&str, Fault)], twice: bool) -> Ended {
    simulate(run_in(kind, faults, twice))
}

async fn run_in(kind: MoveKind, faults: &[(&str, Fault)], twice: bool) -> Ended {
    let sim = Sim::start().await;
    let engine = sim.engine(Options::default());
    let leadership = sim.take_over("one").await;
    let _leading = lead(&engine, &leadership, &sim);
    warm_up(kind).await;
    sim.world().faults = faults.iter().map(|(n, f)| ((*n).to_owned(), *f)).collect();
    sim.world().twice = twice;
    let id = begin(&sim, &engine, kind, &leadership).await;
    let (ended, view) = end_of(&engine, id).await;
    assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{kind:?} {faults:?} {view:#?}");
    ended
}

const EFFECTS: [&str; 7] = ["settle", "fence", "unfence", "promote", "verify", "follow", "export"];

#[test]
fn one_fault_of_any_kind_at_any_effect_is_got_over() {
    for kind in definitions::ALL {
        for effect in EFFECTS {
            for fault in [Fault::Refused, Fault::LostBefore, Fault::LostAfter] {
                assert_eq!(run(kind, &[(effect, fault)], false), Ended::Done, "{kind:?} {effect} {fault:?}");
            }
        }
    }
}

#[test]
fn a_job_that_its_agent_forgot_is_ordered_again_and_one_that_fails_is_tried_another_way() {
    let building = |kind: &MoveKind| definitions::steps(*kind).contains(&"re-protect");
    for kind in definitions::ALL.into_iter().filter(building) {
        for fault in [Fault::Refused, Fault::LostBefore] {
            assert_eq!(run(kind, &[("follow-job", fault)], false), Ended::Done, "{kind:?} {fault:?}");
        }
        assert_eq!(run(kind, &[("export-job", Fault::LostBefore)], false), Ended::Done, "{kind:?}");
        assert_eq!(run(kind, &[("follow-job", Fault::Refused); 9], false), Ended::Stuck, "{kind:?}");
    }
}

#[test]
fn every_effect_may_arrive_twice() {
    for kind in definitions::ALL {
        assert_eq!(run(kind, &[], true), Ended::Done);
    }
}

#[test]
fn a_planned_move_turns_back_before_the_intent_to_promote_and_never_after() {
    let always = |effect, fault| vec![(effect, fault); 40];
    for fault in [Fault::Refused, Fault::LostBefore, Fault::LostAfter] {
        assert_eq!(run(MoveKind::Switchover, &always("settle", fault), false), Ended::RolledBack);
    }
    assert_eq!(run(MoveKind::Switchover, &always("fence", Fault::Refused), false), Ended::RolledBack);
    assert_eq!(run(MoveKind::Switchover, &always("fence", Fault::LostBefore), false), Ended::RolledBack);
    // A fence whose answers are lost is seen by looking.
    assert_eq!(run(MoveKind::Switchover, &always("fence", Fault::LostAfter), false), Ended::Done);
    assert_eq!(run(MoveKind::Switchover, &always("promote", Fault::Refused), false), Ended::Stuck);
    assert_eq!(run(MoveKind::Switchover, &always("verify", Fault::Refused), false), Ended::Stuck);
}

#[test]
fn turning_back_survives_faults_of_its_own() {
    for fault in [Fault::Refused, Fault::LostBefore, Fault::LostAfter] {
        let mut faults = vec![("fence", Fault::LostBefore); 40];
        faults.push(("unfence", fault));
        assert_eq!(run(MoveKind::Switchover, &faults, false), Ended::RolledBack, "{fault:?}");
    }
    let mut hopeless = vec![("fence", Fault::LostBefore); 40];
    hopeless.extend(vec![("unfence", Fault::Refused); 40]);
    assert_eq!(run(MoveKind::Switchover, &hopeless, false), Ended::Stuck);
}

#[test]
fn a_gate_that_never_finishes_turns_the_move_back() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        sim.world().busy = 3;
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::RolledBack, "{view:#?}");
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new());
        // The right was never taken away: the epoch stands where it stood.
        assert_eq!(sim.world().placements.last().unwrap().epoch.0, 1);
    });
}

#[test]
fn a_person_gets_a_stuck_move_going() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        sim.world().faults = vec![("promote".to_owned(), Fault::Refused); 40];
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Stuck);
        // There is no way back any more, and nobody can be talked into one.
        let back = engine.rollback(id, said(&leadership, &sim)).await;
        assert!(back.unwrap_err().to_string().contains("can't turn back"), "{view:#?}");
        sim.world().faults.clear();
        engine.retry(id, crate::Consent::default(), said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done);
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
    });
}
