//! `domicile failover approve` against a control plane of a few lines: what is seen before anything is said.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use domicile_cli::exit::Exit;
use domicile_cli::out::Out;
use domicile_cli::{Asked, parse, run};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ID: &str = "00000000-0000-0000-0000-000000000007";

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn view(hash: &str) -> Value {
    json!({
        "id": ID, "kind": "switchover", "cell": "c", "from": "us-east-1", "to": "us-west-2",
        "status": { "is": "running" }, "step": "approve", "steps": ["claim", "approve", "settle"], "by": "ann",
        "created": "2026-11-22T20:00:00Z", "updated": "2026-11-22T20:00:00Z", "facts": {}, "log": [],
        "approval": {
            "need": "two", "hash": hash, "until": "2026-11-22T21:00:00Z", "expires_ms": 3_600_000,
            "saw": [{ "name": "lag", "verdict": "passed", "why": "# bytes, data # ms old" }],
            "given": [{ "by": "bob", "at": "2026-11-22T20:01:00Z", "hash": hash, "note": "fine" }],
        },
    })
}

/// Answers everything with this move; keeps the bodies of what was posted.
struct Plane {
    address: String,
    posted: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Plane {
    async fn start(view: Value) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let posted: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = posted.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = String::new();
                let mut bytes = [0; 4096];
                // A request is complete with its head, and, if it has a body, with the brace that ends it.
                while !request.contains("\r\n\r\n")
                    || (request.starts_with("POST") && !request.ends_with('}'))
                {
                    let n = stream.read(&mut bytes).await.unwrap();
                    request.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
                }
                if request.starts_with("POST") {
                    kept.lock().unwrap().push(request);
                }
                let body = view.to_string();
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        Self { address, posted, task }
    }

    async fn ask(&self, args: &[&str], answer: Option<&'static [u8]>) -> (Exit, String, String) {
        self.ask_at(&self.address, args, answer).await
    }

    /// With these servers.
    async fn ask_at(
        &self,
        servers: &str,
        args: &[&str],
        answer: Option<&'static [u8]>,
    ) -> (Exit, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "t").unwrap();
        let token = format!("file:{}", token.display());
        let words = ["domicile", "--server", servers, "--token", &token, "failover"];
        let Asked::Client(cli) = parse(words.iter().chain(args).map(Into::into)) else { panic!("{args:?}") };
        let (stdout, stderr) = (Page::default(), Page::default());
        let mut out = Out {
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
            answers: answer.map(|a| Box::new(a) as Box<dyn std::io::BufRead + Send>),
            live: false,
            json: cli.global.json,
        };
        let exit = run(&cli, &mut out).await;
        let text = |page: &Page| String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        (exit, text(&stdout), text(&stderr))
    }

    fn posted(&self) -> usize {
        self.posted.lock().unwrap().len()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn what_is_approved_is_seen_first_and_its_hash_is_what_is_sent() {
    let hash = "5".repeat(64);
    let plane = Plane::start(view(&hash)).await;
    let (exit, _, stderr) = plane.ask(&["approve", ID, "--dry-run"], None).await;
    assert_eq!((exit, plane.posted()), (Exit::Ok, 0));
    for seen in [
        "switchover of cell c from us-east-1 to us-west-2, asked for by ann",
        "lag: # bytes",
        "bob at",
        &hash,
    ] {
        assert!(stderr.contains(seen), "{seen}: {stderr}");
    }
    // Nobody is there to ask, or says no: nothing is said to the control plane.
    assert_eq!(plane.ask(&["approve", ID], None).await.0, Exit::Usage);
    assert_eq!(plane.ask(&["approve", ID], Some(b"n\n")).await.0, Exit::NotDone);
    let other = "6".repeat(64);
    let (exit, _, stderr) = plane.ask(&["approve", ID, "--hash", &other, "--yes"], None).await;
    assert!(exit == Exit::NotDone && stderr.contains("not what --hash names"), "{stderr}");
    assert_eq!(plane.posted(), 0);
    for (args, answer) in [
        (&["approve", ID][..], Some(&b"y\n"[..])),
        (&["approve", ID, "--yes", "--reason", "seen"], None),
        (&["approve", ID, "--hash", &hash], None),
    ] {
        let (exit, stdout, stderr) = plane.ask(args, answer).await;
        assert_eq!((exit, stdout.trim()), (Exit::Ok, ID), "{stderr}");
    }
    let posted = plane.posted.lock().unwrap().clone();
    assert_eq!(posted.len(), 3);
    assert!(
        posted.iter().all(|p| p.contains(&hash) && p.starts_with(&format!("POST /v1/moves/{ID}/approve")))
    );
    assert!(posted[1].contains("\"reason\":\"seen\""));
}

#[tokio::test]
async fn a_move_that_waits_for_nobody_is_not_approved() {
    let mut running = view(&"5".repeat(64));
    running["step"] = json!("settle");
    let plane = Plane::start(running).await;
    let (exit, _, stderr) = plane.ask(&["approve", ID, "--yes"], None).await;
    assert!(exit == Exit::NotDone && stderr.contains("waits for nobody's approval"), "{stderr}");
    assert_eq!(plane.posted(), 0);
}

/// A server whose machine was stopped accepts connections for as long as its kernel does, and never answers. An order must
/// not go there first: it could neither be done nor be repeated.
#[tokio::test]
async fn an_order_goes_round_a_control_plane_that_does_not_say_that_it_lives() {
    let plane = Plane::start(view(&"5".repeat(64))).await;
    let stopped = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = format!("{},{}", stopped.local_addr().unwrap(), plane.address);
    let (exit, stdout, stderr) = plane.ask_at(&servers, &["approve", ID, "--yes"], None).await;
    assert_eq!((exit, stdout.trim()), (Exit::Ok, ID), "{stderr}");
    assert_eq!(plane.posted(), 1);
}
