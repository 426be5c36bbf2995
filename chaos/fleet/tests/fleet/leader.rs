//! The leading control plane dies in the middle of a move.

use std::time::Duration;

use domicile_api::moves::{MoveStatus, MoveView};
use domicile_chaos::control::UnitAct;
use domicile_chaos::fleet::Kind;
use domicile_chaos::oracle;
use domicile_chaos_kit::wait;

use crate::MOVING;
use crate::scene::{LONG, Scene};

/// Every step in which requests wait, and what comes right before and after.
const STEPS: [&str; 7] = ["hold", "close", "fence", "catch-up", "promote", "verify", "switch"];

/// With its intent in the log, and after the effect without a result: the other one takes over and ends the move by
/// itself. Nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_at_any_step_of_a_move_costs_no_request_and_no_write() {
    let mut scene = Scene::up().await;
    for step in STEPS {
        for point in ["before-effect", "after-effect"] {
            let ended = a_move_whose_leader_dies(&mut scene, step, point, &[]).await;
            assert!(ended.failures.is_empty(), "{step} {point}: {:#?}\n{:#?}", ended.failures, ended.view);
        }
    }
    oracle::check_one_writer(&scene.records).unwrap();
}

/// The same with a leader's lease that is longer than requests wait: nobody takes over in time, and it shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seen_to_fail_a_lease_longer_than_the_hold_costs_requests() {
    let mut scene = Scene::up().await;
    let ended = a_move_whose_leader_dies(&mut scene, "fence", "before-effect", &["--lease", "25s"]).await;
    assert!(!ended.failures.is_empty(), "{:#?}", ended.view);
    oracle::check_one_writer(&scene.records).unwrap();
}

struct Ended {
    view: MoveView,
    failures: Vec<String>,
}

async fn a_move_whose_leader_dies(scene: &mut Scene, step: &str, point: &str, extra: &[&str]) -> Ended {
    let failpoint = format!("{step}:{point}=exit");
    let args = [&["--failpoint", &failpoint], extra].concat();
    let leader = lead_with(scene, &args).await;
    let (from, to) = scene.ready_to_move(MOVING).await;
    let before = scene.timeline(MOVING, &from).await;
    let load = scene.load().await;
    let started = scene.start(MOVING, &to).await;
    let ends = || async { scene.state_of(&leader).await == "stopped" };
    if let Err(late) = wait::eventually(LONG, "the leader ends at its failpoint", ends).await {
        panic!("{failpoint}: {late}: {:#?}", scene.operator.show_move(&started.id.to_string()).await);
    }
    let view = scene.end_of(&started).await;
    let others = view.log.iter().any(|entry| entry.leader != leader);
    assert!(others, "the other control plane has ended it: {view:#?}");
    let holder = scene.holder(MOVING).await;
    let after = scene.timeline(MOVING, &holder).await;
    match view.status {
        MoveStatus::Done => {
            assert_eq!((&holder, after), (&to, before + 1), "promoted, and once: {failpoint}, {view:#?}");
        }
        _ => assert_eq!((&holder, after), (&from, before), "turned back: {failpoint}, {view:#?}"),
    }
    scene.unit(UnitAct::Start, &leader).await;
    let failures = scene.nothing_is_lost_but_requests(load).await;
    Ended { view, failures }
}

/// Has a control plane lead that was started with these arguments; gives its name.
async fn lead_with(scene: &Scene, args: &[&str]) -> String {
    let old = scene.leader().await;
    let controls = scene.fleet.units.iter().filter(|u| u.kind == Kind::Control);
    let new = controls.map(|u| u.name.clone()).find(|name| *name != old).unwrap();
    scene.unit(UnitAct::Terminate, &new).await;
    scene.control.start_with(&new, args).await.unwrap();
    scene.unit(UnitAct::Terminate, &old).await;
    let leads = || async { scene.leader().await == new };
    wait::eventually(Duration::from_secs(30), "the other control plane leads", leads).await.unwrap();
    scene.unit(UnitAct::Start, &old).await;
    new
}
