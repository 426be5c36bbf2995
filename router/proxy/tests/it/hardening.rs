//! Attacks on the transport: clients that drip, and requests that two readers could read differently. Each is sent to an edge
//! in front of the application, and through edge and gate; the application is a recorder that writes down what it got.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_router::config::Sabotage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Router, SOON};
use crate::recorder::{Reading, Recorder};

pub(crate) const HOST: &str = "mercy.example.com";

/// An edge, perhaps a gate, and a recorder as the application.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    pub(crate) recorder: Recorder,
    pub(crate) edge: Router,
    _gate: Option<Router>,
}

/// The arguments of a router for one tenant, whose application or gate is there.
pub(crate) fn regions(dir: &Path, name: &str, application: SocketAddr) -> [String; 2] {
    let text = format!(
        "[regions]\na = {{ country = \"US\", ingress = [\"{application}\"] }}\n\
         b = {{ country = \"US\", ingress = [\"127.0.0.1:1\"] }}\n\
         [cells.c]\nprimary = \"a\"\ndr = \"b\"\napplication = {{ a = [\"{application}\"] }}\n\
         [tenants.mercy]\ncell = \"c\"\nhosts = [\"{HOST}\"]\n"
    );
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    ["--registry".to_owned(), format!("file:{}", path.display())]
}

impl Stage {
    pub(crate) async fn new(reading: Reading, through_gate: bool, more: &[&str]) -> Self {
        Self::broken(Sabotage::None, reading, through_gate, more).await
    }

    /// With an edge and a gate that are broken on purpose.
    pub(crate) async fn broken(
        sabotage: Sabotage,
        reading: Reading,
        through_gate: bool,
        more: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(reading).await;
        let (gate, next) = if through_gate {
            let gate = Router::start_as(
                sabotage,
                "gate",
                dir.path(),
                &[
                    &regions(dir.path(), "gate.toml", recorder.addr)[..],
                    &["--role", "gate", "--region", "a", "--trusted-networks", "127.0.0.0/8"]
                        .map(ToOwned::to_owned),
                ]
                .concat(),
            )
            .await;
            let at = gate.listen;
            (Some(gate), at)
        } else {
            (None, recorder.addr)
        };
        let log = ["--access-log".to_owned(), dir.path().join("edge.log").display().to_string()];
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let args = [&regions(dir.path(), "edge.toml", next)[..], &log, &more].concat();
        let edge = Router::start_as(sabotage, "edge", dir.path(), &args).await;
        Self { dir, recorder, edge, _gate: gate }
    }

    /// Sends bytes, and reads what comes until it is silent: the statuses of the answers.
    async fn say(&self, bytes: &[u8]) -> Vec<u16> {
        let mut socket = TcpStream::connect(self.edge.listen).await.unwrap();
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        // Half a second without a byte is the end of what there is to say; an answer takes milliseconds.
        while let Ok(Ok(1..)) =
            tokio::time::timeout(Duration::from_millis(500), socket.read_buf(&mut answer)).await
        {}
        let text = String::from_utf8_lossy(&answer);
        let statuses = text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok());
        statuses.filter(|s| *s != 100).collect()
    }

    /// Waits until as many requests are logged as were recorded: they are the same.
    pub(crate) async fn logged_is_recorded(&self) {
        let own = |path: &str| path.rsplit_once("/").map_or(path.to_owned(), |(_, last)| format!("/{last}"));
        let got: Vec<String> =
            self.recorder.requests().iter().filter_map(|r| Some(own(r.split(' ').nth(1)?))).collect();
        let logged = eventually(SOON, "every one is logged", || async { self.logged().len() >= got.len() });
        logged.await.unwrap();
        assert_eq!(self.logged().iter().map(|path| own(path)).collect::<Vec<_>>(), got);
    }

    /// Paths of the requests that the edge has answered with the application's word.
    fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("edge.log")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|l| l["status"] == 200).map(|l| l["path"].as_str().unwrap().to_owned()).collect()
    }
}

/// Name, bytes, the statuses that the client gets, and what reaches the application.
fn attacks() -> Vec<(&'static str, String, &'static [u16], &'static [&'static str])> {
    let head = |more: &str| format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n");
    let inner = format!("GET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let chunked_end = format!("0\r\n\r\n{inner}");
    let len = |text: &str| text.len();
    vec![
        (
            "CL.TE",
            head(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", len(&chunked_end)))
                + &chunked_end,
            &[200],
            &["POST /a 0 in chunks"],
        ),
        (
            "TE.CL",
            head("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n")
                + &format!("{:x}\r\n{inner}\r\n0\r\n\r\n", len(&inner)),
            &[200],
            &["POST /a 51 in chunks"],
        ),
        (
            "TE.TE: two of them",
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n") + &chunked_end,
            &[400],
            &[],
        ),
        (
            "TE.TE: another name for it",
            head(&format!("Transfer-Encoding: xchunked\r\nContent-Length: {}\r\n", len(&chunked_end)))
                + &chunked_end,
            &[400],
            &[],
        ),
        (
            "TE.TE: space before the colon",
            head(&format!("Transfer-Encoding : chunked\r\nContent-Length: {}\r\n", len(&chunked_end)))
                + &chunked_end,
            &[400],
            &[],
        ),
        (
            "TE.TE: tab before the value",
            head(&format!("Transfer-Encoding:\tchunked\r\nContent-Length: {}\r\n", len(&chunked_end)))
                + &chunked_end,
            &[200],
            &["POST /a 0 in chunks"],
        ),
        (
            "TE.TE: folded",
            head(&format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: {}\r\n", len(&chunked_end)))
                + &chunked_end,
            &[400],
            &[],
        ),
        (
            "TE in HTTP/1.0",
            format!("POST /a HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n") + &chunked_end,
            &[400],
            &[],
        ),
        (
            "two lengths that differ",
            head(&format!("Content-Length: 0\r\nContent-Length: {}\r\n", len(&inner))) + &inner,
            &[400],
            &[],
        ),
        ("a list of lengths", head(&format!("Content-Length: 0, {}\r\n", len(&inner))) + &inner, &[400], &[]),
        (
            "a length with a sign",
            head(&format!("Content-Length: +{}\r\n", len(&inner))) + &inner,
            &[400],
            &[],
        ),
        ("a length in hex", head(&format!("Content-Length: 0x{:x}\r\n", len(&inner))) + &inner, &[400], &[]),
        ("a negative length", head("Content-Length: -1\r\n") + &inner, &[400], &[]),
        (
            "a chunk size with a sign",
            head("Transfer-Encoding: chunked\r\n") + &format!("+0\r\n\r\n{inner}"),
            &[400],
            &[],
        ),
        (
            "a chunk size beyond 64 bits",
            head("Transfer-Encoding: chunked\r\n") + &format!("10000000000000000\r\n{inner}\r\n0\r\n\r\n"),
            &[400],
            &[],
        ),
        (
            "a chunk that ends in LF",
            head("Transfer-Encoding: chunked\r\n") + &format!("1\nA\n0\n\n{inner}"),
            &[400],
            &[],
        ),
        (
            "LF for CRLF in the head",
            format!("POST /a HTTP/1.1\nHost: {HOST}\nContent-Length: 0\n\n"),
            &[200],
            &["POST /a 0 by length"],
        ),
        ("a name with a space", head("X Y: 1\r\n"), &[400], &[]),
        ("a value with a NUL", head("X: a\0b\r\n"), &[400], &[]),
        ("a value with a CR", head("X: a\rDomicile-Tenant: other\r\n"), &[400], &[]),
        ("two hosts", head("Host: other.example.com\r\n"), &[400], &[]),
        (
            "a target that names another host",
            format!("GET http://other.example.com/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            &[400],
            &[],
        ),
        (
            "a target that names the host",
            format!("GET http://{HOST}/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            &[200],
            &["GET /a 0 by length"],
        ),
        (
            "a host with a user",
            format!("GET /a HTTP/1.1\r\nHost: other.example.com@{HOST}\r\n\r\n"),
            &[400],
            &[],
        ),
        ("CONNECT", format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), &[405], &[]),
        (
            "a body for GET",
            format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{inner}", len(&inner)),
            &[200],
            &["GET /a 51 by length"],
        ),
        (
            "two requests at once",
            format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n{inner}"),
            &[200, 200],
            &["GET /a 0 by length", "GET /smuggled 0 by length"],
        ),
        (
            "an upgrade with a body",
            head(&format!("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {}\r\n", len(&inner)))
                + &inner,
            &[200],
            &["POST /a 51 by length"],
        ),
        (
            "a connection header that strips the length",
            head(&format!("Connection: Content-Length\r\nContent-Length: {}\r\n", len(&inner))) + &inner,
            &[200],
            &["POST /a 51 in chunks"],
        ),
        (
            "a connection header that strips the host",
            head("Connection: Host\r\nContent-Length: 0\r\n"),
            &[400],
            &[],
        ),
        ("a head of 200 KiB", head(&format!("X: {}\r\n", "a".repeat(200 << 10))), &[431], &[]),
        ("a head of 2 MiB", head(&format!("X: {}\r\n", "a".repeat(2 << 20))), &[400], &[]),
        ("a thousand headers", head(&"X: a\r\n".repeat(1_000)), &[400], &[]),
    ]
}

/// What the application gets is what the edge has answered for, request by request, whoever reads how forgivingly.
async fn attacked(reading: Reading, through_gate: bool) {
    let s = Stage::new(reading, through_gate, &[]).await;
    for (name, bytes, statuses, requests) in attacks() {
        let before = s.recorder.requests().len();
        let seen = s.say(bytes.as_bytes()).await;
        assert_eq!(seen, statuses, "{name}");
        assert_eq!(s.recorder.requests().split_off(before), requests, "{name}");
    }
    s.logged_is_recorded().await;
}

#[tokio::test]
async fn attacks_on_an_edge_in_front_of_a_strict_application() {
    attacked(Reading::Strict, false).await;
}

#[tokio::test]
async fn attacks_on_an_edge_in_front_of_a_lax_application() {
    attacked(Reading::Lax, false).await;
}

#[tokio::test]
async fn attacks_through_edge_and_gate_on_a_strict_application() {
    attacked(Reading::Strict, true).await;
}

#[tokio::test]
async fn attacks_through_edge_and_gate_on_a_lax_application() {
    attacked(Reading::Lax, true).await;
}

/// Heads that drip keep nobody out, and not for long.
#[tokio::test]
async fn a_head_that_drips_is_cut_off() {
    let s = Stage::new(Reading::Strict, false, &["--head-timeout-ms", "500"]).await;
    let mut drips = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(s.edge.listen).await.unwrap();
        socket.write_all(format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n").as_bytes()).await.unwrap();
        drips.push(socket);
    }
    let all_cut = async {
        for socket in &mut drips {
            loop {
                // A byte now and then, so that no single read takes long.
                if socket.write_all(b"X").await.is_err() {
                    break;
                }
                let mut byte = [0];
                match tokio::time::timeout(Duration::from_millis(50), socket.read(&mut byte)).await {
                    Ok(Ok(0) | Err(_)) => break,
                    Ok(Ok(_)) => panic!("it was answered"),
                    Err(_) => {}
                }
            }
        }
    };
    tokio::time::timeout(SOON, all_cut).await.unwrap();
    let whole = format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(s.say(whole.as_bytes()).await, [200]);
    let counted = r#"connections_refused_total{why="slow-head"} 50"#;
    eventually(SOON, "all are counted", || async { s.edge.admin("/metrics").await.1.contains(counted) })
        .await
        .unwrap();
    assert_eq!(s.recorder.requests(), ["GET /a 0 by length"]);
}
