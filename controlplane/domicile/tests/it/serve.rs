//! The binary on a real etcd: two control planes, one leads; the command line talks to both.

use std::process::Output;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::process::{Process, Spec};
use domicile_chaos_kit::wait::eventually;
use domicile_store::Store;
use domicile_store_etcd::EtcdStore;

const DOMICILE: &str = env!("CARGO_BIN_EXE_domicile");
/// SHA-256 of `a-token`.
const HASH: &str = "1f6076e3a47ba1ded08025ffe06e57af217c14f9407f33fba50f99b1c7019387";

struct Rig {
    dir: tempfile::TempDir,
    etcd: EtcdCluster,
    servers: Vec<String>,
    planes: Vec<Process>,
}

impl Rig {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let etcd = EtcdCluster::start(1).await?;
        std::fs::write(dir.path().join("tokens"), format!("ann {HASH}\n"))?;
        std::fs::write(dir.path().join("token"), "a-token\n")?;
        std::fs::write(dir.path().join("wrong"), "another\n")?;
        std::fs::write(dir.path().join("secret"), "s\n")?;
        let mut rig = Self { dir, etcd, servers: Vec::new(), planes: Vec::new() };
        for name in ["cp-a", "cp-b"] {
            let listen = free_address()?.to_string();
            let file = |f: &str| rig.dir.path().join(f).display().to_string();
            let spec = Spec::new(name, DOMICILE, rig.dir.path()).args([
                "serve",
                "--name",
                name,
                "--region",
                "us-east-1",
                "--registry",
                &rig.etcd.url(),
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
            // One after the other, so that the first leads.
            rig.leader("cp-a").await?;
        }
        Ok(rig)
    }

    fn domicile(&self, servers: &str, token: &str, args: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let token = format!("file:{}", self.dir.path().join(token).display());
        let Output { status, stdout, stderr } = std::process::Command::new(DOMICILE)
            .args(["--server", servers, "--token", &token])
            .args(args)
            .stdin(std::process::Stdio::null())
            .output()?;
        Ok((status.code().unwrap_or(-1), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
    }

    async fn leader(&self, name: &str) -> anyhow::Result<()> {
        let all = self.servers.join(",");
        eventually(Duration::from_secs(20), "the expected control plane leads", || async {
            self.domicile(&all, "token", &["--json", "status"])
                .is_ok_and(|(code, out, _)| code == 0 && out.contains(&format!("\"leader\": \"{name}\"")))
        })
        .await?;
        Ok(())
    }

    async fn revision(&self) -> anyhow::Result<i64> {
        let store = EtcdStore::connect(self.etcd.url().parse()?).await?;
        Ok(store.list("").await?.header.revision.0)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

const GOOD: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }

[tenants.mercy]
primary = "us-east-1"
dr = "us-west-2"
hosts = ["mercy.example.com"]
"#;

/// An unknown key, an unknown region, a policy against the DR region, one host twice, a host that is none, and a
/// primary that is its own DR.
const BAD: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"], colour = "red" }
eu-west-1 = { country = "IE", ingress = ["10.2.1.10:8443"] }

[tenants.lost]
primary = "us-east-1"
dr = "mars-1"

[tenants.abroad]
primary = "us-east-1"
dr = "eu-west-1"
residency = ["US"]
hosts = ["shared.example.com"]

[tenants.second]
primary = "us-east-1"
dr = "us-east-1"
hosts = ["shared.example.com", "not a host"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_command_line_against_two_control_planes() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let (first, second) = (rig.servers[0].clone(), rig.servers[1].clone());
    let all = format!("{first},{second}");

    // A wrong token: a sentence, and nothing else.
    let (code, out, err) = rig.domicile(&second, "wrong", &["status"])?;
    assert_eq!((code, out.as_str()), (77, ""), "{err}");
    assert!(err.contains("token") && err.contains("hint: "), "{err}");

    // All mistakes in one report, and nothing changed in etcd.
    let bad = rig.write("bad.toml", BAD)?;
    let before = rig.revision().await?;
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &bad])?;
    assert_eq!(code, 64, "{err}");
    for word in
        ["colour", "mars-1", "residency policy", "is claimed by", "not a host", "is also its DR region"]
    {
        assert!(err.contains(word), "{word} is not in:\n{err}");
    }
    assert_eq!(rig.revision().await?, before, "a bad file changed the registry");

    // Through the follower, which passes it on.
    let good = rig.write("good.toml", GOOD)?;
    let (code, out, err) = rig.domicile(&second, "token", &["apply", &good])?;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("tenant") && err.contains("4 added"), "{out}{err}");
    let (code, out, _) = rig.domicile(&second, "token", &["--json", "tenant", "route", "mercy"])?;
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out)?["region"], "us-east-1");
    let (code, _, err) = rig.domicile(&all, "token", &["cell", "show", "nowhere"])?;
    assert_eq!(code, 66, "{err}");

    // The leader dies: the other one leads, and answers through the same list of addresses.
    rig.planes[0].kill();
    rig.leader("cp-b").await?;
    let more = rig.write("more.toml", &GOOD.replace("[\"mercy.example.com\"]", "[\"mercy.example.org\"]"))?;
    let (code, _, err) = rig.domicile(&all, "token", &["apply", &more])?;
    assert_eq!(code, 0, "{err}");

    // Told to stop, it resigns and ends well.
    rig.planes[1].terminate();
    let status = rig.planes[1].wait(Duration::from_secs(10)).await?;
    assert!(status.success(), "{status}\n{}", rig.planes[1].tail());
    let store = EtcdStore::connect(rig.etcd.url().parse()?).await?;
    let (_, leader) = store.read(&[domicile_store::Key::Leader]).await?;
    assert_eq!(leader, [None], "a stopped leader resigns");

    // Nobody is there any more.
    let (code, _, err) = rig.domicile(&all, "token", &["status"])?;
    assert_eq!(code, 69, "{err}");
    Ok(())
}
