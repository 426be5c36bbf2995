//! Who gets in: `pg_hba.conf`, `pg_ident.conf` and the password file, all in the agent's own directory, so that a
//! rewind or rebuild can't bring in somebody else's.

use std::path::PathBuf;

use crate::config::AgentConfig;
use crate::os::{OsError, Owner};

/// How far the server is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The agent's own OS user over the unix socket.
    Private,
    /// Everyone with a password too.
    Open,
}

pub(crate) fn hba_path(config: &AgentConfig) -> PathBuf {
    config.state_dir().join("pg_hba.conf")
}

pub(crate) fn ident_path(config: &AgentConfig) -> PathBuf {
    config.state_dir().join("pg_ident.conf")
}

pub(crate) fn pass_path(config: &AgentConfig) -> PathBuf {
    config.state_dir().join("pgpass")
}

/// Writes the rules. They are in force from the server's start or next reload on.
pub(crate) fn write(config: &AgentConfig, owner: &Owner, access: Access) -> Result<(), OsError> {
    owner.write(&ident_path(config), ident(owner, access).as_bytes())?;
    owner.write(&hba_path(config), rules(config, access).as_bytes())
}

/// The password file of `pg_basebackup`, `pg_rewind` and the walreceiver: it keeps the password out of arguments,
/// settings and logs.
pub(crate) fn write_pass(config: &AgentConfig, owner: &Owner, password: &str) -> Result<(), OsError> {
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    owner.write(&pass_path(config), format!("*:*:*:{}:{escaped}\n", config.replication.user).as_bytes())
}

fn rules(config: &AgentConfig, access: Access) -> String {
    let mut text = String::from("# Written by the domicile agent at each change; edits are lost.\n");
    text.push_str("local all postgres peer map=domicile\n");
    if access == Access::Open {
        // A superuser could write these very rules.
        text.push_str("host all postgres all reject\n");
        text.push_str("host all all all scram-sha-256\n");
        text.push_str(&format!("host replication {} all scram-sha-256\n", config.replication.user));
    }
    text
}

fn ident(owner: &Owner, access: Access) -> String {
    let mut text = format!("domicile {} postgres\n", owner.me);
    if access == Access::Open && owner.name != owner.me {
        text.push_str(&format!("domicile {} postgres\n", owner.name));
    }
    text
}
