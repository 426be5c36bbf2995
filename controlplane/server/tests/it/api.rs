//! The HTTP API on the in-process store: who may call, who answers, and what is said when things go wrong.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_store::world::read_world;
use domicile_store::{Key, Store};
use reqwest::Method;
use serde_json::json;

use crate::common::{FLEET, Plane, TOKEN, gates, problem, registry};

#[tokio::test]
async fn without_a_known_token_nothing_is_told() {
    let plane = Plane::start("a", registry()).await;
    for token in [None, Some("wrong"), Some("")] {
        for (method, path) in
            [(Method::GET, "/v1/status"), (Method::POST, "/v1/apply"), (Method::POST, "/v1/moves")]
        {
            let (status, body) = plane.send(method, path, None, token, &[]).await;
            let said = problem(&body);
            assert_eq!((status, said.status), (401, 401), "{path} {token:?}");
            assert!(said.detail.contains("token") && said.hint.is_some(), "{said}");
            assert!(!body.to_string().contains("wrong"), "the token came back");
        }
    }
    for path in ["/livez", "/readyz", "/metrics", "/v1/openapi.json"] {
        let (status, _) = plane.send(Method::GET, path, None, None, &[]).await;
        assert_eq!(status, 200, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_gets_a_sentence() {
    let plane = Plane::start("a", registry()).await;
    plane.led().await;
    for (path, word) in [
        ("/v1/cells/nowhere", "cell `nowhere`"),
        ("/v1/tenants/nobody", "tenant `nobody`"),
        ("/v1/tenants/nobody/route", "tenant `nobody`"),
        ("/v1/moves/not-an-id", "move `not-an-id`"),
        ("/v1/moves/00000000-0000-0000-0000-000000000007", "move"),
        ("/v2", "path"),
    ] {
        let (status, body) = plane.get(path).await;
        assert_eq!(status, 404, "{path}");
        assert!(problem(&body).detail.contains(word), "{body}");
    }
    let (status, body) = plane.send(Method::DELETE, "/v1/status", None, Some(TOKEN), &[]).await;
    assert_eq!((status, problem(&body).status), (405, 405));
    let (status, body) = plane.post("/v1/moves/plan", &json!({ "cell": "No Cell", "to": "x" })).await;
    assert_eq!(status, 400);
    assert!(problem(&body).detail.contains("is not a cell id"), "{body}");
    let (status, _) = plane.post("/v1/moves/plan", &json!({ "cell": "x".repeat(100_000), "to": "x" })).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_follower_answers_reads_and_passes_changes_on_in_the_operators_name() {
    let store = registry();
    let first = Plane::start("a", store.clone()).await;
    assert_eq!(first.led().await, "a");
    let second = Plane::start("b", store.clone()).await;
    assert_eq!(second.led().await, "a");

    let (status, body) = second.apply(FLEET).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["applied"], true);
    for plane in [&first, &second] {
        let (_, cell) = plane.get("/v1/cells/pool").await;
        assert_eq!(cell["holder"], "us-east-1");
        assert_eq!(cell["tenants"], json!(["clinic", "mercy"]));
        let (_, route) = plane.get("/v1/tenants/mercy/route").await;
        assert_eq!(route["ingress"], json!(["10.0.1.10:8443"]));
        assert!(route["why"].to_string().contains("allows us-east-1 (US)"), "{route}");
    }
    let audit = store.list("audit/").await.unwrap().entries;
    let audit = audit.into_iter().map(|e| String::from_utf8(e.value).unwrap());
    let applied: Vec<String> = audit.filter(|entry| entry.contains("\"apply\"")).collect();
    let [entry] = applied.as_slice() else { panic!("{applied:?}") };
    assert!(entry.contains("\"by\":\"ann\"") && entry.contains("\"server\":\"a\""), "{entry}");

    // A wrong token is not passed on, and a change that was passed on once is not passed on again.
    let (status, _) = second.send(Method::POST, "/v1/apply", Some(&json!({})), Some("wrong"), &[]).await;
    assert_eq!(status, 401);
    let (status, body) = second
        .send(Method::POST, "/v1/apply", Some(&json!({})), Some(TOKEN), &[("domicile-forwarded-by", "x")])
        .await;
    assert_eq!((status, problem(&body).kind.ends_with("no-leader")), (503, true), "{body}");
}

#[tokio::test]
async fn a_dead_leader_is_replaced_and_a_resigned_one_at_once() {
    let store = registry();
    let first = Plane::start("a", store.clone()).await;
    assert_eq!(first.led().await, "a");
    let second = Plane::start("b", store.clone()).await;
    first.kill();
    // Its lease still stands: changes are refused with a sentence, reads go on.
    let (status, body) = second.apply(FLEET).await;
    assert_eq!(status, 503, "{body}");
    assert!(problem(&body).detail.contains("control plane a leads but can't be reached"), "{body}");
    eventually(Duration::from_secs(15), "b leads", || async {
        second.leader().await.as_deref() == Some("b")
    })
    .await
    .unwrap();
    eventually(Duration::from_secs(5), "b applies", || async { second.apply(FLEET).await.0 == 200 })
        .await
        .unwrap();

    second.stop().await;
    let (_, left) = store.read(&[Key::Leader]).await.unwrap();
    assert_eq!(left, [None], "a stopped leader resigns");
}

#[tokio::test]
async fn without_the_registry_reads_show_the_last_look_with_its_age_and_changes_are_refused() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    assert_eq!(plane.get("/v1/cells").await.0, 200);
    store.outage(true);
    domicile_model::clock::pause(Duration::from_millis(60)).await;
    let (status, body) = plane.get("/v1/status").await;
    assert_eq!(status, 200);
    assert!(body["age_ms"].as_u64().unwrap() >= 50, "{}", body["age_ms"]);
    assert_eq!(body["leader"], json!(null), "not known is not the last one");
    assert_eq!(body["cells"][0]["id"], "pool");
    let (status, body) = plane.apply(FLEET).await;
    assert_eq!(status, 503);
    assert!(problem(&body).hint.unwrap().contains("etcd"), "{body}");
    store.outage(false);
    eventually(Duration::from_secs(15), "it leads again", || async { plane.apply(FLEET).await.0 == 200 })
        .await
        .unwrap();
}

#[tokio::test]
async fn one_report_names_all_mistakes_of_a_file_and_nothing_is_written() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    let keys = || async { store.list("").await.unwrap().entries.len() };
    let before = keys().await;
    let (status, body) =
        plane.apply("[regions]\nx = { contry = \"US\" }\n[tenants.t]\nprimary = \"y\"\ndr = \"y\"\n").await;
    assert_eq!(status, 422);
    let said = problem(&body);
    assert!(said.mistakes.len() >= 3, "{said:?}");
    assert!(said.mistakes.iter().all(|m| !m.hint.is_empty()));
    assert_eq!(keys().await, before);
}

#[tokio::test]
async fn two_applies_at_once_give_one_of_the_two_fleets() {
    let store = registry();
    let first = Plane::start("a", store.clone()).await;
    let second = Plane::start("b", store.clone()).await;
    first.led().await;
    let other = FLEET.replace("[\"mercy.example.com\"]", "[\"mercy.example.org\", \"b.example.org\"]");
    let (one, two) = tokio::join!(first.apply(FLEET), second.apply(&other));
    assert_eq!((one.0, two.0), (200, 200), "{} {}", one.1, two.1);
    let claims: Vec<String> =
        store.list("hosts/").await.unwrap().entries.iter().map(|e| e.key.to_string()).collect();
    let (_, tenant) = first.get("/v1/tenants/mercy").await;
    let hosts: Vec<String> = tenant["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| format!("hosts/{}", h.as_str().unwrap()))
        .collect();
    assert_eq!(claims, hosts, "claims and tenant say the same");
}

#[tokio::test]
async fn a_repeated_key_finds_the_move_that_it_started() {
    let store = registry();
    let first = Plane::start("a", store.clone()).await;
    first.led().await;
    let second = Plane::start("b", store.clone()).await;
    assert_eq!(first.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let wanted = json!({ "cell": "pool", "to": "us-west-2", "reason": "drill" });
    first.plannable(&wanted).await;
    let key = [("idempotency-key", "night-shift-1")];
    let (status, started) = first.send(Method::POST, "/v1/moves", Some(&wanted), Some(TOKEN), &key).await;
    assert_eq!(status, 202, "{started}");
    assert_eq!(started["by"], "ann");
    // Also through the follower, and whatever has become of the move meanwhile.
    let (status, again) = second.send(Method::POST, "/v1/moves", Some(&wanted), Some(TOKEN), &key).await;
    assert_eq!((status, &again["id"]), (202, &started["id"]), "{again}");
    let (_, all) = first.get("/v1/moves").await;
    assert_eq!(all.as_array().unwrap().len(), 1);
    let other = json!({ "cell": "pool", "to": "us-east-1" });
    let (status, body) = first.send(Method::POST, "/v1/moves", Some(&other), Some(TOKEN), &key).await;
    assert_eq!(status, 422, "{body}");
    let audit = store.list("audit/").await.unwrap().entries;
    let starts = audit.iter().filter(|e| String::from_utf8_lossy(&e.value).contains("start-move")).count();
    assert_eq!(starts, 1, "who started it stands in the audit log, once");

    // The databases refuse every effect: the move turns back, and the stream of events says so and ends.
    let id = started["id"].as_str().unwrap();
    let (status, stream) =
        tokio::time::timeout(Duration::from_secs(60), second.get(&format!("/v1/moves/{id}/events")))
            .await
            .unwrap();
    assert_eq!(status, 200);
    let stream = stream.as_str().unwrap().to_owned();
    let last = stream.lines().filter_map(|l| l.strip_prefix("data: ")).next_back().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["status"]["is"], "rolled-back", "{last}");
}

#[tokio::test]
async fn a_blocked_move_says_every_reason() {
    let plane = Plane::start("a", registry()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    let (status, body) = plane.post("/v1/moves", &json!({ "cell": "pool", "to": "us-west-2" })).await;
    assert_eq!(status, 409);
    let said = problem(&body);
    assert!(said.mistakes.iter().any(|m| m.what == "gates"), "{said:?}");
    let (status, body) = plane.post("/v1/moves", &json!({ "cell": "nowhere", "to": "us-west-2" })).await;
    assert_eq!(status, 404, "{body}");
}
