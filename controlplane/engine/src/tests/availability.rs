//! Cells in which availability comes first: no time says that the old primary has stopped, only its own word does.

use std::time::Duration;

use domicile_api::moves::{MoveKind, MoveView, Verdict};
use domicile_model::clock::pause;
use domicile_model::{MoveId, Placement};
use domicile_store::Key;
use domicile_store::codec::decode;

use super::happy::{Leading, ask, begin, lead, warm_up};
use super::{said, simulate};
use crate::options::Sabotage;
use crate::testkit::{A, B, Ended, Fault, Sim, end_of, region};
use crate::{Consent, Engine, MoveError, Options};

async fn placement(sim: &Sim) -> Placement {
    decode(&sim.get(Key::Placement(sim.cell.id.clone())).await.unwrap().value).unwrap()
}

struct Scene {
    sim: Sim,
    engine: std::sync::Arc<Engine>,
    leadership: domicile_store::Leadership,
    _leading: Leading,
}

/// What the owner wishes, and what the placement says.
async fn scene(wish: bool, placed: bool, sabotage: Sabotage) -> Scene {
    let sim = Sim::start().await;
    sim.prefer(wish, placed).await;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("one").await;
    let _leading = lead(&engine, &leadership, &sim);
    warm_up(MoveKind::Failover).await;
    Scene { sim, engine, leadership, _leading }
}

/// A forced move whose primary is cut off once it has begun, and goes on writing.
async fn cut_off(scene: &Scene) -> (MoveId, Ended, MoveView) {
    let Scene { sim, engine, leadership, .. } = scene;
    let id = begin(sim, engine, MoveKind::Failover, leadership).await;
    sim.lose_a(true);
    if let Ok((ended, view)) = tokio::time::timeout(Duration::from_secs(120), end_of(engine, id)).await {
        return (id, ended, view);
    }
    (id, Ended::Done, engine.view(id).await.unwrap().unwrap())
}

#[test]
fn a_forced_move_waits_for_the_old_primarys_word_however_long_that_takes() {
    simulate(async {
        let scene = scene(true, true, Sabotage::default()).await;
        let (id, ended, view) = cut_off(&scene).await;
        assert_eq!((ended, view.step.as_str()), (Ended::Stuck, "fence"), "{view:#?}");
        let domicile_api::moves::MoveStatus::Stuck { why, .. } = &view.status else { panic!("{view:#?}") };
        assert!(why.contains("availability comes first") && why.contains("bring its agent back"), "{why}");
        let Scene { sim, engine, leadership, .. } = &scene;
        assert_eq!(sim.world().servers[&region(B)].promotions, 0);
        // It comes back, still writing. Its word ends that, and what it took until then is in the loss that is compared.
        pause(Duration::from_secs(60)).await;
        sim.return_a();
        engine.retry(id, Consent::default(), said(leadership, sim)).await.unwrap();
        let (ended, view) = end_of(engine, id).await;
        assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
        assert_eq!(view.facts.stopped_by.as_deref(), Some("fenced"));
        let (lost, said) = (sim.world().servers[&region(B)].lost, view.facts.preview_at_promotion.clone());
        assert!(said.as_ref().unwrap().total().is_some_and(|n| n >= lost), "{lost} lost: {said:?}");
    });
    // The counterparts: whoever takes the time that was waited for as a stop promotes beside a writer.
    for broken in [
        Sabotage { ends_by_time: true, ..Sabotage::default() },
        Sabotage { skip_wait: true, ..Sabotage::default() },
    ] {
        simulate(async move {
            let scene = scene(true, true, broken).await;
            let (..) = cut_off(&scene).await;
            let found = scene.sim.world().violations.clone();
            assert!(found.iter().any(|f| f.contains("may still acknowledge")), "{found:?}");
        });
    }
    // And an ordinary cell goes on after WAIT.
    simulate(async {
        let scene = scene(false, false, Sabotage::default()).await;
        let (_, _, view) = cut_off(&scene).await;
        assert_eq!(view.facts.stopped_by.as_deref(), Some("lapsed"), "{view:#?}");
        assert_eq!(scene.sim.world().servers[&region(B)].promotions, 1);
    });
}

#[test]
fn a_forced_move_that_could_not_end_is_not_begun() {
    simulate(async {
        let Scene { sim, engine, leadership, _leading } = scene(true, true, Sabotage::default()).await;
        let level = |plan: domicile_api::moves::MovePlan| {
            plan.checks.into_iter().find(|c| c.name == "fence-level").unwrap()
        };
        for kind in [MoveKind::Switchover, MoveKind::Failover] {
            assert_eq!(level(engine.plan(&ask(&sim, kind)).await.unwrap()).verdict, Verdict::NotApplicable);
        }
        sim.lose_a(true);
        let mut request = ask(&sim, MoveKind::Failover);
        request.accept_unknown = true;
        let refused = engine.request(&request, "x", &leadership, &sim.registry).await.unwrap_err();
        let MoveError::Blocked(plan) = refused else { panic!("{refused}") };
        let check = level(*plan);
        assert!(check.verdict == Verdict::Failed && check.why.contains("bring its agent back"), "{check:?}");
        assert_eq!(placement(&sim).await.holder, Some(region(A)), "whom it serves is served");
    });
}

#[test]
fn the_owners_choice_is_taken_over_only_where_the_right_is_given_anew() {
    for (wish, placed) in [(true, false), (false, true)] {
        // By a planned move, and by a forced one that heard the old primary.
        for kind in [MoveKind::Switchover, MoveKind::Failover] {
            simulate(async {
                let Scene { sim, engine, leadership, _leading } =
                    scene(wish, placed, Sabotage::default()).await;
                let id = begin(&sim, &engine, kind, &leadership).await;
                let (ended, view) = end_of(&engine, id).await;
                assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
                assert_eq!(placement(&sim).await.availability_first, wish, "{kind:?}");
                let seen = sim.world().placements.clone();
                let closed = seen.iter().find(|p| p.holder.is_none()).unwrap();
                assert_eq!(closed.availability_first, placed, "what was taken away is known");
            });
        }
        // Not by a move that turns back: whoever did not hear of it goes on as before.
        simulate(async {
            let Scene { sim, engine, leadership, _leading } = scene(wish, placed, Sabotage::default()).await;
            sim.world().faults = vec![("fence".to_owned(), Fault::Refused); 60];
            let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
            let (ended, view) = end_of(&engine, id).await;
            assert_eq!((ended, sim.judge(ended, &view).await), (Ended::RolledBack, Vec::new()), "{view:#?}");
            assert_eq!(placement(&sim).await.availability_first, placed);
        });
        // By closing and opening.
        simulate(async {
            let Scene { sim, engine, leadership, _leading } = scene(wish, placed, Sabotage::default()).await;
            for kind in [MoveKind::Close, MoveKind::Open] {
                let wanted = crate::Service { kind, cell: &sim.cell.id, region: None, reason: "the choice" };
                let own = (MoveId::new(), Vec::new());
                let id = engine.serve(own, &wanted, "ann", &leadership, &sim.registry).await.unwrap();
                assert_eq!(placement(&sim).await.availability_first, placed);
                let (ended, view) = end_of(&engine, id).await;
                assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
            }
            assert_eq!(placement(&sim).await.availability_first, wish);
        });
    }
}

#[test]
fn a_close_is_not_done_before_the_database_has_said_so() {
    simulate(async {
        let Scene { sim, engine, leadership, _leading } = scene(true, true, Sabotage::default()).await;
        sim.lose_a(true);
        let wanted = crate::Service { kind: MoveKind::Close, cell: &sim.cell.id, region: None, reason: "r" };
        let own = (MoveId::new(), Vec::new());
        let id = engine.serve(own, &wanted, "ann", &leadership, &sim.registry).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, view.step.as_str()), (Ended::Stuck, "fence"), "{view:#?}");
        sim.return_a();
        engine.retry(id, Consent::default(), said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
        assert_eq!(view.facts.stopped_by.as_deref(), Some("fenced"));
    });
}
