//! A registry that fills up: what is refused, what goes on, and what people see.

use std::time::Duration;

use crate::common::{FLEET, Plane, Special, gates, problem, registry};
use domicile_chaos_kit::wait::eventually;
use domicile_model::Revision;
use domicile_server::room::Settings;
use domicile_store::world::read_world;
use domicile_store::{Store, StoreError};
use serde_json::{Value, json};

fn check<'a>(plan: &'a Value, name: &str) -> &'a Value {
    plan["checks"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap()
}

#[tokio::test]
async fn before_the_registry_is_full_only_moves_and_the_emergency_stop_go_on() {
    const RESERVE: u64 = 2 << 20;
    let store = registry();
    let special = Special { reserve: Some(RESERVE), ..Special::default() };
    let plane = Plane::start_with("a", store.clone(), special).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let wanted = json!({ "cell": "pool", "to": "us-west-2" });
    plane.plannable(&wanted).await;
    let freeze = json!({ "until": "2099-01-01T00:00:00Z", "cells": ["pool"], "reason": "r" });
    let (status, frozen) = plane.post("/v1/freezes", &freeze).await;
    assert_eq!(status, 200, "{frozen}");

    // From one moment to the next there is less than the reserve.
    let size = store.room().await.unwrap().unwrap().size;
    store.set_quota(Some(size + RESERVE - 1));
    let told = eventually(Duration::from_secs(10), "a look that is not older shows it", || async {
        let (status, body) = plane.post("/v1/freezes", &freeze).await;
        (status != 200).then_some((status, body))
    })
    .await
    .unwrap();
    let refused = problem(&told.1);
    assert_eq!((told.0, refused.kind.rsplit('/').next()), (507, Some("registry-full")), "{refused:?}");
    assert!(refused.hint.unwrap().contains("etcdctl"));
    let before = store.revision();
    let id = frozen["id"].as_str().unwrap();
    let thaw = format!("/v1/freezes/{id}");
    assert_eq!(
        plane.send(reqwest::Method::DELETE, &thaw, None, Some(crate::common::TOKEN), &[]).await.0,
        507
    );
    assert_eq!(plane.post("/v1/cells/pool/reprotect", &json!({})).await.0, 507);
    let trust = json!({ "region": "us-east-1", "key": "k", "reason": "r" });
    assert_eq!(plane.post("/v1/cells/pool/trust-agent", &trust).await.0, 507);
    let more = format!("{FLEET}\n[tenants.late]\ncell = \"pool\"\n");
    let (status, body) = plane.apply(&more).await;
    assert_eq!((status, problem(&body).status), (507, 507), "{body}");
    assert_eq!(store.list("tenants/").await.unwrap().entries.len(), 2, "nothing was applied");
    assert!(store.revision().0 < before.0 + 50);

    let (_, plan) = plane.post("/v1/moves/plan", &wanted).await;
    assert_eq!(check(&plan, "registry-room")["verdict"], "failed", "{plan}");
    let forced = json!({ "cell": "pool", "to": "us-west-2", "force": true, "accept_loss": 9 });
    let (_, plan) = plane.post("/v1/moves/plan", &forced).await;
    assert_eq!(check(&plan, "registry-room")["verdict"], "passed", "{plan}");
    assert_eq!(plane.post("/v1/stop", &json!({ "reason": "odd" })).await.0, 200);

    let seen = eventually(Duration::from_secs(15), "status and metrics say so", || async {
        let (_, status) = plane.get("/v1/status").await;
        let registry = status["registry"].clone();
        let short = registry["left_bytes"].as_u64()? < registry["reserve_bytes"].as_u64()?;
        let (_, metrics) = plane.get("/metrics").await;
        let counted = metrics.as_str()?.contains("domicile_registry_room_refused_total 4");
        (short && counted).then_some(registry)
    })
    .await
    .unwrap();
    assert_eq!(seen["reserve_bytes"], RESERVE);
    store.set_quota(None);
    plane.stop().await;
}

#[tokio::test]
async fn the_leader_forgets_the_history_that_is_older_than_it_is_told_to_keep() {
    let store = registry();
    let room = Settings { history: Some(Duration::from_secs(1)) };
    let plane = Plane::start_with("a", store.clone(), Special { room, ..Special::default() }).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    let applied = store.revision();
    let from = Revision(2);
    eventually(Duration::from_secs(20), "the history up to the apply is gone", || async {
        matches!(store.watch(applied).await, Err(StoreError::Compacted(_))).then_some(())
    })
    .await
    .unwrap();
    assert!(matches!(store.watch(from).await, Err(StoreError::Compacted(_))));
    assert_eq!(plane.get("/v1/tenants").await.1.as_array().unwrap().len(), 2, "what is, stays");
    plane.stop().await;
}
