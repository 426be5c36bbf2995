//! Control planes as processes on a real etcd, and the command line that talks to them.

use std::process::Output;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::process::{Process, Spec};
use domicile_chaos_kit::wait::eventually;
use domicile_store::Store;
use domicile_store_etcd::EtcdStore;

const DOMICILE: &str = env!("CARGO_BIN_EXE_domicile");
/// SHA-256 of `a-token`.
const HASH: &str = "1f6076e3a47ba1ded08025ffe06e57af217c14f9407f33fba50f99b1c7019387";

/// Two control planes of one etcd, each with a link of its own to it.
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) etcd: EtcdCluster,
    pub(crate) servers: Vec<String>,
    pub(crate) planes: Vec<Process>,
    /// To the registry.
    pub(crate) links: Vec<Link>,
}

impl Rig {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let etcd = EtcdCluster::start(1).await?;
        std::fs::write(dir.path().join("tokens"), format!("ann {HASH}\n"))?;
        std::fs::write(dir.path().join("token"), "a-token\n")?;
        std::fs::write(dir.path().join("wrong"), "another\n")?;
        std::fs::write(dir.path().join("secret"), "s\n")?;
        let mut rig = Self { dir, etcd, servers: Vec::new(), planes: Vec::new(), links: Vec::new() };
        for name in ["cp-a", "cp-b"] {
            let listen = free_address()?.to_string();
            let link = Link::start(rig.etcd.members()[0].direct()).await?;
            let registry = format!("etcd://{}", link.addr());
            let file = |f: &str| rig.dir.path().join(f).display().to_string();
            let spec = Spec::new(name, DOMICILE, rig.dir.path()).args([
                "serve",
                "--name",
                name,
                "--region",
                "us-east-1",
                "--registry",
                &registry,
                "--listen",
                &listen,
                "--tokens",
                &file("tokens"),
                "--agent-secret",
                &format!("file:{}", file("secret")),
                "--fence",
                "3s",
                "--lease",
                "2s",
            ]);
            rig.planes.push(Process::start(spec)?);
            rig.servers.push(listen);
            rig.links.push(link);
            // One after the other, so that the first leads.
            rig.leader("cp-a").await?;
        }
        Ok(rig)
    }

    pub(crate) fn domicile(
        &self,
        servers: &str,
        token: &str,
        args: &[&str],
    ) -> anyhow::Result<(i32, String, String)> {
        let token = format!("file:{}", self.dir.path().join(token).display());
        let Output { status, stdout, stderr } = std::process::Command::new(DOMICILE)
            .args(["--server", servers, "--token", &token])
            .args(args)
            .stdin(std::process::Stdio::null())
            .output()?;
        Ok((status.code().unwrap_or(-1), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
    }

    pub(crate) async fn leader(&self, name: &str) -> anyhow::Result<()> {
        let all = self.servers.join(",");
        eventually(Duration::from_secs(20), "the expected control plane leads", || async {
            self.domicile(&all, "token", &["--json", "status"])
                .is_ok_and(|(code, out, _)| code == 0 && out.contains(&format!("\"leader\": \"{name}\"")))
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn revision(&self) -> anyhow::Result<i64> {
        let store = EtcdStore::connect(self.etcd.url().parse()?).await?;
        Ok(store.list("").await?.header.revision.0)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

/// A sound file.
pub(crate) const GOOD: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }

[tenants.mercy]
primary = "us-east-1"
dr = "us-west-2"
hosts = ["mercy.example.com"]
"#;
