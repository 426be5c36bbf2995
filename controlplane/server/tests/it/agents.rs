//! By which keys the word of agents is believed: the first one seen, then what a person says.

use std::sync::Arc;
use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_model::{AgentKey, SigningKey};
use domicile_store::memory::MemoryStore;
use domicile_store::{Key, Store, Txn, codec};
use serde_json::{Value, json};

use crate::common::{FLEET, Plane, problem, registry, shown_key};

fn key() -> Key {
    Key::Agent("pool".parse().unwrap(), "us-west-2".parse().unwrap())
}

async fn trusted(store: &MemoryStore) -> Option<AgentKey> {
    let (_, found) = store.read(&[key()]).await.unwrap();
    found.into_iter().next().flatten().map(|entry| codec::decode(&entry.value).unwrap())
}

async fn audited(store: &MemoryStore) -> Vec<Value> {
    let entries = store.list("audit/").await.unwrap().entries;
    let entries = entries.iter().map(|e| serde_json::from_slice::<Value>(&e.value).unwrap()["data"].clone());
    entries.filter(|entry| entry["action"] == "trust-agent").collect()
}

async fn started() -> (Plane, Arc<MemoryStore>) {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    eventually(Duration::from_secs(20), "the first key is trusted", || trusted(&store)).await.unwrap();
    (plane, store)
}

#[tokio::test]
async fn the_first_key_of_an_agent_is_trusted_and_shown_and_no_other_one_by_itself() {
    let (plane, store) = started().await;
    let first = trusted(&store).await.unwrap();
    assert_eq!((&first.key, &first.by), (&shown_key(), &None));
    eventually(Duration::from_secs(10), "both agents are shown", || async {
        let (_, cell) = plane.get("/v1/cells/pool").await;
        let agents = cell["agents"].as_array().cloned().unwrap_or_default();
        agents.len() == 2
            && agents.iter().all(|a| a["trusted"] == shown_key().id.as_str() && a["shown"] == a["trusted"])
    })
    .await
    .unwrap();
    assert_eq!(audited(&store).await.len(), 2, "once for each agent");

    // Another key stands there, as if the agent had been set up anew: what it shows is not taken over.
    let other = AgentKey { key: SigningKey { id: "1".repeat(64), public: "2".repeat(64) }, ..first };
    store.commit(Txn::bare().put(key(), &other)).await.unwrap();
    eventually(Duration::from_secs(10), "the two differ", || async {
        let (_, cell) = plane.get("/v1/cells/pool").await;
        cell["agents"].as_array().is_some_and(|agents| agents.iter().any(|a| a["shown"] != a["trusted"]))
    })
    .await
    .unwrap();
    // Several rounds of the reconciler.
    domicile_model::clock::pause(Duration::from_secs(3)).await;
    assert_eq!(trusted(&store).await, Some(other));
}

#[tokio::test]
async fn a_person_trusts_the_key_that_the_agent_shows_and_no_other() {
    let (plane, store) = started().await;
    let old = AgentKey {
        key: SigningKey { id: "1".repeat(64), public: "2".repeat(64) },
        ..trusted(&store).await.unwrap()
    };
    store.commit(Txn::bare().put(key(), &old)).await.unwrap();
    let ask = async |cell: &str, region: &str, id: &str| {
        let body = json!({ "region": region, "key": id, "reason": "its disk was replaced" });
        plane.post(&format!("/v1/cells/{cell}/trust-agent"), &body).await
    };
    let shown = shown_key();
    let (status, body) = ask("pool", "us-west-2", &"3".repeat(64)).await;
    assert_eq!(status, 409, "{body}");
    assert!(problem(&body).detail.contains(&format!("shows key {}", shown.id)), "{body}");
    let (status, body) = ask("pool", "eu-west-1", &shown.id).await;
    assert_eq!(status, 409, "{body}");
    assert!(problem(&body).detail.contains("has shown no key"), "{body}");
    assert_eq!(ask("nowhere", "us-west-2", &shown.id).await.0, 404);
    assert_eq!(trusted(&store).await, Some(old.clone()));

    let (status, body) = ask("pool", "us-west-2", &shown.id).await;
    assert_eq!(status, 200, "{body}");
    let now = trusted(&store).await.unwrap();
    assert_eq!((now.key, now.by.as_deref()), (shown.clone(), Some("ann")));
    let entry = audited(&store).await.pop().unwrap().to_string();
    for word in ["ann", "its disk was replaced", shown.id.as_str(), old.key.id.as_str(), "us-west-2"] {
        assert!(entry.contains(word), "{entry} lacks {word}");
    }
}

#[tokio::test]
async fn a_revoked_key_is_told_and_never_trusted_again() {
    let (plane, store) = started().await;
    let id = shown_key().id;
    let path = format!("/v1/keys/{id}/revoke");
    assert_eq!(plane.post(&path, &json!({ "reason": " " })).await.0, 400);
    assert_eq!(plane.post("/v1/keys/ab/revoke", &json!({ "reason": "leaked" })).await.0, 404);
    for why in ["leaked", "again"] {
        let (status, keys) = plane.post(&path, &json!({ "reason": why })).await;
        assert_eq!((status, &keys[0]["revoked"]["reason"]), (200, &json!("leaked")), "{keys}");
        assert_eq!((&keys[0]["cell"], &keys[0]["trusted"]), (&json!("pool"), &json!(true)), "{keys}");
    }
    assert_eq!(crate::brakes::audited_by(&store, "ann", "revoke-key").await, 1);
    assert_eq!(plane.get("/v1/keys").await.1[0]["revoked"]["by"], "ann");
    let trust = json!({ "region": "us-west-2", "key": id, "reason": "by mistake" });
    let (status, body) = plane.post("/v1/cells/pool/trust-agent", &trust).await;
    assert_eq!(status, 409, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("was revoked"), "{body}");
    // Without a record the reconciler trusts the first key that it sees; not this one.
    store.commit(domicile_store::Txn::bare().delete(key())).await.unwrap();
    let waited = eventually(Duration::from_secs(3), "it is trusted", || trusted(&store)).await;
    assert!(waited.is_err(), "{waited:?}");
}
