//! Calls and uploads that are in flight when their cell is put on hold: what can be finished is, what can't ends in time.

use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::wait::eventually;
use domicile_model::Revision;
use domicile_model::clock::Clock;
use domicile_router::config::Sabotage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::{END_HEADERS, HEADERS, RST_STREAM, block, frame, preface, request};
use crate::kit::{Fleet, HOST, SOON, until_status};
use crate::streams::{Client, Stage};

impl Stage {
    /// Waits until the losing region's gate has heard of a hold, with a request in flight.
    async fn heard_and_busy(&self, held: Revision) {
        let heard = || async {
            let edge = self.fleet.router_state("edge").await.is_some_and(|state| state.applied >= held);
            edge && self.fleet.router_state("gate-us-east-1").await.is_some_and(|state| state.applied >= held)
        };
        eventually(SOON, "all have heard of the hold", heard).await.unwrap();
        let state = self.fleet.router_state("gate-us-east-1").await.unwrap();
        assert_eq!(state.busy.len(), 1, "it is in flight still: {state:?}");
    }
}

/// A unary call that waits in the application: for a lock of etcd that somebody else has.
async fn a_call_that_waits() -> (EtcdCluster, Stage, Client) {
    let etcd = EtcdCluster::start(1).await.unwrap();
    let app = etcd.members()[0].direct();
    let s = Stage::of(Fleet::with(app, app).await, Sabotage::None).await;
    let mut call = Client::script_with("grpc_lock.py", s.edge.listen, &app.to_string());
    call.says("asked").await;
    let gate = &s.gates[0];
    let there =
        || async { gate.admin("/metrics").await.1.contains(r#"domicile_router_streams{kind="grpc"} 1"#) };
    eventually(SOON, "it has passed the gate", there).await.unwrap();
    (etcd, s, call)
}

#[tokio::test]
async fn a_call_that_is_answered_within_the_hold_gets_its_answer() {
    let (_etcd, s, mut call) = a_call_that_waits().await;
    let held = s.fleet.hold(20_000).await;
    s.heard_and_busy(held).await;
    call.hears("let go").await;
    call.says("answered").await;
    s.acknowledged(held).await;
}

/// It ends a second before the hold does, so that the move, which waits for it, can still go on.
#[tokio::test]
async fn a_call_that_is_never_answered_ends_before_the_hold_does() {
    let (_etcd, s, mut call) = a_call_that_waits().await;
    let clock = Clock::Machine;
    let from = clock.now();
    let held = s.fleet.hold(8_000).await;
    s.heard_and_busy(held).await;
    call.says("ended UNAVAILABLE").await;
    let ended = clock.now().since(from);
    s.acknowledged(held).await;
    let acknowledged = clock.now().since(from);
    assert!(ended >= Duration::from_secs(6), "it had its time: {ended:?}");
    assert!(acknowledged < Duration::from_secs(8), "the move has time left: {acknowledged:?}");
    s.edge.counts(r#"domicile_router_streams{kind="grpc"} 0"#).await;
}

#[tokio::test]
async fn an_upload_that_ends_within_the_hold_is_taken_by_the_old_region() {
    const HALF: usize = 100_000;
    let s = Stage::new(Sabotage::None).await;
    let hits = s.fleet.east.hits();
    let mut socket = TcpStream::connect(s.edge.listen).await.unwrap();
    let head = format!("POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n", 2 * HALF);
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&[b'x'; HALF]).await.unwrap();
    let began = || async { s.gates[0].admin("/inflight").await.1.contains("\"in_flight\":1") };
    eventually(SOON, "it has passed the gate", began).await.unwrap();
    let held = s.fleet.hold(20_000).await;
    s.heard_and_busy(held).await;
    socket.write_all(&[b'x'; HALF]).await.unwrap();
    let (mut answer, told) = (Vec::new(), format!("took {}", 2 * HALF));
    let read = async {
        while !String::from_utf8_lossy(&answer).contains(&told) {
            assert_ne!(
                socket.read_buf(&mut answer).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap();
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200") && text.contains("domicile-region: us-east-1"), "{text}");
    assert_eq!(s.fleet.east.hits(), hits + 1, "it was sent once");
    s.acknowledged(held).await;
    s.fleet.close(20_000).await;
    s.fleet.serve("us-west-2").await;
    until_status(&s.edge, "/", 200).await;
    assert_eq!(s.fleet.west.hits(), 1, "and never to the new region");
}

/// The calls of all clients share connections between routers: a client that cuts off its own by the hundred must not make
/// the gate end such a connection, or the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_one_client_cuts_off_end_nobody_elses() {
    let etcd = EtcdCluster::start(1).await.unwrap();
    let app = etcd.members()[0].direct();
    let s = Stage::of(Fleet::with(app, app).await, Sabotage::None).await;
    let mut watch = Client::script("grpc_watch.py", s.edge.listen);
    watch.says("open").await;
    let mut socket = TcpStream::connect(s.edge.listen).await.unwrap();
    socket.write_all(&preface(&[])).await.unwrap();
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let head = block(&request("POST", HOST, "/etcdserverpb.Watch/Watch", &grpc));
    let open = async |n: usize| {
        let told = format!("domicile_router_streams{{kind=\"grpc\"}} {n}\n");
        let all = || async { s.counted(&told).await && s.gates[0].admin("/metrics").await.1.contains(&told) };
        eventually(SOON, &format!("edge and gate have {n}"), all).await.unwrap();
    };
    for n in 0..30 {
        let ids = (0..50).map(|i| 2 * (50 * n + i) + 1);
        let calls: Vec<u8> = ids.clone().flat_map(|id| frame(HEADERS, END_HEADERS, id, &head)).collect();
        socket.write_all(&calls).await.unwrap();
        open(51).await;
        let cuts: Vec<u8> = ids.flat_map(|id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8])).collect();
        socket.write_all(&cuts).await.unwrap();
        open(1).await;
    }
    let held = s.fleet.hold(20_000).await;
    watch.says("ended UNAVAILABLE").await;
    s.acknowledged(held).await;
    s.one_ended("grpc").await;
}
