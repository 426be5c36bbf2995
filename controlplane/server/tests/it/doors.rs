//! What callers may take: time for a head, connections.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_server::Limits;
use domicile_store::lead::LeaderRecord;
use domicile_store::{Key, Store, Txn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Plane, Special, TOKEN, problem, registry};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_head_that_does_not_come_costs_the_connection() {
    let limits = Limits { head: Duration::from_millis(400), ..Limits::default() };
    let plane = Plane::start_with("a", registry(), Special { limits, ..Special::default() }).await;
    // Silent; half a head; a byte now and then; and one that has had its answer and stays.
    for (first, drip) in
        [("", false), ("GET /livez HTTP/1.1\r\nHost: a\r\n", false), ("GET /livez HTT", true)]
    {
        let (mut from, mut to) = TcpStream::connect(plane.address).await.unwrap().into_split();
        to.write_all(first.as_bytes()).await.unwrap();
        let dripping = tokio::spawn(async move {
            while drip && to.write_all(b"P").await.is_ok() {
                domicile_model::clock::pause(Duration::from_millis(50)).await;
            }
            to
        });
        let mut said = Vec::new();
        // However it ends: the end is what counts.
        let _ = tokio::time::timeout(SOON, from.read_to_end(&mut said)).await.expect("it is closed");
        assert!(!String::from_utf8_lossy(&said).contains("200 OK"));
        dripping.abort();
    }
    let mut kept = TcpStream::connect(plane.address).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut said = String::new();
    tokio::time::timeout(SOON, kept.read_to_string(&mut said)).await.expect("it is closed").unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    assert_eq!(plane.get("/v1/status").await.0, 200);
}

#[tokio::test]
async fn beyond_the_limit_a_connection_is_told_so_and_places_come_back() {
    let limits = Limits { connections: 3, head: Duration::from_secs(60), ..Limits::default() };
    let plane = Plane::start_with("a", registry(), Special { limits, ..Special::default() }).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut one = TcpStream::connect(plane.address).await.unwrap();
        one.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut byte = [0];
        one.read_exact(&mut byte).await.unwrap();
        idle.push(one);
    }
    let (status, body) = plane.get("/v1/status").await;
    assert_eq!(status, 503);
    let said = problem(&body);
    assert!(said.kind.ends_with("too-many-connections") && said.hint.is_some(), "{said:?}");
    idle.pop();
    eventually(SOON, "the place is free again", || async { plane.get("/v1/status").await.0 == 200 })
        .await
        .unwrap();
    // A crowd that says nothing keeps nobody out for good.
    drop(idle);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(plane.address).await.unwrap());
    }
    drop(crowd);
    eventually(SOON, "the crowd is gone", || async {
        let (status, text) = plane.get("/metrics").await;
        status == 200 && text.to_string().contains("domicile_control_connections 1")
    })
    .await
    .unwrap();
}

/// A change that takes long, here because its body does not come, is answered once nobody here may carry it out any more:
/// whoever waits for it would not ask the next leader.
#[tokio::test]
async fn a_leader_that_is_deposed_answers_what_it_has_begun() {
    let store = registry();
    let plane = Plane::start("one", store.clone()).await;
    assert_eq!(plane.led().await, "one");
    let mut raw = tokio::net::TcpStream::connect(plane.address).await.unwrap();
    let head = format!(
        "POST /v1/moves HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    store.outage(true);
    let mut said = vec![0; 4096];
    let n =
        tokio::time::timeout(Duration::from_secs(20), raw.read(&mut said)).await.expect("an answer").unwrap();
    let said = String::from_utf8_lossy(&said[..n]);
    assert!(
        said.starts_with("HTTP/1.1 504") && said.contains("lost the leadership while it did this"),
        "{said}"
    );
    store.outage(false);
    plane.stop().await;
}

/// A leader whose machine was stopped takes connections as ever. Whoever waits for it would wait until long after another
/// one leads.
#[tokio::test]
async fn a_leader_that_is_silent_is_waited_for_only_while_it_leads() {
    let store = registry();
    let stopped = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let record = LeaderRecord {
        name: "stopped".into(),
        address: stopped.local_addr().unwrap(),
        nonce: uuid::Uuid::from_u128(7),
    };
    store.commit(Txn::bare().put(Key::Leader, &record)).await.unwrap();
    let plane = Plane::start("two", store.clone()).await;
    assert_eq!(plane.led().await, "stopped");
    let body = serde_json::json!({"cell": "pool", "to": "us-west-2"});
    let asked =
        plane.send(reqwest::Method::POST, "/v1/moves", Some(&body), Some(TOKEN), &[("idempotency-key", "k")]);
    let leaves = async {
        let taken = stopped.accept().await.unwrap();
        store.commit(Txn::bare().delete(Key::Leader)).await.unwrap();
        taken
    };
    let both = async { tokio::join!(asked, leaves) };
    let ((status, said), _taken) =
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("an answer");
    assert_eq!(
        (status, said["type"].as_str().unwrap().rsplit('/').next()),
        (504, Some("leader-silent")),
        "{said}"
    );
    plane.stop().await;
}
