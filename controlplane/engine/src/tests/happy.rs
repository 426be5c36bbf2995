//! Each definition, when nothing goes wrong.

use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::{MoveKind, MoveRequest, MoveStatus};
use domicile_model::clock::pause;
use domicile_model::{MoveId, Need};
use domicile_store::Leadership;
use tokio_util::sync::CancellationToken;

use super::{said_by, simulate};
use crate::engine::LeadEnd;
use crate::testkit::{A, B, Ended, Sim, end_of, region};
use crate::{Engine, Options};

/// How far the simulation has to be before the samples carry a preview.
pub(super) async fn warm_up(kind: MoveKind) {
    pause(Duration::from_millis(if kind == MoveKind::Failover { 2_500 } else { 300 })).await;
}

pub(super) fn ask(sim: &Sim, kind: MoveKind) -> MoveRequest {
    let force = kind == MoveKind::Failover;
    MoveRequest {
        cell: sim.cell.id.clone(),
        to: region(B),
        force,
        accept_loss: force.then_some(1_000_000),
        accept_unknown: false,
        tenants: Vec::new(),
        reason: "test".to_owned(),
    }
}

/// Brings the simulation to where a move of this kind makes sense, and starts one.
pub(super) async fn begin(sim: &Sim, engine: &Arc<Engine>, kind: MoveKind, lead: &Leadership) -> MoveId {
    if kind == MoveKind::Reprotect {
        {
            let mut world = sim.world();
            let b = world.servers.get_mut(&region(B)).unwrap();
            (b.standby, b.streaming) = (false, false);
        }
        return engine.reprotect(&sim.cell.id, Vec::new(), "an operator", lead, &sim.registry).await.unwrap();
    }
    if matches!(kind, MoveKind::Close | MoveKind::Open) {
        if kind == MoveKind::Open {
            sim.close_by_hand().await;
        }
        let wanted = crate::Service { kind, cell: &sim.cell.id, region: None, reason: "test" };
        let own = (MoveId::new(), Vec::new());
        return engine.serve(own, &wanted, "an operator", lead, &sim.registry).await.unwrap();
    }
    sim.world().planned = kind == MoveKind::Switchover;
    engine.request(&ask(sim, kind), "an operator", lead, &sim.registry).await.unwrap()
}

/// The same where two other people must approve, who have.
pub(super) async fn begin_approved(
    sim: &Sim,
    engine: &Arc<Engine>,
    kind: MoveKind,
    lead: &Leadership,
) -> MoveId {
    sim.ask_approval(Need::Two).await;
    let id = begin(sim, engine, kind, lead).await;
    let approval = engine.view(id).await.unwrap().unwrap().approval;
    assert_eq!(approval.is_some(), crate::definitions::change(kind).is_some());
    for by in approval.iter().flat_map(|_| ["bob", "eve"]) {
        let hash = &approval.as_ref().unwrap().hash;
        engine.approve(id, hash, "", said_by(by, lead, sim)).await.unwrap();
    }
    id
}

pub(super) fn lead(engine: &Arc<Engine>, leadership: &Leadership, sim: &Sim) -> Leading {
    let cancel = CancellationToken::new();
    let (engine, leadership, world, token) =
        (engine.clone(), leadership.clone(), sim.registry.clone(), cancel.clone());
    let task = tokio::spawn(async move { engine.lead(leadership, world, token).await });
    Leading { cancel, task }
}

/// An engine that leads. Dropping it kills the engine where it stands.
pub(super) struct Leading {
    pub(super) cancel: CancellationToken,
    pub(super) task: tokio::task::JoinHandle<LeadEnd>,
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[test]
fn every_definition_ends_well() {
    simulate(async {
        for kind in crate::definitions::ALL {
            let sim = Sim::start().await;
            let engine = sim.engine(Options::default());
            let leadership = sim.take_over("one").await;
            let leading = lead(&engine, &leadership, &sim);
            warm_up(kind).await;
            let id = begin(&sim, &engine, kind, &leadership).await;
            let (ended, view) = end_of(&engine, id).await;
            assert_eq!(ended, Ended::Done, "{view:#?}");
            assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
            leading.cancel.cancel();
        }
    });
}

#[test]
fn a_lost_region_is_waited_for_and_comes_back_as_the_standby() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        // Alive, cut off, and writing: the hard case.
        sim.lose_a(true);
        pause(Duration::from_secs(1)).await;
        let request = ask(&sim, MoveKind::Failover);
        let plan = engine.plan(&request).await.unwrap();
        let preview = plan.preview.clone().unwrap().total().unwrap();
        let id = begin(&sim, &engine, MoveKind::Failover, &leadership).await;
        for _ in 0..1_000 {
            if engine.view(id).await.unwrap().unwrap().step == "return" {
                break;
            }
            pause(Duration::from_millis(50)).await;
        }
        let view = engine.view(id).await.unwrap().unwrap();
        assert_eq!((view.status.clone(), view.step.as_str()), (MoveStatus::Running, "return"), "{view:#?}");
        assert_eq!(view.facts.stopped_by.as_deref(), Some("lapsed"));
        let lost = sim.world().servers[&region(B)].lost;
        assert!(lost > 0 && lost <= preview, "{lost} lost, {preview} previewed");
        sim.world().servers.get_mut(&region(A)).unwrap().writable = false;
        sim.return_a();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
    });
}
