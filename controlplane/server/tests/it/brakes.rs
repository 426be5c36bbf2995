//! The emergency stop, freezes and what is said to a running move, over the API.

use std::time::Duration;

use crate::common::{FLEET, Plane, TOKEN, gates, problem, registry};
use domicile_chaos_kit::wait::eventually;
use domicile_store::Store;
use domicile_store::memory::MemoryStore;
use domicile_store::world::read_world;
use reqwest::Method;
use serde_json::{Value, json};

async fn audited(store: &MemoryStore, action: &str) -> usize {
    audited_by(store, "ann", action).await
}

/// How often this person did this, by the audit log.
pub(crate) async fn audited_by(store: &MemoryStore, by: &str, action: &str) -> usize {
    let entries = store.list("audit/").await.unwrap().entries;
    let entries = entries.iter().map(|e| serde_json::from_slice::<Value>(&e.value).unwrap());
    entries.filter(|e| e["data"]["action"] == action && e["data"]["by"] == by).count()
}

fn blocks<'a>(plan: &'a Value, check: &str) -> Option<&'a str> {
    let found = plan["checks"].as_array()?.iter().find(|c| c["name"] == check)?;
    (found["verdict"] == "failed").then(|| found["why"].as_str().unwrap())
}

#[tokio::test]
async fn the_emergency_stop_is_pulled_once_and_lifted_by_anyone_who_may() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    for nothing in [json!({ "reason": " " }), json!({ "reason": "x".repeat(501) })] {
        let (status, body) = plane.post("/v1/stop", &nothing).await;
        assert_eq!(status, 400, "{body}");
        assert!(problem(&body).detail.contains("say why"), "{body}");
    }
    let (status, stop) = plane.post("/v1/stop", &json!({ "reason": "odd lag" })).await;
    assert_eq!((status, &stop["by"], &stop["reason"]), (200, &json!("ann"), &json!("odd lag")));
    let (status, again) = plane.post("/v1/stop", &json!({ "reason": "another" })).await;
    assert_eq!((status, &again), (200, &stop), "the first reason stands");
    assert_eq!(plane.get("/v1/status").await.1["stop"], stop);
    for force in [false, true] {
        let wanted = json!({ "cell": "pool", "to": "us-west-2", "force": force });
        let (_, plan) = plane.post("/v1/moves/plan", &wanted).await;
        assert!(blocks(&plan, "emergency-stop").unwrap().contains("odd lag"), "{plan}");
    }
    let (status, _) = plane.send(Method::DELETE, "/v1/stop", None, Some(TOKEN), &[]).await;
    assert_eq!(status, 200);
    assert_eq!(plane.get("/v1/status").await.1.get("stop"), None);
    assert_eq!((audited(&store, "stop-all").await, audited(&store, "allow-all").await), (1, 1));
}

#[tokio::test]
async fn a_freeze_is_seen_in_plans_until_it_is_removed() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    let past = json!({ "until": "2020-01-01T00:00:00Z", "reason": "too late" });
    assert_eq!(plane.post("/v1/freezes", &past).await.0, 400);
    let unknown = json!({ "until": "2999-01-01T00:00:00Z", "cells": ["nowhere"], "reason": "r" });
    assert_eq!(plane.post("/v1/freezes", &unknown).await.0, 404);
    let wanted = json!({ "until": "2999-01-01T00:00:00Z", "cells": ["pool"], "reason": "go-live" });
    let (status, freeze) = plane.post("/v1/freezes", &wanted).await;
    assert_eq!(status, 200, "{freeze}");
    let request = json!({ "cell": "pool", "to": "us-west-2" });
    let (_, plan) = plane.post("/v1/moves/plan", &request).await;
    assert!(blocks(&plan, "freeze").unwrap().contains("go-live"), "{plan}");
    assert_eq!(plane.get("/v1/status").await.1["freezes"], json!([freeze]));
    let path = format!("/v1/freezes/{}", freeze["id"].as_str().unwrap());
    assert_eq!(plane.send(Method::DELETE, &path, None, Some(TOKEN), &[]).await.0, 200);
    assert_eq!(plane.send(Method::DELETE, &path, None, Some(TOKEN), &[]).await.0, 404);
    let (_, plan) = plane.post("/v1/moves/plan", &request).await;
    assert_eq!(blocks(&plan, "freeze"), None);
    assert_eq!((audited(&store, "freeze").await, audited(&store, "thaw").await), (1, 1));
}

#[tokio::test]
async fn what_is_said_to_a_move_stands_in_its_log_and_in_the_audit_log() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let wanted = json!({ "cell": "pool", "to": "us-west-2" });
    let started = || async {
        let (status, body) = plane.post("/v1/moves", &wanted).await;
        (status == 202).then(|| body["id"].as_str().unwrap().to_owned())
    };
    let id = eventually(Duration::from_secs(10), "the move starts", started).await.unwrap();
    // The databases refuse every effect, so it is at its first step for a while, and turns back in the end.
    let path = |verb: &str| format!("/v1/moves/{id}/{verb}");
    let (status, body) = plane.post(&path("pause"), &json!({ "reason": "the vendor calls" })).await;
    assert_eq!((status, &body["paused"]["by"]), (200, &json!("ann")), "{body}");
    let (status, body) = plane.post(&path("skip"), &json!({ "reason": "impatient" })).await;
    assert_eq!(status, 409, "{body}");
    let (status, body) = plane.post(&path("resume"), &json!(null)).await;
    assert_eq!((status, body.get("paused")), (200, None), "{body}");
    let (status, body) = plane.post(&path("rollback"), &json!(null)).await;
    assert!(status == 200 || status == 409, "unless it has turned back by itself: {body}");
    for action in ["start-move", "pause-move", "resume-move"] {
        assert_eq!(audited(&store, action).await, 1, "{action}");
    }
    assert_eq!(audited(&store, "skip-step").await, 0, "what was refused was not done");
    let (_, view) = plane.get(&format!("/v1/moves/{id}")).await;
    let notes: Vec<&str> =
        view["log"].as_array().unwrap().iter().filter_map(|e| e["note"].as_str()).collect();
    assert!(
        notes.contains(&"pause, by ann: the vendor calls") && notes.contains(&"resume, by ann"),
        "{notes:?}"
    );
}
