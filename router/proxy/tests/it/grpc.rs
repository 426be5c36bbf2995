//! gRPC, with a client and a server that others wrote: gRPC's C library, and an etcd as the application.

use std::process::Stdio;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::ports::free_address;

use crate::authority::Authority;
use crate::kit::{Router, SOON};

const HOST: &str = "mercy.example.com";

struct Stage {
    dir: tempfile::TempDir,
    _etcd: EtcdCluster,
    edge: Router,
    secure: std::net::SocketAddr,
    _gate: Router,
}

/// Edge (TLS towards users) → gate (in the clear) → etcd.
async fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let etcd = EtcdCluster::start(1).await.unwrap();
    let ca = Authority::new(dir.path(), "ca");
    let certs = dir.path().join("certs");
    ca.issue(&certs, "mercy", &[HOST], 2040);
    let at = free_address().unwrap();
    let file = |name: &str, address: String| {
        let text = format!(
            "[regions]\na = {{ country = \"US\", ingress = [\"{address}\"] }}\n\
             b = {{ country = \"US\", ingress = [\"127.0.0.1:1\"] }}\n\
             [tenants.mercy]\nprimary = \"a\"\ndr = \"b\"\nhosts = [\"{HOST}\"]\n"
        );
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        ["--registry".to_owned(), format!("file:{}", path.display())]
    };
    // Two routers of file registries: the first one's application is the second one.
    let application = etcd.members()[0].direct().to_string();
    let args = [&file("gate.toml", application)[..], &["--listen".into(), at.to_string()]].concat();
    let gate = Router::start("gate", dir.path(), &args).await;
    let secure = free_address().unwrap();
    let tls = ["--listen-tls", &secure.to_string(), "--tls-certs", &certs.display().to_string()];
    let args = [&file("edge.toml", at.to_string())[..], &tls.map(ToOwned::to_owned)].concat();
    let edge = Router::start("edge", dir.path(), &args).await;
    Stage { dir, _etcd: etcd, edge, secure, _gate: gate }
}

impl Stage {
    async fn calls(&self, tls: bool) -> String {
        let at = if tls { self.secure } else { self.edge.listen };
        let mut command = tokio::process::Command::new("/usr/bin/python3");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/grpc_calls.py"))
            .args([&at.to_string(), HOST]);
        if tls {
            command.arg(self.dir.path().join("ca.pem"));
        }
        let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let done = tokio::time::timeout(SOON, run).await.unwrap().unwrap();
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
    }
}

#[tokio::test]
async fn calls_streams_trailers_and_deadlines_pass() {
    let s = stage().await;
    for tls in [true, false] {
        let said = s.calls(tls).await;
        let expected = [
            "range True",
            "large True",
            "status FAILED_PRECONDITION: etcdserver: user name not found",
            "method UNIMPLEMENTED",
            "created True",
            "event True",
            "many 180",
            "deadline DEADLINE_EXCEEDED",
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", s.edge.process.tail());
    }
}
