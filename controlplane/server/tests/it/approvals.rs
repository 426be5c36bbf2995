//! Moves that wait for people, through the API: who may say what, and what it leaves behind.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_store::world::read_world;
use reqwest::Method;
use serde_json::{Value, json};

use crate::brakes::audited_by;
use crate::common::{FLEET, Plane, Special, gates, operator, problem, registry, with_roles};

const SOON: Duration = Duration::from_secs(10);

async fn post(plane: &Plane, token: &str, path: &str, body: &Value) -> (u16, Value) {
    plane.send(Method::POST, path, Some(body), Some(token), &[]).await
}

#[tokio::test]
async fn a_move_waits_for_the_people_that_the_policy_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let people = [
        operator("ann", "a"),
        with_roles("bob", "b", "approver"),
        with_roles("eve", "e", "operator,approver"),
        with_roles("joe", "j", "viewer"),
    ];
    std::fs::write(&file, people.concat()).unwrap();
    let store = registry();
    let special = || Special { tokens: Some(file.clone()), ..Special::default() };
    let leader = Plane::start_with("a", store.clone(), special()).await;
    eventually(SOON, "a leads", async || {
        leader.send(Method::GET, "/v1/status", None, Some("a"), &[]).await.1["leader"] == "a"
    })
    .await
    .unwrap();
    let plane = Plane::start_with("b", store.clone(), special()).await;
    let policy = format!("{FLEET}\n[approvals]\nswitchover = \"two\"\n");
    let apply = json!({ "file": "regions.toml", "text": policy });
    // Looking is all that joe may do, and approving is no changing. The follower passes it on; the leader decides.
    for token in ["j", "b"] {
        let (status, body) = post(&plane, token, "/v1/apply", &apply).await;
        assert_eq!((status, &*problem(&body).title), (403, "Not allowed"), "{body}");
        assert!(problem(&body).detail.contains("role `operator`"), "{body}");
        assert_eq!(plane.send(Method::GET, "/v1/cells", None, Some(token), &[]).await.0, 200);
    }
    assert_eq!(post(&plane, "a", "/v1/apply", &apply).await.0, 200);
    let (status, body) =
        post(&plane, "a", "/v1/apply", &json!({ "file": "f", "text": FLEET, "prune": true })).await;
    assert_eq!(status, 403, "who may not weaken the policy can't pass over it: {body}");
    let dry = json!({ "file": "f", "text": FLEET, "prune": true, "dry_run": true });
    let (status, report) = post(&plane, "a", "/v1/apply", &dry).await;
    let refused = |c: &Value| c["action"] == "refuse" && c["what"] == "approvals";
    assert!(status == 200 && report["changes"].as_array().unwrap().iter().any(refused), "{report}");
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;

    let wanted = json!({ "cell": "pool", "to": "us-west-2", "reason": "patch day" });
    let started = async || {
        let (status, body) = post(&plane, "e", "/v1/moves", &wanted).await;
        (status == 202).then_some(body)
    };
    let view = eventually(SOON, "the move starts", started).await.unwrap();
    let id = view["id"].as_str().unwrap();
    assert_eq!((&view["step"], &view["approval"]["need"]), (&json!("approve"), &json!("two")), "{view}");
    let hash = view["approval"]["hash"].as_str().unwrap();
    let (_, status) = plane.send(Method::GET, "/v1/status", None, Some("j"), &[]).await;
    assert_eq!(status["waiting"][0]["move"], view["id"], "{status}");
    // A change of the fleet is the signal to count.
    assert_eq!(post(&plane, "a", "/v1/apply", &apply).await.0, 200);
    let counted = async || {
        let (_, text) = leader.send(Method::GET, "/metrics", None, Some("a"), &[]).await;
        text.to_string().contains("domicile_control_approvals_waiting 1")
    };
    eventually(SOON, "what waits is counted", counted).await.unwrap();
    let (approve, reject) = (format!("/v1/moves/{id}/approve"), format!("/v1/moves/{id}/reject"));
    let yes = json!({ "hash": hash, "reason": "looked at the lag" });
    let (status, body) = post(&plane, "a", &approve, &yes).await;
    assert!(status == 403 && problem(&body).detail.contains("role `approver`"), "{body}");
    let (status, body) = post(&plane, "e", &approve, &yes).await;
    assert!(status == 403 && problem(&body).kind.ends_with("not-yours"), "eve asked for it: {body}");
    assert_eq!(post(&plane, "b", &approve, &json!({ "hash": "abc" })).await.0, 400);
    assert_eq!(post(&plane, "b", &approve, &json!({ "hash": "0".repeat(64) })).await.0, 409);
    for _ in 0..2 {
        let (status, body) = post(&plane, "b", &approve, &yes).await;
        assert_eq!((status, &body["approval"]["given"][0]["by"]), (200, &json!("bob")), "{body}");
        assert_eq!(body["approval"]["given"].as_array().unwrap().len(), 1);
    }
    assert_eq!(audited_by(&store, "bob", "approve-move").await, 1, "a repeat changes nothing");
    assert_eq!(post(&plane, "b", &reject, &json!({ "reason": "" })).await.0, 400);
    let (status, body) = post(&plane, "b", &reject, &json!({ "reason": "the vendor is on the phone" })).await;
    assert_eq!(status, 200, "{body}");
    let over = async || {
        let (_, view) = plane.send(Method::GET, &format!("/v1/moves/{id}"), None, Some("a"), &[]).await;
        (view["status"]["is"] == "rolled-back").then_some(view)
    };
    let view = eventually(SOON, "the move is over", over).await.unwrap();
    assert_eq!(view["status"]["why"], "rejected by bob: the vendor is on the phone");
    assert_eq!(audited_by(&store, "bob", "reject-move").await, 1);
    let (_, status) = plane.send(Method::GET, "/v1/status", None, Some("j"), &[]).await;
    assert_eq!(status["waiting"], json!([]), "{status}");
}
