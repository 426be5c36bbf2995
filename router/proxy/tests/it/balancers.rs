//! The PROXY protocol: who speaks, where a load balancer stands in front.

use domicile_router_core::wire::proxy_protocol::{LOCAL, Told, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::authority::{Authority, curl};
use crate::kit::{Fleet, HOST, Router, SOON, until_status};

/// Sends a head over a connection that begins with these bytes, and gives the answer's first line; empty if the
/// connection was closed without one.
async fn get(router: &Router, before: &[u8]) -> String {
    say(router, before, &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await
}

async fn say(router: &Router, before: &[u8], request: &str) -> String {
    let mut socket = TcpStream::connect(router.listen).await.unwrap();
    // In pieces, as bytes may come.
    for piece in [before, request.as_bytes()].concat().chunks(7) {
        if socket.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SOON, socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

async fn edge(fleet: &Fleet, networks: &str, more: &[String]) -> Router {
    let mut args = fleet.args("edge", "edge", "eu-west-1");
    args.extend(["--proxy-networks".into(), networks.into()]);
    args.extend_from_slice(more);
    Router::start("edge", fleet.dir.path(), &args).await
}

async fn refused(router: &Router) -> u64 {
    let name = r#"domicile_router_connections_refused_total{why="no-proxy-header"} "#;
    let metrics = router.admin("/metrics").await.1;
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

fn v2(source: &str) -> Vec<u8> {
    write(Told {
        source: source.parse().unwrap(),
        destination: "10.0.0.1:443".parse().unwrap(),
        spliced: false,
    })
}

#[tokio::test]
async fn the_client_is_who_the_load_balancer_says() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let edge = edge(&fleet, "127.0.0.0/8", &[]).await;
    let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n";
    for (before, client) in [
        (&v1[..], "203.0.113.9"),
        (&v2("198.51.100.4:1"), "198.51.100.4"),
        (&v2("[2001:db8::7]:1"), "2001:db8::7"),
    ] {
        assert_eq!(get(&edge, before).await, "HTTP/1.1 200 OK", "{}", edge.process.tail());
        assert_eq!(fleet.east.last()["x-forwarded-for"], client);
    }
    // The load balancer's own check.
    assert_eq!(get(&edge, &LOCAL).await, "HTTP/1.1 200 OK");
    assert_eq!(fleet.east.last()["x-forwarded-for"], "127.0.0.1");
    // Nobody else comes from there: a request without a header, one with half of it, one with nonsense.
    let (hits, before) = (fleet.east.hits(), refused(&edge).await);
    for bad in [&b""[..], b"PROXY TCP4 203.0.113.9 10.0.0.1 056324 443\r\n", b"\r\n\r\n\0\r\nQUIT\nxxxx"] {
        assert_eq!(get(&edge, bad).await, "", "closed without a word");
    }
    assert_eq!(fleet.east.hits(), hits);
    assert_eq!(refused(&edge).await, before + 3);
    // Its own probe says LOCAL, or it would never acknowledge.
    domicile_chaos_kit::wait::eventually(SOON, "it acknowledges", || async {
        fleet.router_state("edge").await.is_some()
    })
    .await
    .unwrap();
}

/// `--trusted-networks` has loopback in it: whoever the load balancer names is not believed for coming through it.
#[tokio::test]
async fn a_load_balancer_lends_its_trust_to_nobody() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let edge = edge(&fleet, "127.0.0.0/8", &[]).await;
    let claim =
        "GET / HTTP/1.1\r\nHost: nobody.example.com\r\nDomicile-Tenant: mercy\r\nConnection: close\r\n\r\n";
    assert_eq!(say(&edge, &v2("203.0.113.9:7"), claim).await, "HTTP/1.1 404 Not Found");
    // From loopback itself it would be.
    assert_eq!(say(&edge, &v2("127.0.0.1:7"), claim).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn from_elsewhere_a_header_is_no_header() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let edge = edge(&fleet, "10.0.0.0/8", &[]).await;
    let hits = fleet.east.hits();
    assert_eq!(
        get(&edge, b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n").await,
        "HTTP/1.1 400 Bad Request"
    );
    assert_eq!(fleet.east.hits(), hits);
    assert_eq!(get(&edge, b"").await, "HTTP/1.1 200 OK");
}

/// As curl speaks it, in front of TLS.
#[tokio::test]
async fn curls_own_header_in_front_of_tls() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let ca = Authority::new(fleet.dir.path(), "ca");
    let certs = fleet.dir.path().join("certs");
    ca.issue(&certs, "mercy", &[HOST], 2040);
    let at = domicile_chaos_kit::ports::free_address().unwrap();
    let tls = ["--listen-tls".into(), at.to_string(), "--tls-certs".into(), certs.display().to_string()];
    let _edge = edge(&fleet, "127.0.0.0/8", &tls).await;
    let url = format!("https://{HOST}/");
    let answer = curl(&ca, at, HOST, &["--haproxy-protocol", "--http2", &url]).await;
    assert_eq!((answer.code, answer.out.as_str()), (0, "east GET 0"));
    let without = curl(&ca, at, HOST, &[&url]).await;
    assert_ne!(without.code, 0);
}
