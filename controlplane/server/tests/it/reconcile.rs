//! What a control plane finds beside the moves, and the little that it mends by itself.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_model::{CellId, ClosedCell, Epoch, MoveId, Placement};
use domicile_store::codec::decode;
use domicile_store::memory::MemoryStore;
use domicile_store::{Key, Store, Txn};
use serde_json::json;

use crate::brakes::audited_by;
use crate::common::{FLEET, Plane, registry};

const SOON: Duration = Duration::from_secs(20);

async fn has(store: &MemoryStore, key: Key) -> bool {
    store.read(&[key]).await.unwrap().1.pop().flatten().is_some()
}

#[tokio::test]
async fn what_differs_is_found_and_only_what_nobody_has_to_decide_is_mended() {
    let store = registry();
    let plane = Plane::start("a", store.clone()).await;
    plane.led().await;
    assert_eq!(plane.apply(FLEET).await.0, 200);
    let pool = CellId::new("pool").unwrap();
    let gone = CellId::new("gone").unwrap();
    let left = |cell: &CellId| ClosedCell {
        cell: cell.clone(),
        moving: MoveId::new(),
        by: "ann".into(),
        reason: "before the restore".into(),
        at: jiff::Timestamp::now(),
        region: "us-east-1".parse().unwrap(),
        epoch: Epoch(1),
        stopped: None,
    };
    // Left over from a restore: the placements say otherwise. And a standby that nothing names.
    let at = Key::Placement(pool.clone());
    let (_, mut entries) = store.read(std::slice::from_ref(&at)).await.unwrap();
    let placed: Placement = decode(&entries.remove(0).unwrap().value).unwrap();
    let txn = Txn::bare()
        .put(Key::Closed(pool.clone()), &left(&pool))
        .put(Key::Closed(gone.clone()), &left(&gone))
        .put(at.clone(), &Placement { standby: None, ..placed.clone() });
    store.commit(txn).await.unwrap();
    // An apply is the signal.
    assert_eq!(plane.apply(FLEET).await.0, 200);
    let mended = async || {
        !has(&store, Key::Closed(pool.clone())).await && !has(&store, Key::Closed(gone.clone())).await
    };
    eventually(SOON, "what was left over is gone", mended).await.unwrap();
    assert_eq!(audited_by(&store, "control plane", "mend").await, 2);
    let found = async || {
        let (_, status) = plane.get("/v1/status").await;
        let kinds: Vec<String> = status["findings"]
            .as_array()?
            .iter()
            .map(|f| f["kind"].as_str().unwrap_or_default().to_owned())
            .collect();
        (kinds == ["orphaned-standby", "unprotected"]).then_some(())
    };
    eventually(SOON, "the orphan is found", found).await.unwrap();
    let counted = async || {
        let (_, text) = plane.get("/metrics").await;
        text.to_string().contains("domicile_control_findings{kind=\\\"unprotected\\\"} 1")
    };
    eventually(SOON, "the finding is counted", counted).await.unwrap();
    // Nobody decides for a person: the standby stays unnamed until one says so.
    let (_, cell) = plane.get("/v1/cells/pool").await;
    assert_eq!(cell["standby"], json!(null));
    // A cell that is closed keeps its record.
    assert_eq!(plane.post("/v1/cells/pool/close", &json!({ "reason": "r" })).await.0, 202);
    let shut = async || plane.get("/v1/cells/pool").await.1["closed"]["reason"] == "r";
    eventually(SOON, "the cell is closed", shut).await.unwrap();
    assert_eq!(plane.apply(&format!("{FLEET}\n")).await.0, 200);
    let counted =
        async || plane.get("/metrics").await.1.to_string().contains("domicile_control_cells_closed 1");
    eventually(SOON, "the closed cell is counted", counted).await.unwrap();
    assert!(has(&store, Key::Closed(pool)).await);
}
