//! Holds, proofs and misdirection at edges and gates of an etcd fleet.

use domicile_chaos_kit::wait::eventually;

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
async fn running_out_of_time_releases_nothing() {
    let fleet = Fleet::new().await;
    let _gate = fleet.gate("us-east-1").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let hits = fleet.east.hits();
    let revision = fleet.hold(400).await;
    fleet.acknowledged(&["edge"], revision).await;
    let answer = edge.get(HOST, "/").await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(answer.text().await.unwrap().contains("problems/hold-timeout"));
    assert_eq!(fleet.east.hits(), hits);
    fleet.serve("us-east-1").await;
    until_status(&edge, "/", 200).await;
}

#[tokio::test]
async fn an_edge_whose_watch_is_cut_follows_the_421() {
    let fleet = Fleet::new().await;
    let _east = fleet.gate("us-east-1").await;
    let _west = fleet.gate("us-west-2").await;
    // The edge sees etcd through a link of its own, the gates through the cluster's.
    let link = domicile_chaos_kit::link::Link::start(fleet.etcd.members()[0].direct()).await.unwrap();
    let mut args = fleet.args("edge", "edge", "eu-west-1");
    let at = args.iter().position(|a| a == "--registry").unwrap();
    args[at + 1] = format!("etcd://{}", link.addr());
    let edge = crate::kit::Router::start("edge", fleet.dir.path(), &args).await;
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

#[tokio::test]
async fn an_applications_own_421_is_passed_on_and_its_headers_are_not() {
    let fleet = Fleet::new().await;
    let _gate = fleet.gate("us-east-1").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let answer = edge.get(HOST, "/own-421").await.unwrap();
    assert_eq!(answer.status(), 421);
    assert!(!answer.headers().contains_key("domicile-gate"));
    assert_eq!(answer.headers()["domicile-epoch"], "1", "not the application's 99");
    assert_eq!(answer.text().await.unwrap(), "mine");
}

#[tokio::test]
async fn residency_is_refused_and_nothing_is_sent() {
    let fleet = Fleet::new().await;
    let _gate = fleet.gate("us-east-1").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    // Nobody should ever write this; if somebody does, nothing leaves.
    fleet.serve("eu-west-1").await;
    until_status(&edge, "/", 451).await;
    // From here on: until the table had it, requests still went to the old holder.
    let hits = fleet.east.hits();
    for _ in 0..5 {
        assert_eq!(edge.get(HOST, "/").await.unwrap().status(), 451);
    }
    assert_eq!(fleet.east.hits(), hits);
}
