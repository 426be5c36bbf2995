//! The registry comes back as a new world: nothing is served in it before it is reconciled, and then by itself.

use domicile_chaos_kit::wait::eventually;
use domicile_model::{Epoch, Placement, World, WorldId};
use domicile_store::codec::encode;
use domicile_store::right::first_right;
use domicile_store::{Commit, Key, Precondition, Store, Txn};

use crate::kit::{Fleet, HOST, QUICK, Router, SOON, cell, client, region, until_status};

async fn commit(fleet: &Fleet, txn: Txn) {
    assert!(matches!(fleet.store.commit(txn).await.unwrap(), Commit::Done(_)));
}

/// What the router knows, by the question that a restore asks.
async fn known(router: &Router, peer: std::net::SocketAddr) -> serde_json::Value {
    let url = format!("http://{peer}/v1/placements");
    assert_eq!(client().get(&url).send().await.unwrap().status(), 401, "{}", router.url("/"));
    client().get(&url).bearer_auth("s3cret").send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_gate_serves_nothing_in_a_new_world_until_it_is_reconciled() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    let _other = fleet.gate("us-west-2").await;
    let _edge = fleet.edge().await;
    until_status(&gate, "/", 200).await;
    fleet.witnesses_known().await;
    let peer = fleet.witness_state("gate-us-east-1").await.unwrap().peer;
    let said = known(&gate, peer).await;
    assert_eq!(said["id"], "gate-us-east-1");
    assert_eq!(said["placements"][0]["epoch"], 1);
    assert_eq!(said["vouches_in"], serde_json::json!(fleet.world.id));

    // As a restore begins: another world, not reconciled, and no placement.
    let (old, _) = fleet.placement().await;
    let world = World { id: WorldId::new(), reconciled: false, constants: QUICK };
    let txn = Txn::bare().when(Precondition::Holds(Key::World, encode(&fleet.world)));
    commit(&fleet, txn.put(Key::World, &world).delete(Key::Placement(cell()))).await;
    eventually(SOON, "it admits nothing", || async { gate.get(HOST, "/").await.unwrap().status() != 200 })
        .await
        .unwrap();

    // The placement comes back under a higher epoch, the witnesses know it and would be enough; but nobody vouches yet.
    let new = Placement { epoch: Epoch(old.epoch.0 + (1 << 20)), ..old.clone() };
    commit(&fleet, first_right(Txn::in_world(&world), &new).unwrap()).await;
    for id in ["gate-us-east-1", "gate-us-west-2", "edge"] {
        let peer = fleet.witness_state(id).await.unwrap().peer;
        eventually(SOON, "it knows the new epoch in the new world", || async {
            let said = known(&gate, peer).await;
            said["vouches_in"] == serde_json::json!(world.id) && said["placements"][0]["epoch"] == new.epoch.0
        })
        .await
        .unwrap();
    }
    let ask = serde_json::json!({"world": world.id, "region": region("us-east-1"),
        "asks": [{"cell": cell(), "epoch": new.epoch}]});
    let vouch = || async {
        let url = format!("http://{peer}/v1/witness");
        let answer = client().post(url).bearer_auth("s3cret").json(&ask).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["answers"][0]["yes"] == true
    };
    assert!(!vouch().await);
    assert_ne!(gate.get(HOST, "/").await.unwrap().status(), 200);

    let reconciled = World { reconciled: true, ..world.clone() };
    commit(&fleet, Txn::in_world(&world).put(Key::World, &reconciled)).await;
    until_status(&gate, "/", 200).await;
    eventually(SOON, "it vouches again", vouch).await.unwrap();

    // A copy of the old registry would turn the epoch back: the gate does not follow.
    let copy = Txn::bare().put(Key::World, &fleet.world).put(Key::Placement(cell()), &old);
    commit(&fleet, copy).await;
    eventually(SOON, "it admits nothing", || async { gate.get(HOST, "/").await.unwrap().status() != 200 })
        .await
        .unwrap();
    assert_eq!(known(&gate, peer).await["placements"][0]["epoch"], new.epoch.0);
}
