//! TLS between routers: who is believed, and who is spoken to.

use std::net::SocketAddr;

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::process::{Process, Spec};
use domicile_router::config::Sabotage;

use crate::authority::{Authority, Pair, curl};
use crate::kit::{Fleet, HOST, Router, SOON, client, until_status};

/// A fleet whose routers show each other certificates.
struct Sealed {
    fleet: Fleet,
    routers: Authority,
}

impl Sealed {
    async fn new() -> Self {
        let fleet = Fleet::new().await;
        let routers = Authority::new(fleet.dir.path(), "routers");
        Self { fleet, routers }
    }

    fn pair(&self, file: &str, name: &str) -> Pair {
        self.routers.issue(self.fleet.dir.path(), file, &[name], 2040)
    }

    /// Arguments of a router that shows this name, with no network believed.
    fn args(&self, role: &str, id: &str, region: &str, pair: &Pair) -> Vec<String> {
        let mut args = self.fleet.args(role, id, region);
        let at = args.iter().position(|a| a == "--trusted-networks").unwrap();
        args.drain(at..at + 2);
        let path = |p: &std::path::Path| p.display().to_string();
        for (option, value) in [
            ("--peer-ca", path(&self.routers.pem)),
            ("--peer-cert", path(&pair.chain)),
            ("--peer-key", path(&pair.key)),
        ] {
            args.extend([option.to_owned(), value]);
        }
        args
    }

    /// A gate that takes routers at its region's ingress.
    async fn gate(&self, region: &str) -> Router {
        self.gate_at(region, self.fleet.gates[region]).await
    }

    async fn gate_at(&self, region: &str, at: SocketAddr) -> Router {
        let id = format!("gate-{region}");
        let pair = self.pair(&id, &format!("gate.{region}.domicile.internal"));
        let mut args = self.args("gate", &id, region, &pair);
        if let Some(listen) = args.iter().position(|a| a == "--listen") {
            args.drain(listen..listen + 2);
        }
        args.extend(["--listen-tls".into(), at.to_string()]);
        Router::start(&id, self.fleet.dir.path(), &args).await
    }

    async fn edge_as(&self, sabotage: Sabotage) -> Router {
        let pair = self.pair("edge", "edge.eu-west-1.domicile.internal");
        let args = self.args("edge", "edge", "eu-west-1", &pair);
        Router::start_as(sabotage, "edge", self.fleet.dir.path(), &args).await
    }
}

#[tokio::test]
async fn requests_go_from_edge_to_gate_in_tls() {
    let s = Sealed::new().await;
    let (_gate, edge) = (s.gate("us-east-1").await, s.edge_as(Sabotage::None).await);
    until_status(&edge, "/", 200).await;
    let answer = edge.get(HOST, "/").await.unwrap();
    assert_eq!(answer.headers()["domicile-region"], "us-east-1");
    let seen = s.fleet.east.last();
    assert_eq!(seen["domicile-tenant"], "mercy");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1", "the gate believes what the edge has written");
    let body = vec![7u8; 3 << 20];
    let post = client().post(edge.url("/")).header("host", HOST).body(body).send().await.unwrap();
    assert_eq!(post.text().await.unwrap(), "east POST 3145728");
    // A move: the 421 of the old gate is followed to the new one, in TLS as well.
    let west = s.gate("us-west-2").await;
    until_status(&edge, "/", 200).await;
    s.fleet.serve("us-west-2").await;
    until_status(&edge, "/", 200).await;
    domicile_chaos_kit::wait::eventually(crate::kit::SOON, "west answers", || async {
        edge.get(HOST, "/")
            .await
            .is_ok_and(|a| a.headers().get("domicile-region").is_some_and(|r| r == "us-west-2"))
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", west.process.tail()));
}

/// A gate believes a router, and nobody else: neither a client without a certificate, nor one whose certificate the
/// authority of routers has signed for something else.
#[tokio::test]
async fn a_gate_takes_nobody_but_routers() {
    let s = Sealed::new().await;
    let gate = s.gate("us-east-1").await;
    let edge = s.edge_as(Sabotage::None).await;
    until_status(&edge, "/", 200).await;
    let hits = s.fleet.east.hits();
    let at = s.fleet.gates["us-east-1"];
    let name = "gate.us-east-1.domicile.internal";
    let url = format!("https://{name}/");
    let claims = ["-H", "Host: mercy.example.com", "-H", "Domicile-Tenant: mercy", "-H", "Domicile-Epoch: 1"];
    let ask = async |pair: Option<&Pair>| {
        let shown: Vec<String> = pair.map_or_else(Vec::new, |pair| {
            let path = |p: &std::path::Path| p.display().to_string();
            vec!["--cert".into(), path(&pair.chain), "--key".into(), path(&pair.key)]
        });
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        curl(&s.routers, at, name, &[&claims[..], &shown, &["-w", "|%{http_code}", &url]].concat()).await
    };
    assert_ne!(ask(None).await.code, 0, "no certificate");
    let agent = s.pair("agent", "agent.us-east-1.domicile.internal");
    assert_ne!(ask(Some(&agent)).await.code, 0, "signed, but no router");
    let strangers = Authority::new(s.fleet.dir.path(), "strangers");
    let forged = strangers.issue(s.fleet.dir.path(), "forged", &["edge.eu-west-1.domicile.internal"], 2040);
    assert_ne!(ask(Some(&forged)).await.code, 0, "another authority");
    assert_eq!(s.fleet.east.hits(), hits, "nothing of it reached the application");
    gate.counts(r#"domicile_router_connections_refused_total{why="stranger"} 1"#).await;
    let real = s.pair("real", "edge.us-west-2.domicile.internal");
    assert!(ask(Some(&real)).await.out.ends_with("|200"));
    // In the clear, from loopback, nothing is believed any more: the host alone says whose the request is.
    let plain =
        client().get(gate.url("/")).header("host", "nobody.example.com").header("domicile-tenant", "mercy");
    assert_eq!(plain.send().await.unwrap().status(), 404);
}

/// Something that another region's gate has given its certificate to stands at the address of the region that is meant,
/// and takes whatever comes: a mistake in a load balancer, say. A real gate would also refuse to be called by that name.
async fn misdialled(sabotage: Sabotage) -> String {
    let s = Sealed::new().await;
    let pair = s.pair("west", "gate.us-west-2.domicile.internal");
    let path = |p: &std::path::Path| p.display().to_string();
    let at = s.fleet.gates["us-east-1"];
    let run = Spec::new("openssl", "openssl", s.fleet.dir.path());
    let (cert, key, ca) = (path(&pair.chain), path(&pair.key), path(&s.routers.pem));
    let args = [
        "s_server",
        "-accept",
        &at.to_string(),
        "-cert",
        &cert,
        "-key",
        &key,
        "-CAfile",
        &ca,
        "-Verify",
        "1",
        "-www",
    ];
    let server = Process::start(run.args(args)).unwrap();
    server.until_listening(SOON, at).await.unwrap();
    let edge = s.edge_as(sabotage).await;
    edge.get(HOST, "/").await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn an_edge_speaks_to_no_gate_of_another_region() {
    let said = misdialled(Sabotage::None).await;
    assert!(said.contains("problems/unreachable"), "it never sent the request: {said}");
}

#[tokio::test]
async fn without_that_rule_another_regions_gate_would_see_the_request() {
    let said = misdialled(Sabotage::AnyRegionsGate).await;
    assert!(!said.contains("problems/unreachable"), "it was sent: {said}");
}

#[tokio::test]
async fn a_certificate_for_another_router_does_not_start() {
    let s = Sealed::new().await;
    let pair = s.pair("gate", "gate.us-west-2.domicile.internal");
    let mut args = s.args("gate", "gate-us-east-1", "us-east-1", &pair);
    args.extend(["--listen-tls".into(), free_address().unwrap().to_string()]);
    let router = Router::launch("gate", s.fleet.dir.path(), crate::kit::BIN, &args, None);
    assert_eq!(router.process.wait(crate::kit::SOON).await.unwrap().code(), Some(1));
    let log = router.process.tail();
    assert!(log.contains("it must name `gate.us-east-1.domicile.internal`"), "{log}");
}
