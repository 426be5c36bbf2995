//! Writes down what the processes of the fleet read: secrets, address maps, the agents' configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use domicile_chaos_kit::{install, postgres};
use domicile_losses::KeyFile;
use domicile_model::SecretRef;
use domicile_model::links::AddressMap;
use rand::RngExt;
use sha2::{Digest, Sha256};

use super::plan::{Kind, Plan, Unit};

/// The database of every cell.
pub const DATABASE: &str = "clinic";
/// The role of the application.
pub const APP_ROLE: &str = "app";
/// The role that the control plane looks with.
pub const LOOK_ROLE: &str = "domicile";
/// The role that replicates.
pub const REPLICATION_ROLE: &str = "replicator";
/// The physical slot by which a standby follows.
pub const SLOT: &str = "domicile_standby";

/// The tables of the clinic application. `tenant_id` leads every index.
pub const SCHEMA: &str = "CREATE TABLE public.encounters (
 tenant_id text NOT NULL, key text NOT NULL, patient text NOT NULL, content text NOT NULL,
 written_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant_id, key));
CREATE INDEX encounters_of_patient ON public.encounters (tenant_id, patient, written_at);
";

/// Where a fleet keeps what.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What people look at: `fleet.json`, logs, address maps.
    pub dir: PathBuf,
    /// What the servers need, where the user `postgres` can go too: a checkout may lie in a home that it can't enter.
    pub home: PathBuf,
    /// Data of etcd and PostgreSQL: in memory, where there is enough of it.
    pub data: PathBuf,
}

impl Layout {
    /// Makes the directories.
    ///
    /// # Errors
    /// When one can't be made.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir.join("logs"))?;
        std::fs::create_dir_all(dir.join("links"))?;
        let unique = |at: PathBuf| -> anyhow::Result<PathBuf> {
            let made = tempfile::Builder::new().prefix("domicile-fleet-").tempdir_in(at)?.keep();
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755))?;
            Ok(made)
        };
        let layout = Self {
            dir: dir.to_owned(),
            home: unique(std::env::temp_dir())?,
            data: unique(install::scratch())?,
        };
        for part in ["secrets", "links", "bin", "conf"] {
            std::fs::create_dir(layout.home.join(part))?;
        }
        Ok(layout)
    }

    /// Where processes write their logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// A secret's reference.
    #[must_use]
    pub fn secret(&self, name: &str) -> SecretRef {
        SecretRef::File(self.home.join("secrets").join(name).display().to_string())
    }

    /// The address map of a unit.
    #[must_use]
    pub fn links(&self, unit: &str) -> PathBuf {
        self.home.join("links").join(format!("{unit}.json"))
    }

    /// A directory for a unit's data; not created.
    #[must_use]
    pub fn data_of(&self, unit: &str) -> PathBuf {
        self.data.join(unit)
    }

    /// Where a router or an agent keeps what it must not forget; not created.
    #[must_use]
    pub fn state_of(&self, unit: &str) -> PathBuf {
        self.data.join(format!("{unit}-state"))
    }

    /// Where the worker of an application tells what it did; not created.
    #[must_use]
    pub fn journal_of(&self, app: &str) -> PathBuf {
        self.data.join(format!("{app}.journal"))
    }

    /// Where an agent exports lost rows to; not created.
    #[must_use]
    pub fn lost_of(&self, agent: &str) -> PathBuf {
        self.data.join(format!("{agent}-lost"))
    }

    /// Where a database has its unix socket; not created.
    #[must_use]
    pub fn socket_of(&self, database: &str) -> PathBuf {
        self.data.join(format!("{database}-socket"))
    }

    /// The fleet's `regions.toml`.
    #[must_use]
    pub fn regions_toml(&self) -> PathBuf {
        self.dir.join("regions.toml")
    }

    /// The agent's configuration.
    #[must_use]
    pub fn agent_toml(&self, unit: &str) -> PathBuf {
        self.home.join("conf").join(format!("{unit}.toml"))
    }

    /// Removes what does not stay for people to read.
    pub fn remove(&self) {
        for dir in [&self.home, &self.data] {
            // What can't be removed now lies in a temporary directory: the system removes it.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Makes all secrets, at random, those of these routers too. Those that agents read belong to the servers' user.
///
/// # Errors
/// When a file can't be written.
pub fn write_secrets(layout: &Layout, routers: &[&str]) -> anyhow::Result<()> {
    for name in ["operator", "control", "agent", "peer", "db-app", "db-domicile", "db-replicator"] {
        write_shared(&layout.home.join("secrets").join(name), &random_hex())?;
    }
    // Stands for the key that a hospital's privacy officer would keep: no process of the fleet reads it.
    let key = KeyFile::generate();
    write_shared(&layout.home.join("secrets").join("losses"), &key.text())?;
    write_shared(&layout.home.join("conf").join("recipient"), &format!("{}\n", key.recipient()))?;
    let token = layout.secret("operator").read()?;
    let digest = |token: &str| hex::encode(Sha256::digest(token.as_bytes()));
    let mut tokens = format!("demo-operator {} operator,losses\n", digest(&token));
    // Each router has a token of its own, and may tell its own facts with it.
    for router in routers {
        let (name, token) = (format!("facts-{router}"), random_hex());
        write_shared(&layout.home.join("secrets").join(name), &token)?;
        tokens.push_str(&format!("{router} {} router\n", digest(&token)));
    }
    write_shared(&layout.home.join("secrets").join("tokens"), &tokens)
}

fn random_hex() -> String {
    hex::encode(rand::rng().random::<[u8; 32]>())
}

/// A file for us and the group of the servers' user, for nobody else.
fn write_shared(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("can't write {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o640).open(path).with_context(what)?;
    file.write_all(text.as_bytes()).with_context(what)?;
    if install::is_root() {
        let (_, group) = postgres::server_user()?;
        std::os::unix::fs::chown(path, None, Some(group)).with_context(what)?;
    }
    Ok(())
}

/// The passwords and tables of the databases.
///
/// # Errors
/// When a secret can't be read.
pub fn database_spec(layout: &Layout) -> anyhow::Result<postgres::Spec> {
    Ok(postgres::Spec {
        database: DATABASE.into(),
        app_password: layout.secret("db-app").read()?,
        domicile_password: layout.secret("db-domicile").read()?,
        replicator_password: layout.secret("db-replicator").read()?,
        schema: SCHEMA.into(),
    })
}

/// Writes a unit's address map: from the address that everybody knows to the proxy that stands before it for this
/// unit alone.
///
/// # Errors
/// When it can't be written.
pub fn write_links(
    layout: &Layout,
    unit: &str,
    map: &BTreeMap<SocketAddr, SocketAddr>,
) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(&AddressMap(map.clone()))?;
    std::fs::write(layout.links(unit), text).context("can't write an address map")
}

/// Writes an agent's configuration.
///
/// # Errors
/// When it can't be written.
pub fn write_agent(plan: &Plan, layout: &Layout, agent: &Unit, registry: &str) -> anyhow::Result<()> {
    let database = plan.database_of(agent).context("an agent has a database")?;
    let gates: Vec<String> = plan
        .all(Kind::Gate)
        .filter(|g| g.region == agent.region)
        .filter_map(|g| g.address("peer"))
        .map(|a| format!("\"{a}\""))
        .collect();
    let country = plan.fleet.regions.get(agent.region.as_str()).context("an agent has a region")?.country;
    let recipient = std::fs::read_to_string(layout.home.join("conf").join("recipient"))?;
    let text = format!(
        "cell = \"{cell}\"\nregion = \"{region}\"\ndata_dir = \"{data}\"\nbin_dir = \"{bin}\"\nlisten = \"{listen}\"\n\
         address = \"{address}\"\nsocket_dir = \"{socket}\"\nstate_dir = \"{state}\"\nregistry = \"{registry}\"\n\
         links = \"{links}\"\ngates = [{gates}]\nsecret = \"{secret}\"\npeer_secret = \"{peer}\"\n\
         database = \"{DATABASE}\"\nslot = \"{SLOT}\"\n\n[replication]\nuser = \"{REPLICATION_ROLE}\"\n\
         password = \"{password}\"\n\n[losses]\ndirectory = \"{lost}\"\ncountry = \"{country}\"\n\
         recipient = \"{recipient}\"\n",
        cell = agent.cell.as_deref().unwrap_or_default(),
        region = agent.region,
        data = layout.data_of(&database.name).display(),
        bin = postgres::bin_dir()?.display(),
        listen = agent.listen(),
        address = database.listen(),
        socket = layout.socket_of(&database.name).display(),
        state = layout.state_of(&agent.name).display(),
        links = layout.links(&agent.name).display(),
        gates = gates.join(", "),
        secret = layout.secret("agent"),
        peer = layout.secret("peer"),
        password = layout.secret("db-replicator"),
        lost = layout.lost_of(&agent.name).display(),
        recipient = recipient.trim(),
    );
    write_shared(&layout.agent_toml(&agent.name), &text)
}
