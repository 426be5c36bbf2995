//! Load generators that others wrote: whatever they send is answered.

use std::process::Stdio;

use domicile_chaos_kit::ports::free_address;
use tokio::process::Command;

use crate::authority::Authority;
use crate::hardening::{HOST, regions};
use crate::kit::{Origin, Router};

struct Stage {
    dir: tempfile::TempDir,
    origin: Origin,
    edge: Router,
    secure: std::net::SocketAddr,
}

async fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start("east").await;
    let certs = dir.path().join("certs");
    Authority::new(dir.path(), "ca").issue(&certs, "mercy", &[HOST], 2040);
    let secure = free_address().unwrap();
    let (at, certs) = (secure.to_string(), certs.display().to_string());
    let tls = ["--listen-tls", &at, "--tls-certs", &certs, "--tls-default-name", HOST];
    let args = [&regions(dir.path(), "edge.toml", origin.addr)[..], &tls.map(ToOwned::to_owned)].concat();
    let edge = Router::start("edge", dir.path(), &args).await;
    Stage { dir, origin, edge, secure }
}

async fn run(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    let done = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup tools installs it"));
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

/// Requests over HTTP/1.1 and HTTP/2, in the clear and in TLS, small and with a body: all of them succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_sees_no_failure() {
    let s = stage().await;
    let body = s.dir.path().join("body");
    std::fs::write(&body, vec![b'x'; 100_000]).unwrap();
    let body = format!("--data={}", body.display());
    let all = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
    for (scheme, at) in [("http", s.edge.listen), ("https", s.secure)] {
        for more in [&["-m", "20"][..], &["--h1"], &["-m", "20", &body]] {
            let before = s.origin.hits();
            let (url, to) = (format!("{scheme}://{HOST}/"), format!("--connect-to={at}"));
            let said = run("h2load", &[&["-n", "2000", "-c", "10", &to], more, &[&url]].concat()).await;
            assert!(said.contains(all), "{scheme} {more:?}: {said}");
            assert!(said.contains("2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{scheme} {more:?}: {said}");
            assert_eq!(
                s.origin.hits() - before,
                2000,
                "{scheme} {more:?}: each reached the application once"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrk_sees_no_failure() {
    let s = stage().await;
    for (scheme, at) in [("http", s.edge.listen), ("https", s.secure)] {
        let before = s.origin.hits();
        // Its handshake asks for the address, which is no name.
        let (url, host) = (format!("{scheme}://{at}/"), format!("Host: {HOST}"));
        let said = run("wrk", &["-t2", "-c16", "-d2s", "-H", &host, &url]).await;
        assert!(said.contains("requests in"), "{scheme}: {said}");
        // It says so only if there were any.
        assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{scheme}: {said}");
        assert!(s.origin.hits() > before, "{scheme}: {said}");
    }
}
