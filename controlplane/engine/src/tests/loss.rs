//! Forced moves: the wait for the old primary, the preview, and consent.

use std::time::Duration;

use domicile_api::moves::{MoveKind, MoveView, Verdict};
use domicile_model::clock::pause;

use super::happy::{ask, lead, warm_up};
use super::{said, simulate};
use crate::options::Sabotage;
use crate::testkit::{A, B, Ended, Sim, end_of, region};
use crate::{Consent, MoveError, Options};

/// A failover while the old primary is cut off and goes on writing for as long as it may. Returns what was wrong,
/// what was accepted and what was lost.
fn cut_off(sabotage: Sabotage, accept: Option<u64>) -> (Vec<String>, u64, u64, Ended, MoveView) {
    simulate(cut_off_in(sabotage, accept))
}

async fn cut_off_in(sabotage: Sabotage, accept: Option<u64>) -> (Vec<String>, u64, u64, Ended, MoveView) {
    let sim = Sim::start().await;
    sim.world().planned = false;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("one").await;
    let _leading = lead(&engine, &leadership, &sim);
    warm_up(MoveKind::Failover).await;
    sim.lose_a(true);
    pause(Duration::from_secs(2)).await;
    let mut request = ask(&sim, MoveKind::Failover);
    let preview = engine.plan(&request).await.unwrap().preview.unwrap().total().unwrap();
    request.accept_loss = Some(preview);
    let id = engine.request(&request, "an operator", &leadership, &sim.registry).await.unwrap();
    // What the preview promised turns out to be too little: the consent shrinks behind the engine's back.
    if let Some(accept) = accept {
        let entry = sim.get(domicile_store::Key::Workflow(id)).await.unwrap();
        let mut flow: crate::record::Workflow = domicile_store::codec::decode(&entry.value).unwrap();
        flow.outputs.consented = Some(accept);
        let txn = domicile_store::Txn::bare().put(domicile_store::Key::Workflow(id), &flow);
        domicile_store::Store::commit(&sim.store, txn).await.unwrap();
    }
    for _ in 0..2_000 {
        let view = engine.view(id).await.unwrap().unwrap();
        if view.step == "return" || matches!(view.status, domicile_api::moves::MoveStatus::Stuck { .. }) {
            break;
        }
        pause(Duration::from_millis(20)).await;
    }
    let lost = sim.world().servers[&region(B)].lost;
    if engine.view(id).await.unwrap().unwrap().step == "return" {
        sim.world().servers.get_mut(&region(A)).unwrap().writable = false;
        sim.return_a();
    }
    let (ended, view) = end_of(&engine, id).await;
    (sim.judge(ended, &view).await, accept.unwrap_or(preview), lost, ended, view)
}

#[test]
fn nobody_is_promoted_beside_a_primary_that_may_still_acknowledge() {
    let (found, accepted, lost, ended, view) = cut_off(Sabotage::default(), None);
    assert_eq!((found, ended), (Vec::new(), Ended::Done), "{view:#?}");
    assert!(lost > 0 && lost <= accepted, "{lost} of {accepted}");
    assert!(view.facts.fence_wait_ms.is_some());
    let broken = Sabotage { skip_wait: true, ..Sabotage::default() };
    let (found, ..) = cut_off(broken, None);
    assert!(
        found.iter().any(|f| f.contains("may still acknowledge")),
        "the proof does not notice a promotion without waiting: {found:?}"
    );
}

#[test]
fn more_than_accepted_stops_before_the_promotion() {
    let (found, _, lost, ended, view) = cut_off(Sabotage::default(), Some(10));
    assert_eq!((found, lost, ended), (Vec::new(), 0, Ended::Stuck), "{view:#?}");
    assert_eq!(view.step, "loss-check");
    let broken = Sabotage { skip_loss_check: true, ..Sabotage::default() };
    let (_, accepted, lost, ..) = cut_off(broken, Some(10));
    assert!(lost > accepted, "the proof does not notice a loss above the consent");
}

#[test]
fn witnesses_that_never_go_quiet_stop_a_forced_move() {
    simulate(async {
        let sim = Sim::start().await;
        sim.world().planned = false;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        sim.lose_a(true);
        sim.world().witnesses_down.insert(crate::testkit::router("gate-b"));
        let request = ask(&sim, MoveKind::Failover);
        let id = engine.request(&request, "an operator", &leadership, &sim.registry).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, view.step.as_str()), (Ended::Stuck, "fence"), "{view:#?}");
        assert_eq!(sim.world().servers[&region(B)].promotions, 0);
        // The old primary answers again, and a person lets the move turn back.
        sim.return_a();
        engine.rollback(id, said(&leadership, &sim)).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::RolledBack);
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
    });
}

#[test]
fn a_forced_move_needs_consent_to_the_whole_of_what_is_known() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Failover).await;
        let mut request = ask(&sim, MoveKind::Failover);
        for accept in [None, Some(1)] {
            request.accept_loss = accept;
            let refused = engine.request(&request, "x", &leadership, &sim.registry).await.unwrap_err();
            assert!(matches!(refused, MoveError::Consent { .. }), "{refused}");
            assert!(refused.to_string().contains("--accept-loss"), "{refused}");
        }
        // An engine that never sampled knows nothing, and says so.
        let blind = crate::Engine::new(
            std::sync::Arc::new(sim.store.clone()),
            std::sync::Arc::new(crate::testkit::FakeDatabases(sim.clone())),
            sim.clock.clone(),
            Options::default(),
        );
        request.accept_loss = Some(u64::MAX);
        let refused = blind.request(&request, "x", &leadership, &sim.registry).await.unwrap_err();
        assert!(refused.to_string().contains("--accept-unknown"), "{refused}");
        request.accept_unknown = true;
        blind.request(&request, "x", &leadership, &sim.registry).await.unwrap();
        let second = blind.request(&request, "x", &leadership, &sim.registry).await.unwrap_err();
        assert!(matches!(second, MoveError::Blocked(_)), "one claim at a time: {second}");
        let nothing = engine
            .retry(domicile_model::MoveId::new(), Consent::default(), said(&leadership, &sim))
            .await
            .unwrap_err();
        assert!(matches!(nothing, MoveError::NotFound(_)));
    });
}

#[test]
fn residency_blocks_every_kind_of_move_and_unknown_blocks_as_failed_does() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Failover).await;
        let moved = domicile_model::Region {
            id: region(B),
            country: domicile_model::Country::new("CA").unwrap(),
            ingress: vec![],
            edges: vec![],
        };
        let txn = domicile_store::Txn::bare().put(domicile_store::Key::Region(region(B)), &moved);
        domicile_store::Store::commit(&sim.store, txn).await.unwrap();
        for kind in [MoveKind::Switchover, MoveKind::Failover] {
            let mut request = ask(&sim, kind);
            request.accept_unknown = true;
            let refused = engine.request(&request, "x", &leadership, &sim.registry).await.unwrap_err();
            assert!(refused.to_string().contains("residency"), "{refused}");
        }
        sim.world().servers.get_mut(&region(A)).unwrap().reachable = false;
        let plan = engine.plan(&ask(&sim, MoveKind::Switchover)).await.unwrap();
        let primary = plan.checks.iter().find(|c| c.name == "primary").unwrap();
        assert_eq!(primary.verdict, Verdict::Unknown);
        assert!(!crate::may_start(&plan));
    });
}
