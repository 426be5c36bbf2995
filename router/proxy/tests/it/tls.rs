//! TLS towards clients, with clients that others wrote: curl and openssl.

use std::path::Path;

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::{Authority, curl, s_client};
use crate::kit::{BIN, Fleet, Origin, Router, SOON};
use crate::slow_tls::pretending_hello;

const HOST: &str = "mercy.example.com";
const GET: &str = "GET / HTTP/1.1\r\nHost: mercy.example.com\r\nConnection: close\r\n\r\n";

struct Stage {
    dir: tempfile::TempDir,
    ca: Authority,
    router: Router,
    at: std::net::SocketAddr,
    origin: Origin,
}

impl Stage {
    fn certs(&self) -> std::path::PathBuf {
        self.dir.path().join("certs")
    }
}

/// A router with TLS in front of an application, for `mercy.example.com` and everything one label below it.
async fn stage(more: impl FnOnce(&Path) -> Vec<String>) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start("east").await;
    let ca = Authority::new(dir.path(), "ca");
    let certs = dir.path().join("certs");
    ca.issue(&certs, "mercy", &[HOST], 2040);
    ca.issue(&certs, "wards", &["*.mercy.example.com"], 2040);
    let text = format!(
        "[regions]\nus-east-1 = {{ country = \"US\", ingress = [\"{}\"] }}\n\
         us-west-2 = {{ country = \"US\", ingress = [\"127.0.0.1:1\"] }}\n\
         [tenants.mercy]\nprimary = \"us-east-1\"\ndr = \"us-west-2\"\n\
         hosts = [\"{HOST}\", \"*.mercy.example.com\"]\n[tenants.other]\nprimary = \"us-east-1\"\ndr = \"us-west-2\"\n\
         hosts = [\"other.example.com\"]\n",
        origin.addr
    );
    std::fs::write(dir.path().join("regions.toml"), text).unwrap();
    let at = free_address().unwrap();
    let mut args = vec![
        "--registry".into(),
        format!("file:{}", dir.path().join("regions.toml").display()),
        "--listen-tls".into(),
        at.to_string(),
        "--tls-certs".into(),
        certs.display().to_string(),
    ];
    args.extend(more(dir.path()));
    let router = Router::start("router", dir.path(), &args).await;
    Stage { dir, ca, router, at, origin }
}

#[tokio::test]
async fn curl_gets_every_version_by_exact_and_by_wildcard_name() {
    let s = stage(|_| vec![]).await;
    for (args, said) in [
        (["--http1.1", "--tlsv1.2", "--tls-max", "1.2"], "east GET 0|1.1|0"),
        (["--http1.1", "--tlsv1.3", "--tls-max", "1.3"], "east GET 0|1.1|0"),
        (["--http2", "--tlsv1.2", "--tls-max", "1.2"], "east GET 0|2|0"),
        (["--http2", "--tlsv1.3", "--tls-max", "1.3"], "east GET 0|2|0"),
    ] {
        for host in [HOST, "ward-3.mercy.example.com"] {
            let url = format!("https://{host}/");
            let what = [&args[..], &["-w", "|%{http_version}|%{ssl_verify_result}", &url]].concat();
            let answer = curl(&s.ca, s.at, host, &what).await;
            assert_eq!((answer.code, answer.out.as_str()), (0, said), "{args:?} {host}");
            let seen = s.origin.last();
            assert_eq!(seen["x-forwarded-proto"], "https");
            assert_eq!(seen["forwarded"], "for=127.0.0.1;proto=https");
            assert_eq!(seen["x-forwarded-host"], host);
        }
    }
    // A body both ways over HTTP/2.
    std::fs::write(s.dir.path().join("body"), vec![7; 3 << 20]).unwrap();
    let body = format!("@{}", s.dir.path().join("body").display());
    let url = format!("https://{HOST}/");
    let answer = curl(&s.ca, s.at, HOST, &["--http2", "--data-binary", &body, &url]).await;
    assert_eq!(answer.out, "east POST 3145728");
    let old = curl(&s.ca, s.at, HOST, &["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", &url]).await;
    assert_ne!(old.code, 0, "what is older than 1.2 is not spoken: {}", old.out);
}

#[tokio::test]
async fn only_1_3_where_told_so() {
    let s = stage(|_| vec!["--tls-min".into(), "1.3".into()]).await;
    let url = format!("https://{HOST}/");
    assert_ne!(curl(&s.ca, s.at, HOST, &["--tls-max", "1.2", &url]).await.code, 0);
    assert_eq!(curl(&s.ca, s.at, HOST, &["--tlsv1.3", &url]).await.out, "east GET 0");
}

#[tokio::test]
async fn an_unknown_name_and_no_name_are_turned_away_in_the_clear() {
    let s = stage(|_| vec![]).await;
    // `other.example.com` is a tenant's host, but nobody gave this router a certificate for it.
    for name in [
        &["-servername", "other.example.com"][..],
        &["-servername", "a.b.mercy.example.com"],
        &["-noservername"],
    ] {
        let said = s_client(s.at, name, GET).await;
        assert!(
            said.out.contains("unrecognized name") && said.out.contains("no peer certificate"),
            "{}",
            said.out
        );
    }
    s.router.counts(r#"domicile_router_connections_refused_total{why="unknown-name"} 2"#).await;
    s.router.counts(r#"domicile_router_connections_refused_total{why="no-name"} 1"#).await;
    assert_eq!(s.origin.hits(), 0);
}

#[tokio::test]
async fn a_connection_is_for_the_hosts_of_its_certificate_only() {
    let s = stage(|_| vec![]).await;
    for version in ["--http1.1", "--http2"] {
        let url = format!("https://{HOST}/");
        let other = ["-H", "Host: other.example.com", "-w", "|%{http_code}", version, &url];
        let answer = curl(&s.ca, s.at, HOST, &other).await;
        assert!(answer.out.ends_with("|421") && answer.out.contains("other-host"), "{}", answer.out);
    }
    assert_eq!(s.origin.hits(), 0);
}

#[tokio::test]
async fn sessions_are_resumed() {
    let s = stage(|_| vec![]).await;
    let file = s.dir.path().join("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let common = [version, "-servername", HOST, "-ign_eof"];
        let first = s_client(s.at, &[&common[..], &["-sess_out", &file]].concat(), GET).await;
        assert!(first.out.contains("New, TLSv1.") && first.out.contains("200 OK"), "{}", first.out);
        let again = s_client(s.at, &[&common[..], &["-sess_in", &file]].concat(), GET).await;
        assert!(
            again.out.contains("Reused, TLSv1.") && again.out.contains("200 OK"),
            "{version} {}",
            again.out
        );
    }
}

#[tokio::test]
async fn clients_show_certificates_where_told_so() {
    for required in [false, true] {
        let s = stage(|dir| {
            let users = Authority::new(dir, "users");
            users.issue(dir, "nurse", &["nurse.example.com"], 2040);
            let strangers = Authority::new(dir, "strangers");
            strangers.issue(dir, "stranger", &["nurse.example.com"], 2040);
            let mut args = vec!["--tls-client-ca".into(), users.pem.display().to_string()];
            if required {
                args.extend(["--tls-client-auth".into(), "required".into()]);
            }
            args
        })
        .await;
        let path = |name: &str| s.dir.path().join(name).display().to_string();
        let url = format!("https://{HOST}/");
        let without = curl(&s.ca, s.at, HOST, &["-H", "Client-Cert: :Zm9yZ2Vk:", &url]).await;
        if required {
            assert_ne!(without.code, 0, "{}", without.out);
        } else {
            assert_eq!(without.out, "east GET 0");
            assert!(!s.origin.last().contains_key("client-cert"), "what a client claims is dropped");
        }
        let show = |name: &str| [path(&format!("{name}.crt")), path(&format!("{name}.key"))];
        let [cert, key] = show("nurse");
        let with = curl(&s.ca, s.at, HOST, &["--cert", &cert, "--key", &key, &url]).await;
        assert_eq!((with.code, with.out.as_str()), (0, "east GET 0"));
        // The certificate in PEM is base64 of the same bytes, in lines.
        let pem = std::fs::read_to_string(&cert).unwrap();
        let pem: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
        assert_eq!(s.origin.last()["client-cert"], format!(":{pem}:"));
        let [cert, key] = show("stranger");
        let bad = curl(&s.ca, s.at, HOST, &["--cert", &cert, "--key", &key, &url]).await;
        assert_ne!(bad.code, 0, "a certificate of another authority: {}", bad.out);
    }
}

#[tokio::test]
async fn certificates_are_replaced_under_an_open_connection() {
    let s = stage(|_| vec![]).await;
    let url = format!("https://{HOST}/gated");
    let args = ["--http2", &url];
    let hold = curl(&s.ca, s.at, HOST, &args);
    let change = async {
        eventually(SOON, "the request is in flight", || async { s.origin.hits() == 1 }).await.unwrap();
        let known = || async { s.router.admin("/certificates").await.1 };
        // A renewal, half written: the chain is new, the key is not.
        let key = std::fs::read(s.certs().join("mercy.key")).unwrap();
        let pair = s.ca.issue(&s.certs(), "mercy", &[HOST, "renewed.mercy.example.com"], 2041);
        let renewed = std::fs::read(&pair.key).unwrap();
        std::fs::write(&pair.key, key).unwrap();
        eventually(SOON, "it is seen", || async { known().await.contains("is not the key of") })
            .await
            .unwrap();
        let said = s_client(s.at, &["-servername", HOST], "").await;
        assert!(said.out.contains("BEGIN CERTIFICATE"), "the old pair still serves: {}", said.out);
        s.router.counts(r#"domicile_router_certificates{state="unusable"} 1"#).await;
        // The other half.
        std::fs::write(&pair.key, renewed).unwrap();
        eventually(SOON, "the new one serves", || async { known().await.contains("renewed.mercy") })
            .await
            .unwrap();
        // One that ends soon, for a name that had none.
        s.ca.issue(&s.certs(), "old", &["other.example.com"], 2020);
        eventually(SOON, "the other one as well", || async { known().await.contains("other.example.com") })
            .await
            .unwrap();
        s.router.counts(r#"domicile_router_certificates{state="ended"} 1"#).await;
        s.router.counts(r#"domicile_router_certificates{state="good"} 2"#).await;
        s.router.counts("domicile_router_certificate_first_end_timestamp_seconds 1577836800").await;
        // What was taken away is not served any more.
        std::fs::remove_file(s.certs().join("wards.crt")).unwrap();
        eventually(SOON, "it is gone", || async { !known().await.contains("*.mercy") }).await.unwrap();
        s.origin.let_go();
    };
    let (answer, ()) = tokio::join!(hold, change);
    assert_eq!((answer.code, answer.out.as_str()), (0, "east GET 0"), "the open connection was not touched");
    let now = s_client(s.at, &["-servername", "renewed.mercy.example.com"], "").await;
    assert!(now.out.contains("BEGIN CERTIFICATE"), "{}", now.out);
    // Told so it looks at once, changed or not; the signal must not end it.
    let reads = || s.router.process.tail().matches("read again").count();
    let before = reads();
    s.router.process.hang_up();
    eventually(SOON, "it has read them again", || async { reads() > before }).await.unwrap();
}

#[tokio::test]
async fn what_can_not_be_used_is_said_at_once_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new(dir.path(), "ca");
    let certs = dir.path().join("certs");
    ca.issue(&certs, "a", &["a.example.com"], 2040);
    ca.issue(&certs, "b", &["b.example.com"], 2040);
    std::fs::copy(certs.join("a.key"), certs.join("b.key")).unwrap();
    std::fs::write(certs.join("c.crt"), "x").unwrap();
    std::fs::write(dir.path().join("regions.toml"), "[regions]\n").unwrap();
    let file = format!("file:{}", dir.path().join("regions.toml").display());
    let at = free_address().unwrap().to_string();
    let certs = certs.display().to_string();
    let args = ["--registry", &file, "--listen-tls", &at, "--tls-certs", &certs].map(ToOwned::to_owned);
    let router = Router::launch("bad", dir.path(), BIN, &args, None);
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(1));
    let log = router.process.tail();
    assert!(log.contains("b.key: is not the key of") && log.contains("c.crt: has no key beside it"), "{log}");
}

/// Its probe goes through both listeners, or it would never acknowledge.
#[tokio::test]
async fn an_edge_with_tls_takes_part_in_moves() {
    let fleet = Fleet::new().await;
    let ca = Authority::new(fleet.dir.path(), "ca");
    let certs = fleet.dir.path().join("certs");
    ca.issue(&certs, "mercy", &[HOST], 2040);
    let tls = |at: std::net::SocketAddr| {
        ["--listen-tls".into(), at.to_string(), "--tls-certs".into(), certs.display().to_string()]
    };
    let at = free_address().unwrap();
    let args = [fleet.args("edge", "edge", "eu-west-1"), tls(at).to_vec()].concat();
    let edge = Router::start("edge", fleet.dir.path(), &args).await;
    eventually(SOON, "it acknowledges", || async { fleet.router_state("edge").await.is_some() })
        .await
        .unwrap();
    let gate = fleet.gate("us-east-1").await;
    crate::kit::until_status(&gate, "/", 200).await;
    let url = format!("https://{HOST}/");
    let answer = curl(&ca, at, HOST, &["--http2", &url]).await;
    assert_eq!(answer.out, "east GET 0", "{}", edge.process.tail());
}

#[tokio::test]
async fn a_client_without_a_name_is_served_where_told_so() {
    let s = stage(|_| vec!["--tls-default-name".into(), HOST.into()]).await;
    let said = s_client(s.at, &["-noservername", "-quiet"], GET).await;
    assert!(said.out.contains("east GET 0"), "{}", said.out);
    let said = s_client(s.at, &["-servername", "nobody.example.com"], GET).await;
    assert!(said.out.contains("unrecognized name"), "only who names nobody: {}", said.out);
}

/// The first bytes of the answer to a hello.
async fn answer_to(at: std::net::SocketAddr, hello: &[u8]) -> Vec<u8> {
    let mut socket = tokio::net::TcpStream::connect(at).await.unwrap();
    socket.write_all(hello).await.unwrap();
    let mut said = vec![0; 7];
    let n = tokio::time::timeout(SOON, socket.read(&mut said)).await.unwrap().unwrap_or(0);
    said.truncate(n);
    said
}

#[tokio::test]
async fn an_encrypted_hello_goes_by_its_outer_name_or_is_refused() {
    const HANDSHAKE: u8 = 22;
    let hello = pretending_hello(HOST);
    let s = stage(|_| vec![]).await;
    assert_eq!(answer_to(s.at, &hello).await.first(), Some(&HANDSHAKE));
    let s = stage(|_| vec!["--tls-encrypted-hello".into(), "refuse".into()]).await;
    // `access_denied`, fatal.
    assert_eq!(answer_to(s.at, &hello).await, [21, 3, 3, 0, 2, 2, 49]);
    assert!(curl(&s.ca, s.at, HOST, &[&format!("https://{HOST}/")]).await.out.starts_with("east"), "others");
}
