//! A cell on this machine: etcd, one control plane, a primary and a streaming standby with an agent each. All of it is
//! the binary, as a user runs it.
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::postgres::{self, Spec};
use domicile_chaos_kit::process::{Process, Spec as Run};
use domicile_chaos_kit::wait::eventually;
use serde_json::Value;

const DOMICILE: &str = env!("CARGO_BIN_EXE_domicile");
/// SHA-256 of `a-token`.
const HASH: &str = "1f6076e3a47ba1ded08025ffe06e57af217c14f9407f33fba50f99b1c7019387";
pub(crate) const SLOW: Duration = Duration::from_secs(60);

/// One of the two servers.
pub(crate) struct Side {
    pub(crate) region: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) agent_at: SocketAddr,
    pub(crate) data: PathBuf,
    agent: Option<Process>,
}

pub(crate) struct Pair {
    home: tempfile::TempDir,
    pub(crate) spec: Spec,
    pub(crate) etcd: EtcdCluster,
    /// The way of the standby, until it was ordered to follow another one.
    pub(crate) replication: Link,
    server: SocketAddr,
    plane: Option<Process>,
    pub(crate) a: Side,
    pub(crate) b: Side,
    keep_mib: u32,
}

impl Pair {
    /// Servers that were never started. Slots keep this much log.
    pub(crate) async fn new(keep_mib: u32) -> anyhow::Result<Self> {
        let home = postgres::home()?;
        let spec =
            Spec { schema: "CREATE TABLE t (id serial PRIMARY KEY, v text);\n".into(), ..Spec::default() };
        let side = |name: &str, region| -> anyhow::Result<Side> {
            let data = home.path().join(name);
            Ok(Side { region, address: free_address()?, agent_at: free_address()?, data, agent: None })
        };
        let (a, b) = (side("a", "us-east-1")?, side("b", "us-west-2")?);
        let replication = Link::start(a.address).await?;
        let (a_dir, b_dir, up, s) = (a.data.clone(), b.data.clone(), replication.addr(), spec.clone());
        tokio::task::spawn_blocking(move || {
            postgres::prepare_primary(&a_dir, &s)?;
            postgres::prepare_standby(&a_dir, &b_dir, up, "domicile_standby", &s)
        })
        .await??;
        let etcd = EtcdCluster::start(1).await?;
        Ok(Self { home, spec, etcd, replication, server: free_address()?, plane: None, a, b, keep_mib })
    }

    /// Writes a file beside the servers; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.home.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    pub(crate) fn start_agent(&mut self, b: bool) -> anyhow::Result<()> {
        let (secret, stream) =
            (self.file("secret", "s")?, self.file("replicator", &self.spec.replicator_password)?);
        let lost = self.home.path().join("lost");
        postgres::owned_dir(&lost)?;
        let (lost, recipient) = (lost.display(), domicile_losses::KeyFile::generate().recipient());
        let side = if b { &self.b } else { &self.a };
        let name = if b { "b" } else { "a" };
        let text = format!(
            "cell = \"c\"\nregion = \"{}\"\ndata_dir = \"{}\"\nlisten = \"{}\"\naddress = \"{}\"\n\
             socket_dir = \"{}\"\nregistry = \"{}\"\nsecret = \"file:{secret}\"\ndatabase = \"{}\"\n\
             slot_keep_mib = {}\nrebuild_max_rate_kib = 6144\n\
             replication = {{ user = \"replicator\", password = \"file:{stream}\" }}\n\
             losses = {{ directory = \"{lost}\", country = \"US\", recipient = \"{recipient}\" }}\n",
            side.region,
            side.data.display(),
            side.agent_at,
            side.address,
            self.socket(b).display(),
            self.etcd.url(),
            self.spec.database,
            self.keep_mib,
        );
        let config = self.file(&format!("{name}.toml"), &text)?;
        let run = Run::new(&format!("agent-{name}"), DOMICILE, self.home.path());
        let process = Process::start(run.args(["agent", "--config", &config]))?;
        let side = if b { &mut self.b } else { &mut self.a };
        side.agent = Some(process);
        Ok(())
    }

    fn socket(&self, b: bool) -> PathBuf {
        self.home.path().join(if b { "b.run" } else { "a.run" })
    }

    /// Where the agents' secret stands, as a reference.
    pub(crate) fn agent_secret(&self) -> String {
        format!("file:{}", self.home.path().join("secret").display())
    }

    /// A path beside the servers.
    pub(crate) fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// Stops the control plane where it stands, or lets it go on.
    pub(crate) fn pause_plane(&self, paused: bool) {
        if let Some(plane) = &self.plane {
            if paused { plane.pause() } else { plane.resume() }
        }
    }

    /// The disks of the registry are gone; an empty one stands in its place.
    pub(crate) async fn lose_registry(&mut self) -> anyhow::Result<()> {
        self.etcd.lose_everything()?;
        self.etcd.until_healthy().await
    }

    /// `domicile registry VERB…` with the registry and the secrets that it needs.
    pub(crate) fn registry(&self, args: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let (url, secret) = (self.etcd.url(), self.agent_secret());
        let asks =
            ["--registry", &url, "--agent-secret", &secret, "--reason", "a drill", "--by", "ann", "--yes"];
        let all: Vec<&str> = ["--json", "registry"].iter().chain(args).chain(&asks).copied().collect();
        self.domicile(&all)
    }

    /// Kills an agent; its server dies with it.
    pub(crate) async fn kill_agent(&mut self, b: bool) -> anyhow::Result<()> {
        let side = if b { &mut self.b } else { &mut self.a };
        side.agent = None;
        let data = side.data.clone();
        let gone = || async { postgres::processes(&data).is_empty() };
        Ok(eventually(SLOW, "the server died with its agent", gone).await?)
    }

    /// Everything runs, the fleet is applied, the primary takes writes, the standby streams, nothing is wrong.
    pub(crate) async fn up(&mut self) -> anyhow::Result<()> {
        self.start_agent(false)?;
        self.start_agent(true)?;
        let (tokens, secret) = (self.file("tokens", &format!("ann {HASH}\n"))?, self.file("secret", "s")?);
        self.file("token", "a-token\n")?;
        let run = Run::new("plane", DOMICILE, self.home.path()).args([
            "serve",
            "--name",
            "cp",
            "--region",
            "us-east-1",
            "--registry",
            &self.etcd.url(),
            "--listen",
            &self.server.to_string(),
            "--tokens",
            &tokens,
            "--agent-secret",
            &format!("file:{secret}"),
            "--fence",
            "5s",
        ]);
        self.plane = Some(Process::start(run)?);
        let leads = || async { self.domicile(&["status"]).is_ok_and(|(code, _, _)| code == 0) };
        eventually(SLOW, "the control plane leads", leads).await?;
        let password = self.file("looker", &self.spec.domicile_password)?;
        let end = |side: &Side| {
            format!("{} = {{ address = \"{}\", agent = \"{}\" }}\n", side.region, side.address, side.agent_at)
        };
        let fleet = format!(
            "[regions]\nus-east-1 = {{ country = \"US\", ingress = [\"10.0.1.10:8443\"] }}\n\
             us-west-2 = {{ country = \"US\", ingress = [\"10.1.1.10:8443\"] }}\n\
             [cells.c]\nprimary = \"us-east-1\"\ndr = \"us-west-2\"\n\
             [cells.c.database]\nname = \"{}\"\nuser = \"domicile\"\npassword = \"file:{password}\"\n{}{}\
             [tenants.mercy]\ncell = \"c\"\n",
            self.spec.database,
            end(&self.a),
            end(&self.b),
        );
        let fleet = self.file("regions.toml", &fleet)?;
        let (code, _, err) = self.domicile(&["apply", &fleet])?;
        ensure!(code == 0, "{err}");
        self.healthy().await
    }

    /// Waits until the standby streams and `domicile status` names nothing that is wrong.
    pub(crate) async fn healthy(&self) -> anyhow::Result<()> {
        let well = || async {
            let cell = self.cell().ok()?;
            let fresh = cell["health"]["age_ms"].as_u64()? < 5_000 && cell["lag"]["streaming"] == true;
            (fresh && cell["health"]["problems"].as_array()?.is_empty()).then_some(())
        };
        match eventually(SLOW, "the pair is well", well).await {
            Ok(()) => Ok(()),
            Err(late) => {
                let logs = ["a.agent", "b.agent"].map(|d| {
                    let log = self.home.path().join(d).join("postgresql.log");
                    let text = std::fs::read_to_string(log).unwrap_or_default();
                    text.lines().rev().take(15).map(|l| format!("{l}\n")).collect::<String>()
                });
                Err(late).with_context(|| format!("{:#?}\n{}\n{}", self.cell(), logs[0], logs[1]))
            }
        }
    }

    /// Runs the command line: exit code, stdout, stderr.
    pub(crate) fn domicile(&self, args: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let token = format!("file:{}", self.home.path().join("token").display());
        let Output { status, stdout, stderr } = Command::new(DOMICILE)
            .args(["--server", &self.server.to_string(), "--token", &token])
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        Ok((status.code().unwrap_or(-1), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
    }

    /// The cell, as JSON.
    pub(crate) fn cell(&self) -> anyhow::Result<Value> {
        let (_, out, _) = self.domicile(&["--json", "cell", "show", "c"])?;
        Ok(serde_json::from_str(&out)?)
    }

    /// What `domicile status` prints, once it says all of this.
    pub(crate) async fn status_says(&self, words: &[&str]) -> anyhow::Result<String> {
        let says = || async {
            let (_, out, _) = self.domicile(&["status"]).ok()?;
            words.iter().all(|w| out.contains(w)).then_some(out)
        };
        match eventually(SLOW, "the status says it", says).await {
            Ok(out) => Ok(out),
            Err(late) => Err(late).with_context(|| format!("{words:?}\n{:#?}", self.domicile(&["status"]))),
        }
    }

    /// The verdict and the reason of a check of a planned move to the standby.
    pub(crate) fn check(&self, name: &str) -> anyhow::Result<(String, String)> {
        let (_, out, err) = self.domicile(&["--json", "failover", "plan", "c", "--to", self.b.region])?;
        let plan: Value = serde_json::from_str(&out).with_context(|| err)?;
        let checks = plan["checks"].as_array().context("no checks")?;
        let found =
            checks.iter().find(|c| c["name"] == name).with_context(|| format!("no {name}: {plan}"))?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Ok((text("verdict"), text("why")))
    }

    pub(crate) async fn sql(&self, b: bool, sql: &str) -> anyhow::Result<String> {
        let address = if b { self.b.address } else { self.a.address };
        let (spec, sql) = (self.spec.clone(), sql.to_owned());
        Ok(tokio::task::spawn_blocking(move || {
            postgres::psql(address, "app", &spec.app_password, &spec.database, &sql)
        })
        .await??)
    }

    /// As the superuser, over the socket that only the server's user may use.
    pub(crate) async fn superuser(&self, b: bool, sql: &str) -> anyhow::Result<String> {
        let port = if b { self.b.address.port() } else { self.a.address.port() };
        let mut psql = postgres::as_server_user(&postgres::bin_dir()?.join("psql"));
        psql.args([
            "-XAtq",
            "-w",
            "-U",
            "postgres",
            "-d",
            "clinic",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "-h",
        ])
        .arg(self.socket(b))
        .args(["-p", &port.to_string()])
        .current_dir("/");
        let output = tokio::task::spawn_blocking(move || psql.output()).await??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Writes this much log on the primary, in records that change no table.
    pub(crate) async fn write_log(&self, mib: u32) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1048000))) FROM generate_series(1, {mib})"
        );
        self.sql(false, &sql).await.map(drop)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in [&mut self.a, &mut self.b] {
            side.agent = None;
            for pid in postgres::processes(&side.data).into_iter().filter_map(|p| u32::try_from(p).ok()) {
                domicile_chaos_kit::proc::kill_trees(&[pid]);
            }
        }
    }
}

/// A disk of its own for a directory: small, so that it can be filled. Where the machine does not let us mount one, the
/// server's processes get a limit for the size of files instead, which fails their writes as truly.
pub(crate) struct SmallDisk {
    dir: PathBuf,
    mounted: bool,
    mib: u64,
}

impl SmallDisk {
    /// Moves a directory onto a disk of this size.
    pub(crate) fn under(dir: &Path, mib: u32) -> anyhow::Result<Self> {
        let (uid, gid) = postgres::server_user()?;
        let beside = dir.with_extension("before");
        std::fs::rename(dir, &beside)?;
        std::fs::create_dir(dir)?;
        let options = format!("size={mib}m,mode=0700,uid={uid},gid={gid}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        if mounted {
            let copied = Command::new("cp").arg("-a").arg(beside.join(".")).arg(dir).status()?;
            ensure!(copied.success(), "the directory was not copied");
        } else {
            eprintln!("no disk can be mounted here: a limit for the size of files stands in");
            std::fs::remove_dir(dir)?;
            std::fs::rename(&beside, dir)?;
        }
        Ok(Self { dir: dir.to_owned(), mounted, mib: u64::from(mib) })
    }

    pub(crate) const fn mounted(&self) -> bool {
        self.mounted
    }

    /// Takes all room from this side's server.
    pub(crate) fn fill(&self, side: &Side) -> anyhow::Result<()> {
        if !self.mounted {
            return limit(side, "1048576:unlimited");
        }
        let mut file = std::fs::File::create(self.dir.join("ballast"))?;
        // Never more than the small disk holds, whatever lies at this path.
        let full = std::io::copy(&mut std::io::repeat(0).take(self.mib << 20), &mut file);
        ensure!(full.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull), "the disk is not full");
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free(&self, side: &Side) -> anyhow::Result<()> {
        if !self.mounted {
            return limit(side, "unlimited");
        }
        Ok(std::fs::remove_file(self.dir.join("ballast"))?)
    }
}

/// Limits the files of a server, its agent's included: what the agent starts anew inherits it.
fn limit(side: &Side, size: &str) -> anyhow::Result<()> {
    let agent = side.agent.as_ref().context("no agent runs")?.pid();
    for pid in domicile_chaos_kit::proc::descendants(agent).into_iter().chain([agent]) {
        // Only the owner of a process may do that, and the server's are another user's. One that has ended needs none.
        let limit = ["--pid", &pid.to_string(), &format!("--fsize={size}")];
        for mut prlimit in [Command::new("prlimit"), postgres::as_server_user(Path::new("prlimit"))] {
            drop(prlimit.args(limit).current_dir("/").output()?);
        }
    }
    Ok(())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            drop(Command::new("umount").arg("-l").arg(&self.dir).status());
        }
    }
}
