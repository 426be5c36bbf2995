//! A mark in the requests of a tenant whose TLS may end in the US only: it is looked for everywhere outside, while requests,
//! holds, moves, retries and failures go on, and found inside, so that the search is seen to find.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use domicile_chaos_kit::wait::eventually;
use domicile_router::config::Sabotage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{HOST, Router, SOON};
use crate::slow_tls::{Drip, connect_with};
use crate::splice::Wire;
use crate::tap::{Tap, in_files, in_memory};

/// Users whose every request bears the mark: in path, query, header and body.
struct Users {
    answered: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
    mark: String,
}

impl Users {
    fn start(pem: &std::path::Path, at: std::net::SocketAddr, mark: &str) -> Arc<Self> {
        let users = Arc::new(Self {
            answered: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            mark: mark.to_owned(),
        });
        for _ in 0..2 {
            let (users, pem) = (users.clone(), pem.to_owned());
            tokio::spawn(async move {
                while !users.stop.load(Ordering::SeqCst) {
                    let one = tokio::time::timeout(SOON, users.one(&pem, at));
                    let counter =
                        if matches!(one.await, Ok(Ok(true))) { &users.answered } else { &users.failed };
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        users
    }

    async fn one(&self, pem: &std::path::Path, at: std::net::SocketAddr) -> std::io::Result<bool> {
        let mut tls = connect_with(pem, at, HOST, Drip::No).await?;
        let mark = &self.mark;
        let body = mark.repeat(2_000);
        let head = format!(
            "POST /{mark}?name={mark} HTTP/1.1\r\nHost: {HOST}\r\nX-Note: {mark}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        tls.write_all(head.as_bytes()).await?;
        tls.write_all(body.as_bytes()).await?;
        tls.flush().await?;
        let mut said = Vec::new();
        // A server that closes without the last word of TLS has answered all the same.
        let _ = tls.read_to_end(&mut said).await;
        Ok(said.starts_with(b"HTTP/1.1 200"))
    }

    async fn more(&self, what: &str, counter: &AtomicUsize, more: usize) {
        let from = counter.load(Ordering::SeqCst);
        eventually(SOON, what, || async { counter.load(Ordering::SeqCst) >= from + more })
            .await
            .unwrap_or_else(|e| {
                panic!(
                    "{e}: {} answered, {} failed",
                    self.answered.load(Ordering::SeqCst),
                    self.failed.load(Ordering::SeqCst)
                )
            });
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// The edge outside, with a tap on every link that it has.
struct Outside {
    edge: Router,
    taps: Vec<(String, Tap)>,
    users_come_to: std::net::SocketAddr,
}

async fn outside(wire: &Wire, sabotage: Sabotage) -> Outside {
    let mut taps = Vec::new();
    let mut links = serde_json::Map::new();
    for (what, all) in [("edge", &wire.fleet.inside), ("gate", &wire.fleet.gates)] {
        for (region, at) in all {
            let tap = Tap::start(*at).await;
            links.insert(at.to_string(), tap.addr.to_string().into());
            taps.push((format!("{what} of {region}"), tap));
        }
    }
    let registry = Tap::start(wire.fleet.etcd.members()[0].direct()).await;
    let file = wire.fleet.dir.path().join("links.json");
    std::fs::write(&file, serde_json::Value::Object(links).to_string()).unwrap();
    let mut args = wire.outside_args();
    let at = args.iter().position(|a| a == "--registry").unwrap();
    args[at + 1] = format!("etcd://{}", registry.addr);
    args.extend(["--links".into(), file.display().to_string()]);
    taps.push(("the registry".into(), registry));
    let edge = Router::start_as(sabotage, "edge", wire.fleet.dir.path(), &args).await;
    let users = Tap::start(wire.at).await;
    let users_come_to = users.addr;
    taps.push(("users".into(), users));
    Outside { edge, taps, users_come_to }
}

impl Outside {
    /// Where the mark is, of all places where it must not be.
    fn found(&self, wire: &Wire, mark: &str) -> Vec<String> {
        let mark = mark.as_bytes();
        let mut places = Vec::new();
        let (found, looked) = in_memory(self.edge.process.pid(), mark);
        assert!(looked > 1 << 20, "only {looked} bytes of memory were looked at");
        if found {
            places.push("the memory of the edge outside".to_owned());
        }
        let tapped = self.taps.iter().filter(|(_, tap)| tap.holds(mark));
        places.extend(tapped.map(|(what, _)| format!("the link to {what}")));
        let dir = wire.fleet.dir.path();
        let files = [dir.join("edge"), dir.join("edge.log"), self.edge.process.spec().log().to_owned()];
        places.extend(files.iter().filter_map(|f| in_files(f, mark)).map(|f| f.display().to_string()));
        places
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_plaintext_exists_outside() {
    let mut wire = Wire::new(None).await;
    let outside = outside(&wire, Sabotage::None).await;
    let mark = format!("mark-{}", uuid::Uuid::new_v4().simple());
    let users = Users::start(&wire.ca.pem, outside.users_come_to, &mark);
    let none = |wire: &Wire, phase: &str| {
        assert_eq!(outside.found(wire, &mark), Vec::<String>::new(), "{phase}");
    };
    users.more("users are served", &users.answered, 20).await;
    none(&wire, "serving");
    // The control: it is in the memory of the edge inside, and in its log.
    eventually(SOON, "the search finds the mark inside", || async {
        in_memory(wire.east.process.pid(), mark.as_bytes()).0
            && in_files(&wire.fleet.dir.path().join("inside-us-east-1.log"), mark.as_bytes()).is_some()
    })
    .await
    .unwrap();

    wire.fleet.hold(30_000).await;
    users.more("some wait", &users.answered, 0).await;
    eventually(SOON, "requests are held", || async {
        crate::splice::number(&wire.west, "domicile_router_holding").await > 0.5
    })
    .await
    .unwrap();
    none(&wire, "holding");
    wire.fleet.serve("us-west-2").await;
    users.more("users are served in the west", &users.answered, 20).await;
    none(&wire, "after a move");

    wire.west.process.kill();
    users.more("users are served by way of the other edge", &users.answered, 10).await;
    none(&wire, "with an edge inside dead");
    wire.east.process.kill();
    users.more("users are refused", &users.failed, 10).await;
    none(&wire, "with no edge inside");
    wire.fleet.etcd.pause(0);
    users.more("users are refused without a registry, too", &users.failed, 10).await;
    none(&wire, "without a registry");
    wire.fleet.etcd.resume(0);
    wire.east = Wire::inside(&wire.fleet, &wire.ca, "us-east-1").await;
    users.more("users are served again", &users.answered, 10).await;
    none(&wire, "at the end");
    let used = outside.taps.iter().filter(|(_, tap)| tap.bytes() > 0).count();
    assert!(used >= 4, "users, two edges and the registry: {used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_that_rule_the_search_finds_it_outside() {
    let wire = Wire::new(None).await;
    let outside = outside(&wire, Sabotage::DecryptsOutside).await;
    let mark = format!("mark-{}", uuid::Uuid::new_v4().simple());
    let users = Users::start(&wire.ca.pem, outside.users_come_to, &mark);
    users.more("users are served", &users.answered, 20).await;
    let mut places = Vec::new();
    eventually(SOON, "the search finds the mark outside", || {
        places = outside.found(&wire, &mark);
        let all = ["memory", "gate of us-east-1", "edge.log"];
        let found = all.iter().all(|what| places.iter().any(|p| p.contains(what)));
        async move { found }
    })
    .await
    .unwrap_or_else(|e| panic!("{e}"));
}
