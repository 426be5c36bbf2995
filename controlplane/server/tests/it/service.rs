//! Cells closed and opened by a person, through the API.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_store::world::read_world;
use serde_json::{Value, json};

use crate::brakes::audited_by;
use crate::common::{FLEET, Plane, TOKEN, gates, problem, registry};

fn check<'a>(plan: &'a Value, name: &str) -> &'a str {
    let found = plan["checks"].as_array().unwrap().iter().find(|c| c["name"] == name);
    found.unwrap()["verdict"].as_str().unwrap()
}

#[tokio::test]
async fn a_cell_is_closed_at_once_and_says_who_did_it_and_why() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    assert_eq!(plane.post("/v1/cells/pool/close", &json!({ "reason": " " })).await.0, 400);
    let unknown = plane.post("/v1/cells/nowhere/close", &json!({ "reason": "r" })).await;
    assert_eq!(unknown.0, 404, "{}", unknown.1);
    let open = json!({ "reason": "all is well", "dry_run": true });
    let (status, plan) = plane.post("/v1/cells/pool/open", &open).await;
    assert_eq!((status, check(&plan, "closed")), (200, "failed"), "{plan}");
    let (status, plan) = plane.post("/v1/cells/pool/close", &json!({ "reason": "r", "dry_run": true })).await;
    assert_eq!((status, &plan["steps"]), (200, &json!(["claim", "close", "fence"])), "{plan}");
    // Also while all moves are stopped.
    assert_eq!(plane.post("/v1/stop", &json!({ "reason": "odd lag" })).await.0, 200);
    let close = json!({ "reason": "a court order" });
    let send = async || {
        let key = [("idempotency-key", "k1")];
        plane.send(reqwest::Method::POST, "/v1/cells/pool/close", Some(&close), Some(TOKEN), &key).await
    };
    let (status, view) = send().await;
    assert_eq!((status, &view["kind"]), (202, &json!("close")), "{view}");
    assert_eq!(send().await.1["id"], view["id"], "a repeat finds it");
    let shut = async || {
        let (_, cell) = plane.get("/v1/cells/pool").await;
        (cell["phase"]["is"] == "closed").then_some(cell)
    };
    let cell = eventually(Duration::from_secs(10), "the cell is closed", shut).await.unwrap();
    assert_eq!((&cell["holder"], &cell["phase"]["reason"]), (&json!(null), &json!("operator")), "{cell}");
    assert_eq!((&cell["closed"]["by"], &cell["closed"]["reason"]), (&json!("ann"), &json!("a court order")));
    assert_eq!(cell["closed"]["region"], "us-east-1");
    let (_, route) = plane.get("/v1/tenants/mercy/route").await;
    assert!(route["why"].to_string().contains("ann closed it because: a court order"), "{route}");
    // Another close, and a move, find it closed or closing.
    let (status, body) = plane.post("/v1/cells/pool/close", &close).await;
    assert!(status == 409 && problem(&body).kind.ends_with("blocked"), "{body}");
    let (_, plan) = plane.post("/v1/moves/plan", &json!({ "cell": "pool", "to": "us-west-2" })).await;
    assert_eq!(check(&plan, "no-other-move"), "failed");
    assert_eq!(audited_by(&store, "ann", "close-cell").await, 1);
}
