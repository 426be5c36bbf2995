//! How each unit is started.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use domicile_chaos_kit::etcd::MemberSpec;
use domicile_chaos_kit::process::Spec;

use super::files::{APP_ROLE, DATABASE, Layout};
use super::plan::{Kind, Plan, Unit};

/// Where the programs of the fleet are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `domicile`.
    pub domicile: PathBuf,
    /// `domicile-router`.
    pub router: PathBuf,
    /// This program.
    pub chaos: PathBuf,
}

impl Programs {
    /// Those beside this very program.
    ///
    /// # Errors
    /// When one is missing, with what to do.
    pub fn beside_us() -> anyhow::Result<Self> {
        let chaos = std::env::current_exe().context("can't tell where this program is")?;
        let dir = chaos.parent().context("a program lies in a directory")?;
        let find = |name: &str| {
            let file = dir.join(name);
            if file.is_file() {
                Ok(file)
            } else {
                bail!("{} is not there: run `make build`, or `cargo build --bins`", file.display())
            }
        };
        Ok(Self { domicile: find("domicile")?, router: find("domicile-router")?, chaos: chaos.clone() })
    }

    /// Copies into a directory that the user `postgres` can enter, which a checkout need not be.
    ///
    /// # Errors
    /// When one can't be copied.
    pub fn copied_to(&self, dir: &Path) -> anyhow::Result<Self> {
        let copy = |from: &Path| -> anyhow::Result<PathBuf> {
            let to = dir.join(from.file_name().context("a program has a name")?);
            std::fs::copy(from, &to)
                .with_context(|| format!("can't copy {} to {}", from.display(), to.display()))?;
            Ok(to)
        };
        Ok(Self { domicile: copy(&self.domicile)?, router: copy(&self.router)?, chaos: copy(&self.chaos)? })
    }
}

/// The registry as `--registry` takes it: the members' own addresses, which the address maps lead through the links.
#[must_use]
pub fn registry(plan: &Plan) -> String {
    let members: Vec<String> = plan.all(Kind::Etcd).map(|u| u.listen().to_string()).collect();
    format!("etcd://{}", members.join(","))
}

/// All control planes, as `--facts-to` takes them.
fn controls(plan: &Plan) -> String {
    plan.all(Kind::Control).map(|u| u.listen().to_string()).collect::<Vec<_>>().join(",")
}

/// How a unit is started. `peer_link` gives the proxy in front of an etcd member's peer port.
///
/// # Errors
/// When a program is missing, or the unit is not a process of its own.
pub fn spec(
    unit: &Unit,
    plan: &Plan,
    layout: &Layout,
    programs: &Programs,
    peer_link: impl Fn(&Unit) -> std::net::SocketAddr,
) -> anyhow::Result<Spec> {
    let (logs, name, listen) = (layout.logs(), unit.name.as_str(), unit.listen().to_string());
    let registry = registry(plan);
    let links = layout.links(name).display().to_string();
    let peer_secret = layout.secret("peer").to_string();
    let admin = || unit.address("admin").map(|a| a.to_string()).unwrap_or_default();
    let peer = || unit.address("peer").map(|a| a.to_string()).unwrap_or_default();
    Ok(match unit.kind {
        Kind::Etcd => {
            let initial: Vec<String> =
                plan.all(Kind::Etcd).map(|u| format!("{}=http://{}", u.name, peer_link(u))).collect();
            let data = layout.data_of(name);
            MemberSpec {
                name: name.to_owned(),
                state: if data.exists() { "existing" } else { "new" }.to_owned(),
                data,
                client: unit.listen(),
                advertised_client: unit.listen(),
                peer: unit.address("peer").context("an etcd member has a peer address")?,
                advertised_peer: peer_link(unit),
                initial_cluster: initial.join(","),
                token: "domicile-fleet".to_owned(),
                quota: None,
            }
            .spec(&logs)?
        }
        Kind::Control => Spec::new(name, &programs.domicile, &logs)
            .arg("serve")
            .args(["--name", name, "--region", &unit.region, "--registry", &registry, "--listen", &listen])
            .arg("--tokens")
            .arg(layout.home.join("secrets").join("tokens"))
            // The story moves a cell there and back within seconds.
            .args(["--min-interval", "0s"])
            .args(
                plan.fence
                    .iter()
                    .flat_map(|fence| ["--fence".to_owned(), format!("{}ms", fence.as_millis())]),
            )
            .arg("--history-dir")
            .arg(layout.state_of(name))
            .args(["--agent-secret", &layout.secret("agent").to_string(), "--links", &links]),
        Kind::Agent => Spec::new(name, &programs.domicile, &logs)
            .arg("agent")
            .arg("--config")
            .arg(layout.agent_toml(name))
            .dir(&layout.home)
            .as_user("postgres"),
        Kind::Database => bail!("{name} is run by its agent"),
        Kind::App => {
            let database = plan.database_of(unit).context("an application has a database")?;
            let cell = unit.cell.as_deref().context("an application has a cell")?;
            let gate = plan.at(Kind::Gate, &unit.region).and_then(|gate| gate.address("admin"));
            let tenant = plan.fleet.tenants.values().find(|t| t.cell.as_str() == cell);
            Spec::new(name, &programs.chaos, &logs)
                .args(["app", "--listen", &listen, "--region", &unit.region])
                .args(["--database", &database.listen().to_string(), "--name", DATABASE, "--user", APP_ROLE])
                .args(["--password", &layout.secret("db-app").to_string()])
                .args(["--worker-gate", &gate.context("a region has a gate")?.to_string()])
                .args(["--worker-cell", cell])
                .args(["--worker-tenant", tenant.context("a cell has a tenant")?.id.as_str()])
                .arg("--worker-journal")
                .arg(layout.journal_of(name))
        }
        Kind::Gate | Kind::Edge => Spec::new(name, &programs.router, &logs)
            .args([
                "--role",
                unit.kind.word(),
                "--id",
                name,
                "--region",
                &unit.region,
                "--registry",
                &registry,
            ])
            .args(["--listen", &listen, "--admin", &admin(), "--peer", &peer(), "--links", &links])
            .arg("--state")
            .arg(layout.state_of(name))
            .arg("--access-log")
            .arg(logs.join(format!("{name}.access.json")))
            .args(["--trusted-networks", "127.0.0.0/8", "--peer-secret", &peer_secret])
            .args(["--facts-to", &controls(plan), "--facts-token"])
            .arg(layout.secret(&format!("facts-{name}")).to_string()),
    })
}
