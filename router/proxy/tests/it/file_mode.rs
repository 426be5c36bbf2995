//! `--registry file:regions.toml`: a router alone, with any HTTP server behind.

use std::path::{Path, PathBuf};

use domicile_chaos_kit::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{Origin, Router, SOON, client};

pub(crate) fn regions(dir: &Path, east: &Origin, west: &Origin, primary: &str) -> PathBuf {
    let dr = if primary == "us-east-1" { "us-west-2" } else { "us-east-1" };
    let text = format!(
        r#"
[regions]
us-east-1 = {{ country = "US", ingress = ["{}"] }}
us-west-2 = {{ country = "US", ingress = ["{}"] }}

[tenants.mercy]
primary   = "{primary}"
dr        = "{dr}"
hosts     = ["mercy.example.com", "*.mercy.example.com"]
residency = ["US"]
"#,
        east.addr, west.addr
    );
    let path = dir.join("regions.toml");
    // As an editor does: written beside, then renamed, so that no half file is ever read.
    std::fs::write(dir.join("regions.new"), text).unwrap();
    std::fs::rename(dir.join("regions.new"), &path).unwrap();
    path
}

async fn start(dir: &Path) -> (Router, Origin, Origin) {
    let (east, west) = (Origin::start("east").await, Origin::start("west").await);
    regions(dir, &east, &west, "us-east-1");
    (alone(dir).await, east, west)
}

pub(crate) async fn alone(dir: &Path) -> Router {
    alone_with(dir, &[]).await
}

pub(crate) async fn alone_with(dir: &Path, more: &[&str]) -> Router {
    let path = dir.join("regions.toml");
    let log = dir.join("access.log").display().to_string();
    let args =
        ["--registry".into(), format!("file:{}", path.display()), "--region".into(), "us-east-1".into()];
    let more: Vec<String> = more.iter().map(ToString::to_string).collect();
    let args = [&args[..], &["--access-log".into(), log], &more].concat();
    Router::start("alone", dir, &args).await
}

#[tokio::test]
async fn routes_by_host_and_keeps_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (router, east, _west) = start(dir.path()).await;
    let client = client();
    for host in ["mercy.example.com", "MERCY.example.com:8080", "ward-3.mercy.example.com"] {
        let answer = client.get(router.url("/a?name=secret")).header("host", host).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["domicile-epoch"], "1");
        assert_eq!(answer.headers()["domicile-region"], "us-east-1");
        assert!(answer.headers().contains_key("domicile-request-id"));
        assert_eq!(answer.text().await.unwrap(), "east GET 0");
    }
    let body = vec![7u8; 3 << 20];
    let post = client.post(router.url("/")).header("host", "mercy.example.com").body(body);
    assert_eq!(post.send().await.unwrap().text().await.unwrap(), "east POST 3145728");
    // One connection, twice.
    let mut raw = tokio::net::TcpStream::connect(router.listen).await.unwrap();
    for _ in 0..2 {
        raw.write_all(b"GET / HTTP/1.1\r\nHost: mercy.example.com\r\n\r\n").await.unwrap();
        let mut buf = vec![0; 4096];
        let n = raw.read(&mut buf).await.unwrap();
        assert!(buf[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buf[..n]));
    }
    assert_eq!(east.hits(), 6);
    let log = dir.path().join("access.log");
    eventually(SOON, "the access log has six lines", || async {
        std::fs::read_to_string(&log).is_ok_and(|l| l.lines().count() == 6)
    })
    .await
    .unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("secret"), "{text}");
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((line["tenant"].as_str(), line["status"].as_u64()), (Some("mercy"), Some(200)));
}

#[tokio::test]
async fn an_unknown_host_is_a_problem_and_what_clients_claim_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (router, east, _west) = start(dir.path()).await;
    let answer = router.get("nobody.example.com", "/").await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let text = answer.text().await.unwrap();
    assert!(text.contains("https://domicile.dev/problems/unknown-host"), "{text}");
    assert!(!text.contains("127.0.0.1"), "{text}");
    let answer = client()
        .get(router.url("/"))
        .header("host", "mercy.example.com")
        .header("domicile-tenant", "other")
        .header("domicile-epoch", "77")
        .header("Domicile-Made-Up", "x")
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let seen = east.last();
    assert_eq!(seen["domicile-tenant"], "mercy");
    assert_eq!(seen["domicile-epoch"], "1");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["forwarded"], "for=127.0.0.1;proto=http");
    assert_eq!(seen["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert!(!seen.contains_key("domicile-made-up"));
}

#[tokio::test]
async fn a_changed_file_moves_the_tenant_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (router, east, west) = start(dir.path()).await;
    std::fs::write(dir.path().join("regions.toml"), "[regions\nbroken").unwrap();
    let at = router.admin("/table").await.1;
    for _ in 0..20 {
        assert_eq!(router.get("mercy.example.com", "/").await.unwrap().status(), 200);
    }
    assert!(at.contains("\"source\":\"live\""), "{at}");
    regions(dir.path(), &east, &west, "us-west-2");
    eventually(SOON, "the tenant is served in us-west-2 under a higher epoch", || async {
        let answer = router.get("mercy.example.com", "/").await.unwrap();
        // The one that was on its way while the file changed: answered in the east, and the west serves by now.
        if answer.status() == 502 {
            return false;
        }
        answer.headers()["domicile-region"] == "us-west-2" && answer.headers()["domicile-epoch"] != "1"
    })
    .await
    .unwrap();
    assert!(west.hits() > 0);
}

#[tokio::test]
async fn a_region_that_does_not_answer_is_a_503_and_the_next_address_is_tried() {
    let dir = tempfile::tempdir().unwrap();
    let (router, east, west) = start(dir.path()).await;
    let path = dir.path().join("regions.toml");
    let dead = domicile_chaos_kit::ports::free_address().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let two = text.replace(&format!("[\"{}\"]", east.addr), &format!("[\"{dead}\", \"{}\"]", east.addr));
    std::fs::write(&path, &two).unwrap();
    eventually(SOON, "the first address is refused and the second one answers", || async {
        let metrics = router.admin("/metrics").await.1;
        let answer = client()
            .post(router.url("/"))
            .header("host", "mercy.example.com")
            .body("x")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        metrics.lines().any(|l| l.starts_with("domicile_router_next_address_total") && !l.ends_with(" 0"))
    })
    .await
    .unwrap();
    std::fs::write(&path, two.replace(&format!(", \"{}\"", east.addr), "")).unwrap();
    eventually(SOON, "without the second address it is a 503", || async {
        let answer = router.get("mercy.example.com", "/").await.unwrap();
        answer.status() == 503 && answer.headers().contains_key("retry-after")
    })
    .await
    .unwrap();
    assert_eq!(west.hits(), 0, "never another region");
}

#[tokio::test]
async fn malformed_requests_do_not_kill_it() {
    let dir = tempfile::tempdir().unwrap();
    let (router, _east, _west) = start(dir.path()).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: mercy.example.com\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1_000));
    let fixed: [&[u8]; 14] = [
        b"\r\n\r\n",
        b"\0\0\0\0",
        b"GET",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://[::1:80/ HTTP/1.1\r\nHost: mercy.example.com\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"CONNECT mercy.example.com:443 HTTP/1.1\r\nHost: mercy.example.com\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: mercy.example.com\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: mercy.example.com\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: mercy.example.com\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut all: Vec<Vec<u8>> = fixed.iter().map(|b| b.to_vec()).collect();
    let good = b"POST /p?q HTTP/1.1\r\nHost: mercy.example.com\r\nDomicile-Pass: 1.a.b.9.00\r\nContent-Length: 3\r\n\r\nabc";
    for _ in 0..300 {
        let mut bytes = good.to_vec();
        for _ in 0..=random() % 6 {
            let at = usize::try_from(random()).unwrap() % bytes.len();
            bytes[at] = random().to_le_bytes()[0];
        }
        bytes.truncate(bytes.len() - usize::try_from(random()).unwrap() % 20);
        all.push(bytes);
    }
    for bytes in all {
        let mut raw = tokio::net::TcpStream::connect(router.listen).await.unwrap();
        let _ = raw.write_all(&bytes).await;
        let _ = raw.shutdown().await;
        let mut out = Vec::new();
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), raw.read_to_end(&mut out)).await;
    }
    let answer = router.get("mercy.example.com", "/").await.unwrap();
    let status = answer.status();
    assert_eq!(status, 200, "{}\n{}", answer.text().await.unwrap(), router.process.tail());
    let log = router.process.tail();
    assert!(!log.contains("panicked"), "{log}");
}

/// As old clients speak: no Host is needed in HTTP/1.0, but a router can't do without; the answer ends with the connection.
#[tokio::test]
async fn http_1_0_is_answered_and_ends_with_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (router, east, _west) = start(dir.path()).await;
    let ask = async |head: &str| {
        let mut raw = tokio::net::TcpStream::connect(router.listen).await.unwrap();
        raw.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(SOON, raw.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    };
    let answer = ask("GET / HTTP/1.0\r\nHost: mercy.example.com\r\n\r\n").await;
    assert!(answer.contains(" 200 OK\r\n") && answer.ends_with("east GET 0"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    let answer = ask("GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 400 "), "{answer}");
    assert_eq!(east.hits(), 1);
}
