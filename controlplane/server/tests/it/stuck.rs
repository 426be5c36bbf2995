//! A move that is stuck: who answers for it, and who follows it.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_server::Limits;
use domicile_store::memory::MemoryStore;
use domicile_store::world::read_world;
use domicile_store::{Key, Store};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::common::{FLEET, Plane, Special, TOKEN, gates, operator, registry};

const SOON: Duration = Duration::from_secs(60);

/// A control plane with a move that can go neither on nor back.
async fn stuck(special: Special) -> (Arc<MemoryStore>, Plane, String) {
    let store = registry();
    let plane = Plane::start_with("a", store.clone(), Special { obstinate: true, ..special }).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let wanted = json!({ "cell": "pool", "to": "us-west-2" });
    plane.plannable(&wanted).await;
    let (status, started) = plane.post("/v1/moves", &wanted).await;
    assert_eq!(status, 202, "{started}");
    let id = started["id"].as_str().unwrap().to_owned();
    until_stuck(&plane, &id).await;
    (store, plane, id)
}

async fn until_stuck(plane: &Plane, id: &str) {
    eventually(SOON, "the move is stuck", || async {
        plane.get(&format!("/v1/moves/{id}")).await.1["status"]["is"] == "stuck"
    })
    .await
    .unwrap();
}

/// Entries of the audit log with this action: what was changed, and in which transaction.
async fn audit(store: &MemoryStore, action: &str) -> Vec<(Value, i64)> {
    let entries = store.list("audit/").await.unwrap().entries;
    let decoded = entries
        .iter()
        .map(|e| (serde_json::from_slice::<Value>(&e.value).unwrap()["data"].clone(), e.created.0));
    decoded.filter(|(entry, _)| entry["action"] == action).collect()
}

#[tokio::test]
async fn a_persons_answer_stands_in_the_audit_log_in_the_same_transaction() {
    let (store, plane, id) = stuck(Special::default()).await;
    for (verb, body) in [("retry", json!({ "accept_loss": 3 })), ("rollback", json!({}))] {
        let (status, answer) = plane.post(&format!("/v1/moves/{id}/{verb}"), &body).await;
        assert_eq!(status, 200, "{answer}");
        let found = audit(&store, &format!("{verb}-move")).await;
        let [(entry, revision)] = found.as_slice() else { panic!("{verb}: {found:?}") };
        assert_eq!((&entry["by"], &entry["server"]), (&json!("ann"), &json!("a")));
        assert!(entry["changed"][0].as_str().unwrap().contains(&id), "{entry}");
        let log = store.list(&format!("workflows/{id}/log/")).await.unwrap().entries;
        let said = log.iter().filter(|e| e.created.0 == *revision);
        let said: Vec<_> = said.map(|e| String::from_utf8_lossy(&e.value).into_owned()).collect();
        assert!(
            said.iter().any(|text| text.contains("by ann")),
            "{verb} in a transaction of its own: {said:?}"
        );
        until_stuck(&plane, &id).await;
        // What is refused was not done, and nobody did it.
        let (status, answer) = plane.post(&format!("/v1/moves/{}/{verb}", nobody()), &body).await;
        assert_eq!(status, 404, "{answer}");
        assert_eq!(audit(&store, &format!("{verb}-move")).await.len(), 1);
    }
    let consent = &audit(&store, "retry-move").await[0].0;
    assert!(consent["changed"][0].as_str().unwrap().contains("3 transactions"), "{consent}");
}

fn nobody() -> String {
    domicile_model::MoveId::new().to_string()
}

#[tokio::test]
async fn streams_of_events_are_bounded_and_end_when_another_source_is_better() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let ann = operator("ann", TOKEN);
    std::fs::write(&file, &ann).unwrap();
    let limits = Limits { streams: 1, ..Limits::default() };
    let special = Special { limits, tokens: Some(file.clone()), ..Special::default() };
    let (store, plane, id) = stuck(special).await;

    let mut first = plane.events(&id, TOKEN).await.unwrap();
    assert!(first.chunk().await.unwrap().is_some());
    let (status, body) = plane.get(&format!("/v1/moves/{id}/events")).await;
    assert_eq!(status, 503);
    assert!(body["type"].as_str().unwrap().ends_with("too-many-streams"), "{body}");
    drop(first);
    let again = || async { plane.events(&id, TOKEN).await };
    let mut second = eventually(SOON, "its place is free again", again).await.unwrap();

    // The operators change: whoever still is one comes again.
    std::fs::write(&file, format!("{ann}{}", operator("bob", "b"))).unwrap();
    ends(&mut second).await;

    // The registry is away: this control plane may be the only one that is cut off.
    let mut third = eventually(SOON, "the place is free again", again).await.unwrap();
    store.outage(true);
    ends(&mut third).await;
    let (_, read) = {
        store.outage(false);
        store.read(&[Key::Leader]).await.unwrap()
    };
    assert_eq!(read.len(), 1);
}

async fn ends(stream: &mut reqwest::Response) {
    let end = async { while stream.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    tokio::time::timeout(SOON, end).await.expect("the stream ends");
}
