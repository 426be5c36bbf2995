//! Routers that hear of a move late, or not at all.

use domicile_api::moves::MoveStatus;
use domicile_chaos::control::{LinkAct, UnitAct};
use domicile_chaos::oracle;

use crate::MOVING;
use crate::scene::Scene;

/// How late the registry's answers and changes arrive.
const LATE: LinkAct = LinkAct::Delay { ms: 2_000 };
/// The edge that hears nothing.
const DEAF: &str = "edge-eu-west-1";

/// One edge and the old region's gate hear everything two seconds late, the other edge nothing at all: the move takes
/// longer, and that is all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_that_hear_late_or_nothing_cost_no_request() {
    let mut scene = Scene::up().await;
    let (from, to) = scene.ready_to_move(MOVING).await;
    let gate = format!("gate-{from}");
    for router in ["edge-us-east-1", &gate] {
        scene.link(LATE, "etcd", router, true).await;
    }
    scene.link(LinkAct::Cut, DEAF, "etcd", false).await;
    // The one that hears nothing drops off the list; the late ones stay on it.
    scene.listed(|routers| !routers.contains(DEAF) && routers.contains(&gate)).await;
    let load = scene.load().await;
    let started = scene.start(MOVING, &to).await;
    let ended = scene.end_of(&started).await;
    assert_eq!(ended.status, MoveStatus::Done, "{ended:#?}");
    scene.nothing_failed_and_nothing_is_lost(load).await;
    scene.link(LinkAct::Heal, "edge", "etcd", false).await;
    scene.link(LinkAct::Heal, "gate", "etcd", false).await;
    scene.listed(|routers| routers.contains(DEAF)).await;
    oracle::check_one_writer(&scene.records).unwrap();
}

/// A gate that gives the registry a second for a call counts as gone then, and there is no planned move without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seen_to_fail_an_impatient_gate_that_hears_late_blocks_the_move() {
    let scene = Scene::up().await;
    let (from, to) = scene.ready_to_move(MOVING).await;
    let gate = format!("gate-{from}");
    scene.unit(UnitAct::Terminate, &gate).await;
    scene.control.start_with(&gate, &["--registry-call-ms", "1000"]).await.unwrap();
    scene.listed(|routers| routers.contains(&gate)).await;
    scene.link(LATE, "etcd", &gate, true).await;
    scene.listed(|routers| !routers.contains(&gate)).await;
    let plan = scene.operator.plan(MOVING, &to, &[]).await.unwrap();
    let gates = plan.checks.iter().find(|check| check.name == "old-gates").unwrap();
    assert!(gates.verdict.blocks(), "{gates:#?}");
}
