//! Connections of a tenant that lets its TLS end in the US only, at an edge in Ireland: passed on, never read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::pause;
use domicile_router::config::Sabotage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::{Authority, curl, s_client};
use crate::kit::{Fleet, HOST, Router, SOON, until_status};
use crate::slow_tls::{Drip, connect};

/// Gates and edges of both regions inside, and what an edge outside needs.
pub(crate) struct Wire {
    pub(crate) fleet: Fleet,
    pub(crate) ca: Authority,
    pub(crate) gates: Vec<Router>,
    pub(crate) east: Router,
    pub(crate) west: Router,
    /// Where the edge outside takes TLS.
    pub(crate) at: SocketAddr,
}

impl Wire {
    pub(crate) async fn new(tls: Option<&[&str]>) -> Self {
        Self::on(Fleet::new().await, tls).await
    }

    pub(crate) async fn on(fleet: Fleet, tls: Option<&[&str]>) -> Self {
        fleet.tls_may_end(tls).await;
        let ca = Authority::new(fleet.dir.path(), "ca");
        let mut gates = Vec::new();
        for region in ["us-east-1", "us-west-2"] {
            gates.push(fleet.gate(region).await);
        }
        let east = Self::inside(&fleet, &ca, "us-east-1").await;
        let west = Self::inside(&fleet, &ca, "us-west-2").await;
        Self { fleet, ca, gates, east, west, at: free_address().unwrap() }
    }

    pub(crate) async fn inside(fleet: &Fleet, ca: &Authority, region: &str) -> Router {
        let id = format!("inside-{region}");
        let certs = fleet.dir.path().join(format!("{id}.certs"));
        ca.issue(&certs, "mercy", &[HOST], 2040);
        let mut args = fleet.args("edge", &id, region);
        args.extend(["--listen-tls".into(), fleet.inside[region].to_string()]);
        args.extend(["--tls-certs".into(), certs.display().to_string()]);
        args.extend(["--proxy-networks", "127.0.0.0/8", "--idle-timeout-ms", "600000"].map(Into::into));
        Router::start(&id, fleet.dir.path(), &args).await
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.fleet.dir.path().join("outside.certs")
    }

    /// Arguments of the edge outside. It has a key for the tenant's host, which somebody has left there.
    pub(crate) fn outside_args(&self) -> Vec<String> {
        self.ca.issue(&self.certs(), "mercy", &[HOST], 2040);
        let mut args = self.fleet.args("edge", "edge", "eu-west-1");
        args.extend(["--listen-tls".into(), self.at.to_string()]);
        args.extend(["--tls-certs".into(), self.certs().display().to_string()]);
        args
    }

    pub(crate) async fn outside(&self) -> Router {
        Router::start("edge", self.fleet.dir.path(), &self.outside_args()).await
    }

    pub(crate) async fn get(&self, more: &[&str]) -> crate::authority::Said {
        let url = format!("https://{HOST}/");
        curl(&self.ca, self.at, HOST, &[more, &[&url]].concat()).await
    }
}

/// A number of the router's, with its labels.
pub(crate) async fn number(router: &Router, name: &str) -> f64 {
    let text = router.admin("/metrics").await.1;
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim().parse().unwrap()
}

async fn until_number(router: &Router, name: &str, least: f64) {
    eventually(SOON, &format!("{name} is at least {least}"), || async {
        number(router, name).await >= least
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", router.process.tail()));
}

#[tokio::test]
async fn an_edge_outside_passes_on_what_it_may_not_read() {
    let wire = Wire::new(None).await;
    let edge = wire.outside().await;
    for how in [&["--http1.1", "--tls-max", "1.2"][..], &["--http1.1"], &["--http2"]] {
        // From an address that only the client has.
        let said = wire.get(&[how, &["--interface", "127.0.0.9", "-w", "|%{http_version}"]].concat()).await;
        assert!(said.out.starts_with("east GET 0|"), "{how:?}: {} {}", said.out, edge.process.tail());
        let seen = wire.fleet.east.last();
        assert_eq!(seen["x-forwarded-for"], "127.0.0.9", "the address survives");
        assert_eq!(seen["forwarded"], "for=127.0.0.9;proto=https");
    }
    let body = format!("@{}", wire.fleet.dir.path().join("body").display());
    std::fs::write(wire.fleet.dir.path().join("body"), vec![7; 3 << 20]).unwrap();
    assert_eq!(wire.get(&["--data-binary", &body]).await.out, "east POST 3145728");
    until_number(&edge, "domicile_router_splices_ended_total{why=\"closed\"}", 4.0).await;
    assert!(number(&edge, "domicile_router_splices ").await < 0.5);
    // The key that was left there was never read.
    assert!(number(&edge, "domicile_router_certificates{state=\"kept-out\"}").await > 0.5);
    let shown = edge.admin("/certificates").await.1;
    assert!(shown.contains("\"certificates\":[]") && shown.contains("residency policy"), "{shown}");
    assert!(edge.admin(&format!("/routes?host={HOST}")).await.1.contains("\"ends\":\"inside\""));
    // In the clear there is nothing to pass on.
    let plain = edge.get(HOST, "/").await.unwrap();
    assert_eq!(plain.status(), 421);
    assert!(plain.text().await.unwrap().contains("problems/edge-outside"));
    // Whose plaintext would it be?
    let said = s_client(wire.at, &["-servername", "nobody.example.com"], "").await;
    assert!(said.out.contains("unrecognized name"), "{}", said.out);
    let log = wire.fleet.dir.path().join("edge.log");
    eventually(SOON, "splices are in the log", || async {
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        lines.lines().filter(|l| l.contains("\"SPLICE\"") && l.contains("\"mercy\"")).count() >= 4
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_hello_in_single_bytes_goes_the_same_way() {
    let wire = Wire::new(None).await;
    let _edge = wire.outside().await;
    let mut tls = connect(&wire.ca, wire.at, HOST, Drip::Bytes).await.unwrap();
    let said = get(&mut tls).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("east GET 0"), "{said}");
    assert!(connect(&wire.ca, wire.at, "nobody.example.com", Drip::Bytes).await.is_err());
}

/// A request over an open connection, and its answer as far as it came with the first read that ends it.
async fn get(tls: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) -> String {
    tls.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    while !said.contains("GET 0") && !said.contains("problems/") {
        let n = tokio::time::timeout(SOON, tls.read(&mut piece)).await.unwrap().unwrap_or(0);
        if n == 0 {
            break;
        }
        said += &String::from_utf8_lossy(&piece[..n]);
    }
    said
}

#[tokio::test]
async fn a_move_takes_splices_along() {
    let wire = Wire::new(None).await;
    let mut args = wire.outside_args();
    args.extend(["--linger-ms".into(), "500".into()]);
    let edge = Router::start("edge", wire.fleet.dir.path(), &args).await;
    let mut open = connect(&wire.ca, wire.at, HOST, Drip::No).await.unwrap();
    assert!(get(&mut open).await.ends_with("east GET 0"));
    let revision = wire.fleet.hold(20_000).await;
    wire.fleet.acknowledged(&["edge", "inside-us-west-2", "inside-us-east-1"], revision).await;
    // The region that is being left takes no new one; the other one holds what comes, and so does the old one.
    let count = number(&wire.west, "domicile_router_held_total").await;
    let held = tokio::spawn({
        let (pem, at) = (wire.ca.pem.clone(), wire.at);
        async move {
            let mut tls = crate::slow_tls::connect_with(&pem, at, HOST, Drip::No).await.unwrap();
            get(&mut tls).await
        }
    });
    until_number(&wire.west, "domicile_router_held_total", count + 1.0).await;
    wire.fleet.serve("us-west-2").await;
    let said = held.await.unwrap();
    assert!(said.ends_with("west GET 0"), "{said}");
    // The old one is silent, and goes.
    let end = tokio::time::timeout(SOON, open.read(&mut [0; 64])).await.expect("it ends");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    until_number(&edge, "domicile_router_splices_ended_total{why=\"moved\"}", 1.0).await;
    assert!(wire.get(&[]).await.out.starts_with("west GET 0"));
}

#[tokio::test]
async fn a_policy_takes_effect_on_what_is_open() {
    // At first the edge in Ireland may decrypt.
    let wire = Wire::new(Some(&["US", "IE"])).await;
    let edge = wire.outside().await;
    let mut read_here = connect(&wire.ca, wire.at, HOST, Drip::No).await.unwrap();
    assert!(get(&mut read_here).await.ends_with("east GET 0"));
    assert!(number(&edge, "domicile_router_certificates{state=\"good\"}").await > 0.5);
    // Tighter: its key goes, and so does what came over connections that it had decrypted.
    wire.fleet.tls_may_end(None).await;
    until_number(&edge, "domicile_router_certificates{state=\"kept-out\"}", 1.0).await;
    let said = get(&mut read_here).await;
    assert!(said.starts_with("HTTP/1.1 421"), "{said}");
    let mut passed = connect(&wire.ca, wire.at, HOST, Drip::No).await.unwrap();
    assert!(get(&mut passed).await.ends_with("east GET 0"));
    assert!(number(&edge, "domicile_router_splices ").await > 0.5);
    // Tighter still: nobody may read it in the US either.
    wire.fleet.tls_may_end(Some(&["IN"])).await;
    let end = tokio::time::timeout(SOON, passed.read(&mut [0; 64])).await.expect("it ends at once");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    until_number(&edge, "domicile_router_splices_ended_total{why=\"policy\"}", 1.0).await;
    assert_ne!(wire.get(&[]).await.code, 0);
    assert!(number(&edge, "domicile_router_connections_refused_total{why=\"outside\"}").await > 0.5);
    // Wider again: the key comes back.
    wire.fleet.tls_may_end(Some(&["US", "IE"])).await;
    until_number(&edge, "domicile_router_certificates{state=\"good\"}", 1.0).await;
    assert!(wire.get(&[]).await.out.starts_with("east GET 0"));
    assert!(number(&edge, "domicile_router_splices ").await < 0.5);
}

#[tokio::test]
async fn without_edges_or_registry_it_stays_closed_and_comes_back_from_disk() {
    let mut wire = Wire::new(None).await;
    let edge = wire.outside().await;
    assert!(wire.get(&[]).await.out.starts_with("east GET 0"));
    // One of the two edges inside, then none.
    wire.east.process.kill();
    assert!(wire.get(&[]).await.out.starts_with("east GET 0"), "by way of the other region's edge");
    wire.west.process.kill();
    assert_ne!(wire.get(&[]).await.code, 0);
    assert!(number(&edge, "domicile_router_connections_refused_total{why=\"outside\"}").await > 0.5);
    wire.west = Wire::inside(&wire.fleet, &wire.ca, "us-west-2").await;
    // The registry is gone, and the edge starts again: who is inside stands in its last good table.
    let args = wire.outside_args();
    edge.process.kill();
    drop(edge);
    wire.fleet.etcd.kill(0);
    let edge = Router::start("edge", wire.fleet.dir.path(), &args).await;
    let mut tls = connect(&wire.ca, wire.at, HOST, Drip::No).await.unwrap();
    drop(get(&mut tls).await);
    assert!(number(&edge, "domicile_router_splices ").await > 0.5, "passed on by what stands on disk");
    assert!(edge.admin("/certificates").await.1.contains("\"certificates\":[]"));
    drop(wire.gates.pop());
}

#[tokio::test]
async fn a_splice_lives_as_long_as_its_client() {
    let wire = Wire::new(None).await;
    let _edge = wire.outside().await;
    let mut tls = connect(&wire.ca, wire.at, HOST, Drip::No).await.unwrap();
    assert!(get(&mut tls).await.ends_with("east GET 0"));
    // Nothing can be awaited here: that nothing happens for three minutes is the test.
    pause(Duration::from_secs(180)).await;
    assert!(get(&mut tls).await.ends_with("east GET 0"));
}

#[tokio::test]
async fn sabotaged_it_would_read_everything() {
    let wire = Wire::new(None).await;
    let broken = Sabotage::DecryptsOutside;
    let edge = Router::start_as(broken, "edge", wire.fleet.dir.path(), &wire.outside_args()).await;
    until_status(&edge, "/", 200).await;
    assert!(wire.get(&[]).await.out.starts_with("east GET 0"));
    assert!(number(&edge, "domicile_router_splices_ended_total{why=\"closed\"}").await < 0.5);
    assert!(edge.admin("/certificates").await.1.contains(HOST), "it has a key that it must not have");
}
