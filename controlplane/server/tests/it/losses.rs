//! Who is told where lost rows lie, and what the audit log keeps of it.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_store::Store;
use domicile_store::world::read_world;
use reqwest::Method;
use serde_json::{Value, json};

use crate::brakes::audited_by;
use crate::common::{FLEET, Plane, Special, TOKEN, gates, operator, problem, registry, with_roles};

#[tokio::test]
async fn only_who_may_is_told_where_rows_lie_and_the_audit_log_keeps_who_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, operator("ann", TOKEN) + &with_roles("eve", "e", "losses")).unwrap();
    let store = registry();
    let special = Special { tokens: Some(tokens), obstinate: true, ..Special::default() };
    let plane = Plane::start_with("a", store.clone(), special).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let started = || async {
        let (status, body) = plane.post("/v1/moves", &json!({ "cell": "pool", "to": "us-west-2" })).await;
        (status == 202).then(|| body["id"].as_str().unwrap().to_owned())
    };
    let id = eventually(Duration::from_secs(10), "the move starts", started).await.unwrap();

    let told = ["kept_bytes{cell=\"pool\"} 5", "limit_bytes{cell=\"pool\"} 9"];
    eventually(Duration::from_secs(10), "the slot for losses is measured", || async {
        let text = plane.get("/metrics").await.1.as_str().map(str::to_owned).unwrap_or_default();
        text.contains("domicile_cell_fence_level{cell=\"pool\"} 2")
            && told.iter().all(|line| text.contains(&format!("domicile_cell_loss_slot_{line}")))
    })
    .await
    .unwrap();
    let (_, cell) = plane.get("/v1/cells/pool").await;
    assert_eq!(cell["fence_levels"][0]["region"], "us-east-1", "{cell}");
    assert_eq!(cell["fence_levels"][0]["level"], "supervisor", "{cell}");

    let (status, list) = plane.get(&format!("/v1/moves/{id}/losses")).await;
    assert_eq!((status, &list["rows_at"]), (200, &json!("us-east-1")), "the list names no path: {list}");
    let path = format!("/v1/moves/{id}/losses/locate");
    let locate =
        async |token: &str, body: Value| plane.send(Method::POST, &path, Some(&body), Some(token), &[]).await;
    let wanted = json!({ "tenant": "clinic", "reason": "asked by its privacy officer" });
    let (status, body) = locate(TOKEN, wanted.clone()).await;
    assert_eq!(status, 403, "an operator alone may not: {body}");
    assert!(problem(&body).detail.contains("`losses`"), "{body}");
    assert_eq!(locate("e", json!({ "tenant": "clinic", "reason": " " })).await.0, 400, "why must be said");
    assert_eq!(locate("e", json!({ "tenant": "mercy", "reason": "r" })).await.0, 404, "it lost nothing");
    assert_eq!(audited_by(&store, "eve", "locate-losses").await, 0, "nothing was told");

    let (status, told) = locate("e", wanted).await;
    assert_eq!((status, &told["path"]), (200, &json!("/srv/lost/pool/1/clinic.jsonl.age")), "{told}");
    assert_eq!(audited_by(&store, "eve", "locate-losses").await, 1);
    let entries = store.list("audit/").await.unwrap().entries;
    let kept = entries.iter().map(|e| String::from_utf8_lossy(&e.value).into_owned()).collect::<String>();
    for part in ["tenant clinic", "asked by its privacy officer", &id] {
        assert!(kept.contains(part), "{part}");
    }
    assert_eq!(
        plane.send(Method::POST, "/v1/stop", Some(&json!({ "reason": "r" })), Some("e"), &[]).await.0,
        403
    );
}
