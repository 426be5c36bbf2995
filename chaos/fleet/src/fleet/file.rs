//! `fleet.json`: everything that a script or a person needs to talk to the running fleet. Documented in FLEET.md.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use domicile_model::SecretRef;
use serde::{Deserialize, Serialize};

use super::plan::{Kind, Unit};

/// The version that this program writes and reads.
pub const VERSION: u32 = 1;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetFile {
    /// [`VERSION`].
    pub version: u32,
    /// The process that owns everything.
    pub supervisor: Supervisor,
    /// How operators talk to the control plane.
    pub operator: Operator,
    /// The registry, around all links: for people who look.
    pub registry: String,
    /// Where programs, secrets and configuration lie. Removed by `down`.
    pub home: PathBuf,
    /// Where etcd and PostgreSQL keep their data, a directory for each unit. Removed by `down`.
    pub data: PathBuf,
    /// Where each process writes its log, `<name>.log`.
    pub logs: PathBuf,
    /// The `regions.toml` of this fleet.
    pub regions_toml: PathBuf,
    /// Everything that runs.
    pub units: Vec<Unit>,
    /// The databases.
    pub databases: Vec<DatabaseAccess>,
    /// Who is served.
    pub tenants: Vec<TenantAccess>,
}

/// The supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervisor {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since boot: numbers are given out again.
    pub started: u64,
    /// Where it takes commands.
    pub control: String,
    /// What they must carry, as a bearer token.
    pub token: SecretRef,
}

/// How operators talk to the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// The addresses of both, separated by a comma, as `domicile --server` takes them.
    pub servers: String,
    /// The operator's token, as `domicile --token` takes it.
    pub token: SecretRef,
}

/// A database, as the application reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseAccess {
    /// Its cell.
    pub cell: String,
    /// Where it stands.
    pub region: String,
    /// PostgreSQL.
    pub address: std::net::SocketAddr,
    /// The database.
    pub name: String,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: SecretRef,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantAccess {
    /// Its id.
    pub id: String,
    /// Its cell.
    pub cell: String,
    /// The `Host` that leads to it.
    pub host: String,
}

impl FleetFile {
    /// Where the rows lie that a move lost in this region.
    #[must_use]
    pub fn lost_rows(&self, cell: &str, region: &str, moving: &str) -> PathBuf {
        self.data.join(format!("agent-{cell}-{region}-lost")).join(cell).join(moving)
    }

    /// Where it lies under a fleet's directory.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("fleet.json")
    }

    /// Where the applications' workers tell what they did.
    #[must_use]
    pub fn journals(&self) -> Vec<PathBuf> {
        let apps = self.units.iter().filter(|u| u.kind == Kind::App);
        apps.map(|u| self.data.join(format!("{}.journal", u.name))).collect()
    }

    /// Reads it.
    ///
    /// # Errors
    /// When no fleet runs, or another version wrote it.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = Self::path(dir);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("no fleet at {}: start one with `domicile-chaos up`", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text).context("fleet.json is not JSON")?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => Ok(serde_json::from_value(value)?),
            other => bail!(
                "{} is of version {other:?}, this program reads {VERSION}: end that fleet with the program that started it",
                path.display()
            ),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let (path, part) = (Self::path(dir), dir.join("fleet.json.part"));
        std::fs::write(&part, serde_json::to_string_pretty(self)?)?;
        std::fs::rename(&part, &path).with_context(|| format!("can't write {}", path.display()))
    }

    /// A unit by name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn unit(&self, name: &str) -> anyhow::Result<&Unit> {
        self.units.iter().find(|u| u.name == name).with_context(|| format!("the fleet has no unit `{name}`"))
    }

    /// The database of a cell in a region.
    ///
    /// # Errors
    /// When there is none.
    pub fn database(&self, cell: &str, region: &str) -> anyhow::Result<&DatabaseAccess> {
        let found = self.databases.iter().find(|d| d.cell == cell && d.region == region);
        found.with_context(|| format!("cell {cell} has no database in {region}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_version_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FleetFile::read(dir.path()).unwrap_err().to_string().contains("domicile-chaos up"));
        std::fs::write(FleetFile::path(dir.path()), r#"{"version": 99}"#).unwrap();
        assert!(FleetFile::read(dir.path()).unwrap_err().to_string().contains("version Some(99)"));
    }
}
