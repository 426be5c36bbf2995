//! The witnesses of a cell over the API: shown, others wanted, and declared destroyed.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_model::{BootId, Role, RouterId, WitnessState};
use domicile_store::memory::MemoryStore;
use domicile_store::world::read_world;
use domicile_store::{Key, Store, Txn};
use reqwest::Method;
use serde_json::{Value, json};

use crate::brakes::audited_by;
use crate::common::{FLEET, Plane, TOKEN, gates, problem, registry};

const PATH: &str = "/v1/cells/pool/witnesses";

async fn witness(store: &MemoryStore, id: &str, region: &str, role: Role) {
    let world = read_world(store).await.unwrap().unwrap();
    let state = WitnessState {
        id: RouterId::new(id).unwrap(),
        region: region.parse().unwrap(),
        role,
        boot: BootId::new(),
        quiet: domicile_model::Revision(0),
        peer: "127.0.0.1:1".parse().unwrap(),
    };
    store.commit(Txn::in_world(&world).put(Key::Witness(state.id.clone()), &state)).await.unwrap();
}

fn ids(view: &Value) -> Vec<&str> {
    view["members"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn others_are_wanted_once_with_a_reason_and_the_wish_can_be_taken_back() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    let early = json!({ "reason": "new machines" });
    assert_eq!(plane.post(PATH, &early).await.0, 400, "it has none yet");
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    for (id, region, role) in [
        ("gate-us-east-1", "us-east-1", Role::Gate),
        ("gate-us-west-2", "us-west-2", Role::Gate),
        ("edge-e", "eu-west-1", Role::Edge),
    ] {
        witness(&store, id, region, role).await;
    }
    eventually(Duration::from_secs(20), "witnesses are named", || async {
        ids(&plane.get(PATH).await.1).len() == 3
    })
    .await
    .unwrap();
    let (status, view) = plane.get(PATH).await;
    assert_eq!((status, ids(&view)), (200, vec!["edge-e", "gate-us-east-1", "gate-us-west-2"]));
    let alive: Vec<bool> =
        view["members"].as_array().unwrap().iter().map(|m| m["alive"].as_bool().unwrap()).collect();
    assert_eq!((alive, &view["pending"]), (vec![false, true, true], &Value::Null), "{view}");
    assert_eq!((&view["needed_for_proof"], &view["needed_quiet"]), (&json!(2), &json!(2)));

    assert_eq!(plane.post(PATH, &json!({ "reason": " " })).await.0, 400);
    let wanted = json!({ "reason": "new machines", "without": ["edge-e"] });
    let mut dry = wanted.clone();
    dry["dry_run"] = json!(true);
    let (status, shown) = plane.post(PATH, &dry).await;
    assert_eq!((status, &shown["pending"]), (200, &Value::Null), "{shown}");
    let (status, view) = plane.post(PATH, &wanted).await;
    assert_eq!((status, &view["pending"]["by"]), (200, &json!("ann")), "{view}");
    let (_, again) = plane.post(PATH, &wanted).await;
    assert_eq!(again["pending"], view["pending"], "a repeat changes nothing");
    assert_eq!(plane.get(PATH).await.1["pending"]["without"], json!(["edge-e"]));
    assert_eq!(audited_by(&store, "ann", "renew-witnesses").await, 1);
    let (status, kept) = plane.send(Method::DELETE, PATH, None, Some(TOKEN), &[]).await;
    assert_eq!((status, &kept["pending"]), (200, &Value::Null));
    assert_eq!(audited_by(&store, "ann", "keep-witnesses").await, 1);
    assert_eq!(plane.get("/v1/cells/none/witnesses").await.0, 404);
}

#[tokio::test]
async fn nobody_is_declared_destroyed_to_a_move_that_waits_for_nobody() {
    let store = registry();
    let special = crate::common::Special { obstinate: true, ..Default::default() };
    let plane = Plane::start_with("a", store.clone(), special).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let wanted = json!({ "cell": "pool", "to": "us-west-2" });
    plane.plannable(&wanted).await;
    let (_, started) = plane.post("/v1/moves", &wanted).await;
    let path = format!("/v1/moves/{}", started["id"].as_str().unwrap());
    eventually(Duration::from_secs(60), "the move is stuck", || async {
        plane.get(&path).await.1["status"]["is"] == "stuck"
    })
    .await
    .unwrap();
    let retry = format!("{path}/retry");
    for (said, status) in [
        (json!({ "destroyed": ["edge-e"] }), 400),
        (json!({ "destroyed": ["edge-e"], "reason": "fire", "accept_loss": 3 }), 400),
        (json!({ "destroyed": ["edge-e"], "reason": "fire" }), 409),
    ] {
        let (found, body) = plane.post(&retry, &said).await;
        assert_eq!(found, status, "{body}");
        if status == 409 {
            assert!(problem(&body).detail.contains("does not wait for witnesses"), "{body}");
        }
    }
    assert!(store.list("barred/").await.unwrap().entries.is_empty());
    assert_eq!(audited_by(&store, "ann", "strike-out-witnesses").await, 0);
}
