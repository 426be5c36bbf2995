//! Holds, proofs and misdirection at edges and gates of an etcd fleet.

use domicile_chaos_kit::wait::eventually;
use domicile_router::config::Sabotage;

use crate::kit::{Fleet, HOST, SOON, client, until_status};

#[tokio::test]
async fn requests_wait_for_a_move_and_go_to_the_new_region() {
    let fleet = Fleet::new().await;
    let east = fleet.gate("us-east-1").await;
    let west = fleet.gate("us-west-2").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let hits = fleet.east.hits();
    let revision = fleet.hold(30_000).await;
    fleet.acknowledged(&["gate-us-east-1", "edge"], revision).await;
    // At the edge, and at the gate of the region that loses the cell, body and all.
    let big = vec![1u8; 2 << 20];
    let waiting: Vec<_> = [&edge, &east]
        .into_iter()
        .flat_map(|r| [b"small".to_vec(), big.clone()].map(|body| (r.url("/"), body)))
        .map(|(url, body)| tokio::spawn(client().post(url).header("host", HOST).body(body).send()))
        .collect();
    for router in [&edge, &east] {
        eventually(SOON, "two requests wait", || async {
            router.admin("/inflight").await.1.contains("\"holding\":2")
        })
        .await
        .unwrap();
    }
    assert_eq!(fleet.east.hits(), hits, "nothing reached the application");
    let revision = fleet.close(30_000).await;
    fleet.acknowledged(&["gate-us-east-1", "gate-us-west-2", "edge"], revision).await;
    fleet.serve("us-west-2").await;
    let clock = domicile_model::clock::Clock::Machine;
    let from = clock.now();
    for request in waiting {
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["domicile-region"], "us-west-2");
        assert!(answer.text().await.unwrap().starts_with("west POST"));
    }
    // Watch, release, proof of the new region, forward: milliseconds each. Two seconds are a loaded machine's.
    let took = clock.now().since(from);
    eprintln!("held requests were answered {took:?} after the switch");
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    assert_eq!(fleet.east.hits(), hits);
    assert!(west.process.is_alive());
}

#[tokio::test]
async fn an_edge_whose_watch_is_cut_follows_the_421() {
    let fleet = Fleet::new().await;
    let _east = fleet.gate("us-east-1").await;
    let _west = fleet.gate("us-west-2").await;
    // The gates see etcd through the cluster's link.
    let (edge, link) = fleet.linked_edge_as(Sabotage::None).await;
    until_status(&edge, "/", 200).await;
    link.control().stall();
    let revision = fleet.hold(20_000).await;
    fleet.acknowledged(&["gate-us-east-1"], revision).await;
    fleet.close(20_000).await;
    let revision = fleet.serve("us-west-2").await;
    fleet.acknowledged(&["gate-us-east-1", "gate-us-west-2"], revision).await;
    let hits = fleet.east.hits();
    // Small ones follow the 421, POST included; what can't be sent twice is sent on by the gate.
    for size in [0, 10, 30_000, 40_000, 5 << 20] {
        let body = vec![2u8; size];
        let answer = client().post(edge.url("/")).header("host", HOST).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{size}");
        assert_eq!(answer.headers()["domicile-epoch"], "3");
        assert_eq!(answer.text().await.unwrap(), format!("west POST {size}"));
    }
    assert_eq!(fleet.east.hits(), hits, "the old region's application saw none of it");
    let metrics = edge.admin("/metrics").await.1;
    assert!(!metrics.contains("domicile_router_follows_total 0"), "{metrics}");
}
