//! The agent's configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use domicile_losses::Recipient;
use domicile_model::links::AddressMap;
use domicile_model::{CellId, Country, RegionId, SecretRef};
use serde::Deserialize;

/// What `domicile agent --config FILE` reads. One agent stands beside one PostgreSQL and runs as the OS user that owns
/// its data directory (or as root, and then starts PostgreSQL as that user).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The cell whose database this is.
    pub cell: CellId,
    /// Where this server stands.
    pub region: RegionId,
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// Where the agent keeps what must outlive a rebuild: tokens, fence marker, exports of losses, access rules, log.
    /// Default: `<data_dir>.agent`.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// PostgreSQL's programs. Default: the newest under `/usr/lib/postgresql`.
    #[serde(default)]
    pub bin_dir: Option<PathBuf>,
    /// Where the agent's API listens.
    pub listen: SocketAddr,
    /// Where PostgreSQL listens.
    pub address: SocketAddr,
    /// For PostgreSQL's unix socket; made with mode 0700.
    pub socket_dir: PathBuf,
    /// The registry: `etcd://host:port,host:port[/prefix]`.
    pub registry: String,
    /// A JSON file, from addresses in the registry to addresses to dial.
    #[serde(default)]
    pub links: Option<PathBuf>,
    /// Peer addresses of this region's gates, asked for a proof when the registry does not answer.
    #[serde(default)]
    pub gates: Vec<SocketAddr>,
    /// The secret that callers of the agent's API present.
    pub secret: SecretRef,
    /// The secret that gates ask for. Needed where `gates` names any.
    #[serde(default)]
    pub peer_secret: Option<SecretRef>,
    /// The application's database.
    pub database: String,
    /// Who streams, rewinds and rebuilds.
    pub replication: Replication,
    /// The role that the control plane looks with; gets the right to write the heartbeat and the canary.
    #[serde(default = "looker")]
    pub look_role: String,
    /// The physical slot kept on a primary for the other side.
    #[serde(default = "standby_slot")]
    pub slot: String,
    /// Most write-ahead log that slots may keep, in MiB, before they are given up so that the disk does not fill: what is
    /// written while a standby is away for as long as it may be, and less than the disk has free.
    #[serde(default = "slot_keep")]
    pub slot_keep_mib: u32,
    /// The most that a base backup, by which a standby is built anew, may read from the primary, in KiB a second (32 to
    /// 1,048,576), so that it leaves room for users. Default: no limit.
    #[serde(default)]
    pub rebuild_max_rate_kib: Option<u32>,
    /// Where rows go that a forced move has lost. Without it none can be exported, and then nothing rewinds or rebuilds
    /// a server that has such rows.
    #[serde(default)]
    pub losses: Option<LossExport>,
    /// By how many values each sequence is raised after a forced promotion, so that numbers which the old primary gave
    /// out are not given out again: more than it can give out in the time that the standby may lag. 0 switches it off.
    #[serde(default = "sequence_guard")]
    pub sequence_guard: u64,
    /// More settings for PostgreSQL, `name = "value"`. Those that the agent sets itself are refused.
    #[serde(default)]
    pub settings: std::collections::BTreeMap<String, String>,
    /// The command that runs [`crate::supervise::run`]; default: this program with `agent-supervise`.
    #[serde(skip)]
    pub supervisor: Option<Vec<String>>,
    /// Switches that break the product, for tests that must be seen to fail. Not in the file.
    #[doc(hidden)]
    #[serde(skip)]
    pub sabotage: Sabotage,
}

/// Ways to break the agent, so that a safety test can be seen to fail.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Sabotage {
    /// Open without a proof, and never end.
    pub trusts_itself: bool,
    /// Promote on any handover, whoever signed it and whatever it says, and without one.
    pub takes_any_handover: bool,
    /// Ignore the rank of tokens.
    pub ignores_rank: bool,
    /// Take what a gate lends as lasting for an hour.
    pub keeps_lent_proofs: bool,
    /// Keep what was promoted open for the time of the order only, however long the switch takes.
    pub command_only: bool,
}

/// The role for replication.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// Its name.
    pub user: String,
    /// Its password, the same on both sides.
    pub password: SecretRef,
}

/// Where lost rows are exported to, and for whom. They are patient data: encrypted as they are read, never in the clear.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossExport {
    /// An existing directory, best on another disk than the database.
    pub directory: PathBuf,
    /// The country in which that disk stands. Rows of tenants whose policy does not allow it are refused.
    pub country: Country,
    /// Who can decrypt (`age1…`, from `domicile losses keygen`). The key itself never comes here.
    pub recipient: Recipient,
    /// The column that names a row's tenant, by the tenant's id in the registry. Rows without it, or with another value,
    /// are kept apart under the strictest policy of the cell's tenants.
    #[serde(default = "tenant_column")]
    pub tenant_column: String,
}

fn tenant_column() -> String {
    "tenant_id".into()
}
const fn sequence_guard() -> u64 {
    100_000
}
fn looker() -> String {
    "domicile".into()
}
fn standby_slot() -> String {
    "domicile_standby".into()
}
const fn slot_keep() -> u32 {
    4096
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path} can't be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {what}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What, in a sentence.
        what: String,
    },
}

/// Settings that are the agent's: changed, they would open a way past it.
const OWN: [&str; 11] = [
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "data_directory",
    "primary_conninfo",
    "primary_slot_name",
    "wal_level",
    "wal_keep_size",
    "max_slot_wal_keep_size",
];

impl AgentConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// When it can't be read or a value is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|what| ConfigError::Wrong { path: path.to_owned(), what })
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for dir in [&self.data_dir, &self.socket_dir] {
            if !dir.is_absolute() {
                return Err(format!("`{}` must be an absolute path", dir.display()));
            }
        }
        if !self.gates.is_empty() && self.peer_secret.is_none() {
            return Err("`gates` are named but no `peer_secret`: gates answer nobody without it".into());
        }
        if let Some(losses) = &self.losses
            && !losses.directory.is_absolute()
        {
            return Err(format!(
                "`losses.directory` {} must be an absolute path",
                losses.directory.display()
            ));
        }
        if self.slot_keep_mib == 0 {
            return Err("`slot_keep_mib` must be above 0: slots that keep nothing are lost at once".into());
        }
        if self.rebuild_max_rate_kib.is_some_and(|most| !(32..=1_048_576).contains(&most)) {
            return Err("`rebuild_max_rate_kib` must be 32 to 1048576: pg_basebackup takes no other".into());
        }
        // The kernel's limit for a socket's path is 107 bytes; PostgreSQL adds `/.s.PGSQL.12345`.
        if self.socket_dir.as_os_str().len() > 90 {
            return Err(format!("`socket_dir` {} is too long for a unix socket", self.socket_dir.display()));
        }
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() < 64
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        for (what, name) in [
            ("slot", &self.slot),
            ("replication.user", &self.replication.user),
            ("look_role", &self.look_role),
        ] {
            if !plain(name) {
                return Err(format!("`{what}` must be lower-case letters, digits and `_`, at most 63"));
            }
        }
        match self.settings.keys().find(|k| !plain(k) || OWN.contains(&k.as_str())) {
            Some(key) => Err(format!("`settings.{key}` can't be set here: it is the agent's own")),
            None => Ok(()),
        }
    }

    /// The agent's own directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| {
            let mut name = self.data_dir.clone().into_os_string();
            name.push(".agent");
            name.into()
        })
    }

    /// The map of addresses.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn links(&self) -> Result<AddressMap, ConfigError> {
        let Some(path) = &self.links else { return Ok(AddressMap::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        AddressMap::from_json(&text).map_err(|e| ConfigError::Wrong {
            path: path.clone(),
            what: format!("not a map of addresses: {e}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        cell = "c"
        region = "us-east-1"
        data_dir = "/var/lib/pg/data"
        listen = "127.0.0.1:7000"
        address = "127.0.0.1:5432"
        socket_dir = "/run/pg"
        registry = "etcd://127.0.0.1:2379"
        secret = "file:/etc/secret"
        database = "clinic"
        replication = { user = "replicator", password = "env:PGREPL" }
    "#;

    #[test]
    fn the_shortest_file_works() {
        let config = AgentConfig::parse(GOOD).unwrap();
        assert_eq!(config.state_dir(), Path::new("/var/lib/pg/data.agent"));
        assert_eq!(config.slot, "domicile_standby");
    }

    #[test]
    fn mistakes_are_named() {
        for (extra, word) in [
            ("gates = [\"127.0.0.1:1\"]", "peer_secret"),
            ("zebra = 1", "zebra"),
            ("losses = { directory = \"x\", country = \"US\", recipient = \"age1abc\" }", "keygen"),
            ("losses = { directory = \"/x\", country = \"usa\", recipient = \"age1abc\" }", "usa"),
            ("slot = \"a;b\"", "slot"),
            ("slot_keep_mib = 0", "above 0"),
            ("rebuild_max_rate_kib = 31", "32 to 1048576"),
            ("settings = { max_slot_wal_keep_size = \"-1\" }", "max_slot_wal_keep_size"),
            ("settings = { hba_file = \"/tmp/x\" }", "hba_file"),
        ] {
            let error = AgentConfig::parse(&format!("{extra}\n{GOOD}")).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let relative = GOOD.replace("/var/lib/pg/data", "data");
        assert!(AgentConfig::parse(&relative).unwrap_err().contains("absolute"));
        let secret = GOOD.replace("file:/etc/secret", "hunter2");
        assert!(!AgentConfig::parse(&secret).unwrap_err().contains("secret itself: hunter2"));
    }
}
