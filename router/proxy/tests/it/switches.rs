//! Rules that keep a request where it belongs, each beside the one switch that breaks it: a test that could not fail
//! proves nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::{IntoResponse, Response};
use clap::Parser;
use domicile_chaos_kit::wait::eventually;
use domicile_router::config::{Given, Sabotage, parse};

use crate::kit::{Fleet, HOST, Router, SOON, client, until_status};

/// Not a test: the process of a router that is broken on purpose. The product has no switch that leads here.
#[test]
#[ignore = "started by other tests as a process of its own"]
fn sabotaged_router_process() {
    let Ok(args) = std::env::var("DOMICILE_TEST_ARGS") else { return };
    let wanted = std::env::var("DOMICILE_TEST_SABOTAGE").unwrap();
    let given = Given::try_parse_from(std::iter::once("domicile-router").chain(args.lines())).unwrap();
    let mut config = parse(given).unwrap();
    config.sabotage = Sabotage::ALL.into_iter().find(|s| format!("{s:?}") == wanted).unwrap();
    domicile_router::app::build(config).and_then(domicile_router::app::run).unwrap();
}

/// A held request's time runs out: its status, the kind of problem, and how many requests reached the old region.
async fn a_hold_runs_out(sabotage: Sabotage) -> (u16, String, usize) {
    let fleet = Fleet::new().await;
    let _gate = fleet.gate_as(sabotage, "us-east-1").await;
    let edge = fleet.edge_as(sabotage).await;
    until_status(&edge, "/", 200).await;
    let hits = fleet.east.hits();
    let revision = fleet.hold(1_500).await;
    fleet.acknowledged(&["gate-us-east-1", "edge"], revision).await;
    let answer = edge.get(HOST, "/").await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
    let text = answer.text().await.unwrap();
    let reached = fleet.east.hits() - hits;
    if sabotage == Sabotage::None {
        // A newer placement lets in what comes then.
        fleet.serve("us-east-1").await;
        until_status(&edge, "/", 200).await;
    }
    (status, text, reached)
}

#[tokio::test]
async fn running_out_of_time_releases_nothing() {
    let (status, text, reached) = a_hold_runs_out(Sabotage::None).await;
    assert_eq!((status, reached), (503, 0), "{text}");
    assert!(text.contains("problems/hold-timeout"), "{text}");
}

#[tokio::test]
async fn without_that_rule_the_region_that_is_left_would_see_the_request() {
    let (status, text, reached) = a_hold_runs_out(Sabotage::HoldEndsByTime).await;
    assert_eq!((status, reached), (200, 1), "the test above could not fail: {text}");
}

/// What nobody should ever write: the placement names a region that the tenant's policy forbids. Four ways lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An edge's own table.
    Table,
    /// A 421 of a gate, to an edge that has not heard of it.
    Followed,
    /// A gate that held the request.
    Relayed,
    /// The forbidden region's own gate.
    Inside,
}

/// The status, and how many requests were seen in the forbidden country.
async fn leads_abroad(way: Way, sabotage: Sabotage) -> (u16, usize) {
    let fleet = Fleet::new().await;
    let serve_abroad = || async {
        let revision = fleet.close(20_000).await;
        fleet.acknowledged(&["gate-us-east-1"], revision).await;
        fleet.serve("eu-west-1").await
    };
    let answer = match way {
        Way::Table => {
            let _gate = fleet.gate("us-east-1").await;
            let edge = fleet.edge_as(sabotage).await;
            until_status(&edge, "/", 200).await;
            let revision = serve_abroad().await;
            fleet.acknowledged(&["edge"], revision).await;
            edge.get(HOST, "/").await
        }
        Way::Followed => {
            let _gate = fleet.gate("us-east-1").await;
            let (edge, link) = fleet.linked_edge_as(sabotage).await;
            until_status(&edge, "/", 200).await;
            link.control().stall();
            let revision = serve_abroad().await;
            fleet.acknowledged(&["gate-us-east-1"], revision).await;
            client().post(edge.url("/")).header("host", HOST).body("write").send().await
        }
        Way::Relayed => {
            let gate = fleet.gate_as(sabotage, "us-east-1").await;
            until_status(&gate, "/", 200).await;
            let revision = fleet.hold(30_000).await;
            fleet.acknowledged(&["gate-us-east-1"], revision).await;
            let held = client().post(gate.url("/")).header("host", HOST).body("write").send();
            let held = tokio::spawn(held);
            eventually(SOON, "the gate holds it", || async {
                gate.admin("/inflight").await.1.contains("\"holding\":1")
            })
            .await
            .unwrap();
            serve_abroad().await;
            tokio::time::timeout(SOON, held).await.unwrap().unwrap()
        }
        Way::Inside => {
            let gate = fleet.gate_as(sabotage, "eu-west-1").await;
            fleet.close(20_000).await;
            let revision = fleet.serve("eu-west-1").await;
            fleet.acknowledged(&["gate-eu-west-1"], revision).await;
            gate.get(HOST, "/").await
        }
    };
    (answer.unwrap().status().as_u16(), fleet.abroad.hits())
}

#[tokio::test]
async fn an_edge_sends_nothing_to_a_forbidden_region() {
    assert_eq!(leads_abroad(Way::Table, Sabotage::None).await, (451, 0));
}

#[tokio::test]
async fn an_edge_follows_no_421_to_a_forbidden_region() {
    assert_eq!(leads_abroad(Way::Followed, Sabotage::None).await, (451, 0));
}

#[tokio::test]
async fn a_gate_relays_nothing_that_it_held_to_a_forbidden_region() {
    assert_eq!(leads_abroad(Way::Relayed, Sabotage::None).await, (451, 0));
}

#[tokio::test]
async fn a_gate_of_a_forbidden_region_lets_nothing_in() {
    assert_eq!(leads_abroad(Way::Inside, Sabotage::None).await, (451, 0));
}

#[tokio::test]
async fn without_the_residency_check_each_of_the_four_would_leave_the_country() {
    for way in [Way::Table, Way::Followed, Way::Relayed, Way::Inside] {
        let (status, seen) = leads_abroad(way, Sabotage::ResidencyUnchecked).await;
        assert_eq!((status, seen), (200, 1), "{way:?}: its test above could not fail");
    }
}

/// Stands where a gate is registered, and says what the test wants.
struct FakeGate {
    hits: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeGate {
    /// Answers 421 with this epoch and region; with 200 if none.
    async fn start(at: SocketAddr, moved: Option<(u64, &'static str)>) -> Self {
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let hits = Arc::<AtomicUsize>::default();
        let counted = hits.clone();
        let answer = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { said(moved) }
        };
        let routes = axum::Router::new().fallback(answer);
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { hits, server }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

impl Drop for FakeGate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn said(moved: Option<(u64, &'static str)>) -> Response {
    let Some((epoch, region)) = moved else { return "served".into_response() };
    let told = [
        ("domicile-gate", "moved".to_owned()),
        ("domicile-cell", "mercy".to_owned()),
        ("domicile-epoch", epoch.to_string()),
        ("domicile-region", region.to_owned()),
    ];
    (http::StatusCode::MISDIRECTED_REQUEST, told).into_response()
}

/// The old region's gate names the new one under epoch 5, whose gate names the old region again under this epoch. How
/// often the old region is asked.
async fn sent_back(epoch: u64, sabotage: Sabotage) -> (u16, usize) {
    let fleet = Fleet::new().await;
    let east = FakeGate::start(fleet.gates["us-east-1"], Some((5, "us-west-2"))).await;
    let west = FakeGate::start(fleet.gates["us-west-2"], Some((epoch, "us-east-1"))).await;
    let edge = fleet.edge_as(sabotage).await;
    let answer = client().post(edge.url("/")).header("host", HOST).body("write").send().await.unwrap();
    assert!(west.hits() >= 1, "an upward 421 is followed");
    (answer.status().as_u16(), east.hits())
}

#[tokio::test]
async fn a_421_is_followed_to_a_strictly_higher_epoch_only() {
    for epoch in [3, 5] {
        assert_eq!(sent_back(epoch, Sabotage::None).await, (503, 1), "epoch {epoch}");
    }
}

#[tokio::test]
async fn without_that_rule_a_request_would_go_back_to_an_older_epoch() {
    let (_, asked) = sent_back(3, Sabotage::FollowsDownwards).await;
    assert!(asked > 1, "the test above could not fail");
}

/// An application answers 421, word for word as a gate would. The status and text that the client gets, and how many
/// requests another region saw.
async fn an_application_speaks_like_a_gate(sabotage: Sabotage) -> (u16, String, usize) {
    let fleet = Fleet::new().await;
    let west = FakeGate::start(fleet.gates["us-west-2"], None).await;
    let _gate: Router = fleet.gate_as(sabotage, "us-east-1").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let answer = edge.get(HOST, "/own-421").await.unwrap();
    let status = answer.status().as_u16();
    assert!(!answer.headers().contains_key("domicile-gate"));
    if sabotage == Sabotage::None {
        assert_eq!(answer.headers()["domicile-epoch"], "1", "not the application's 9");
        assert_eq!(answer.headers()["domicile-region"], "us-east-1");
    }
    (status, answer.text().await.unwrap(), west.hits())
}

#[tokio::test]
async fn an_applications_own_421_is_passed_on_and_leads_nowhere() {
    let told = an_application_speaks_like_a_gate(Sabotage::None).await;
    assert_eq!(told, (421, "mine".to_owned(), 0));
}

#[tokio::test]
async fn without_that_rule_an_application_could_send_a_request_elsewhere() {
    let (_, _, seen) = an_application_speaks_like_a_gate(Sabotage::ApplicationsBelieved).await;
    assert_eq!(seen, 1, "the test above could not fail");
}
