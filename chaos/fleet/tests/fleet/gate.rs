//! A gate that does not notice a move: it sleeps, or its way to the registry is cut.

use std::time::Duration;

use domicile_chaos::app::NewEncounter;
use domicile_chaos::control::{LinkAct, UnitAct};
use domicile_chaos::demo::routers;
use domicile_chaos::fleet::Kind;
use domicile_chaos::load::Outcome;
use domicile_chaos::load::client::Client;
use domicile_chaos::oracle;
use domicile_chaos_kit::wait;
use domicile_model::clock::{Clock, pause};
use sqlx::{Connection, Row};

use crate::MOVING;
use crate::scene::{LONG, Scene, insert};

/// A write is committed while its gate is stopped; the gate wakes up when the cell is served elsewhere and its proofs have
/// ended. It does not pass the answer on: by then nobody may believe in a write of the old region. (Within the life of a
/// proof it might: the write was committed before its database was fenced, so it is handed over, or listed as lost.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_sleeps_through_a_move_acknowledges_nothing() {
    let scene = Scene::up().await;
    let (from, to) = scene.ready_to_move(MOVING).await;
    let gate = format!("gate-{from}");
    let edge = scene.fleet.units.iter().find(|u| u.kind == Kind::Edge && u.region == from).unwrap().listen();
    let wait = Duration::from_millis(routers::fence_ms(&scene.fleet).await.unwrap()).mul_f64(1.1);
    let tenant = scene.fleet.tenants.iter().find(|t| t.cell == MOVING).unwrap();
    let database = scene.fleet.database(MOVING, &from).unwrap();

    // The application's write waits for ours, which never comes about.
    let mut first = oracle::connect(database).await.unwrap();
    let mut uncommitted = first.begin().await.unwrap();
    insert(&mut uncommitted, &tenant.id, "slept").await.unwrap();
    // Straight to the gate, by somebody who waits longer than a user: no edge, and no hurry, does the gate's work.
    let client = reqwest::Client::builder().no_proxy().timeout(LONG).build().unwrap();
    let new = NewEncounter { key: "slept".into(), patient: "p".into(), content: "by a user".into() };
    let url = format!("http://{}/encounters", scene.fleet.unit(&gate).unwrap().listen());
    let user = tokio::spawn(client.post(url).header("host", &tenant.host).json(&new).send());
    let mut look = oracle::connect(database).await.unwrap();
    let waits = async || {
        let row = sqlx::query("SELECT count(*) FROM pg_locks WHERE NOT granted").fetch_one(&mut look).await;
        row.unwrap().get::<i64, _>(0) > 0
    };
    until(waits, "the user's write has reached the database").await;
    scene.unit(UnitAct::Pause, &gate).await;
    let slept = Clock::Machine.now();
    uncommitted.rollback().await.unwrap();
    let committed = async || {
        let stored = oracle::stored(database).await.unwrap();
        stored.get(&(tenant.id.clone(), "slept".to_owned())).is_some_and(|content| content == "by a user")
    };
    until(committed, "the user's write is committed").await;

    scene.forced(MOVING, &to).await;
    pause((slept + wait).since(Clock::Machine.now())).await;
    scene.unit(UnitAct::Resume, &gate).await;
    // Cut, or told that the outcome is unknown; neither a success nor "it did not happen".
    if let Ok(answer) = user.await.unwrap() {
        assert!(answer.status().is_server_error(), "the old region's gate has acknowledged: {answer:?}");
    }
    serves_again(&scene, edge, &tenant.host).await;
}

/// Its table stays as it was: it would go on as before, if it were for the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_hears_of_no_move_acknowledges_nothing_after_it() {
    let mut scene = Scene::up().await;
    let (from, to) = scene.ready_to_move(MOVING).await;
    let gate = format!("gate-{from}");
    let load = scene.load().await;
    pause(Duration::from_secs(1)).await;
    scene.link(LinkAct::Cut, &gate, "etcd", false).await;
    let moved = scene.forced(MOVING, &to).await;
    let serving = moved.facts.serving_epoch.unwrap().0;
    let of = |old: bool| {
        let seen = load.so_far();
        let mine = seen.iter().filter(|r| r.cell == MOVING).filter_map(domicile_chaos::load::Record::answer);
        mine.filter(|answer| (answer.epoch < serving) == old).count()
    };
    let goes_on = || async { of(false) > 50 };
    wait::eventually(LONG, "users go on in the new region", goes_on).await.unwrap();
    let before = of(true);
    assert!(before > 0);
    pause(Duration::from_secs(3)).await;
    assert_eq!(of(true), before, "answers of the old epoch, by a gate that knows no other");
    scene.link(LinkAct::Heal, &gate, "etcd", false).await;
    scene.records = load.finish().await;
    oracle::check_one_writer(&scene.records).unwrap();
}

async fn serves_again(scene: &Scene, edge: std::net::SocketAddr, host: &str) {
    let client = Client::new().unwrap();
    let written = || async {
        let key = uuid::Uuid::new_v4().to_string();
        let new = NewEncounter { key, patient: "p".into(), content: "c".into() };
        matches!(client.write(false, edge, host, &new).await, Outcome::Fine(_))
    };
    wait::eventually(LONG, "users write again", written).await.unwrap();
    assert_eq!(scene.state_of("edge-us-east-1").await, "running");
}

async fn until(mut there: impl AsyncFnMut() -> bool, what: &str) {
    let within = tokio::time::timeout(Duration::from_secs(10), async {
        while !there().await {
            pause(Duration::from_millis(20)).await;
        }
    });
    within.await.unwrap_or_else(|_| panic!("not within 10 s: {what}"));
}
