//! Start, doors, and the way out.

use std::time::Duration;

use domicile_chaos_kit::ports::free_address;

use crate::kit::{BIN, Fleet, HOST, Router, SOON, until_status};

#[tokio::test]
async fn mistakes_come_at_once_and_a_taken_address_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let bad = ["--role".into(), "x".into(), "--registry".into(), "ftp://a".into()];
    let router = Router::launch("bad", dir.path(), BIN, &bad, None);
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(64));
    let log = router.process.tail();
    assert!(log.contains("--role") && log.contains("--registry"), "{log}");
    let taken = std::net::TcpListener::bind(free_address().unwrap()).unwrap();
    std::fs::write(dir.path().join("r.toml"), "[regions]\n").unwrap();
    let file = format!("file:{}", dir.path().join("r.toml").display());
    let listen = taken.local_addr().unwrap().to_string();
    let args = ["--registry".into(), file, "--listen".into(), listen.clone()];
    let router = Router::launch("taken", dir.path(), BIN, &args, None);
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(1));
    assert!(router.process.tail().contains(&listen));
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_is_in_flight() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let url = gate.url("/gated");
    let request = tokio::spawn(crate::kit::client().get(url).header("host", HOST).send());
    domicile_chaos_kit::wait::eventually(SOON, "it is in flight", || async {
        gate.admin("/inflight").await.1.contains("\"in_flight\":1")
    })
    .await
    .unwrap();
    gate.process.terminate();
    domicile_chaos_kit::wait::eventually(SOON, "it is not ready any more", || async {
        gate.admin("/readyz").await.0 == 503
    })
    .await
    .unwrap();
    fleet.east.let_go();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert_eq!(gate.process.wait(SOON).await.unwrap().code(), Some(0), "{}", gate.process.tail());
    assert_eq!(fleet.router_state("gate-us-east-1").await, None, "nobody waits for one that has left");
}

#[tokio::test]
async fn the_admin_door_says_how_a_host_is_routed() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let (status, text) = gate.admin(&format!("/routes?host={HOST}")).await;
    let route: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    assert_eq!(route["decision"]["region"], "us-east-1");
    assert_eq!(route["tenant"], "mercy");
    assert!(route["proof_left_ms"].as_f64().unwrap() > 0.0, "{text}");
    assert_eq!(gate.admin("/routes?host=nobody.example.com").await.0, 404);
    assert_eq!(gate.admin("/livez").await.0, 200);
    assert!(gate.admin("/metrics").await.1.contains("domicile_router_requests_total"));
}

#[tokio::test]
async fn peers_without_the_secret_are_refused() {
    let fleet = Fleet::new().await;
    let args = fleet.args("gate", "gate-us-east-1", "us-east-1");
    let at = args.iter().position(|a| a == "--peer").unwrap();
    let url = format!("http://{}/v1/proof", args[at + 1]);
    let gate = Router::start("gate-us-east-1", fleet.dir.path(), &args).await;
    until_status(&gate, "/", 200).await;
    let ask = |secret: &str, region: &str| {
        let body = serde_json::json!({"cell": "mercy", "region": region});
        crate::kit::client().post(&url).bearer_auth(secret).json(&body).timeout(Duration::from_secs(5)).send()
    };
    assert_eq!(ask("wrong", "us-east-1").await.unwrap().status(), 401);
    assert_eq!(ask("s3cret", "us-west-2").await.unwrap().status(), 409);
    let answer = ask("s3cret", "us-east-1").await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(answer["epoch"], 1);
    assert!((1..=3_000).contains(&answer["remaining_ms"].as_u64().unwrap()), "{answer}");
}
