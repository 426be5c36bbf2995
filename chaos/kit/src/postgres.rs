//! PostgreSQL for tests: directories made ready for an agent (or anyone) to start, and servers that the kit runs itself.
//!
//! Servers run as the OS user `postgres` when the caller is root, because PostgreSQL refuses root, and as the caller
//! otherwise. Everything here blocks; from async code call it in `spawn_blocking`.
//!
//! Roles in every prepared directory: `postgres` (superuser, by peer on the unix socket only), `domicile` (looks:
//! `pg_monitor`), `replicator` (streams, rewinds and rebuilds), `app` (owns the database).

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

mod server;

pub use server::Postgres;

/// Why a server could not be made ready or run.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No server programs were found.
    #[error("no PostgreSQL programs under /usr/lib/postgresql/*/bin: install the package postgresql-15")]
    NotInstalled,
    /// A program failed.
    #[error("`{program}` failed: {said}")]
    Failed {
        /// Which.
        program: String,
        /// What it said, its end.
        said: String,
    },
    /// A file or process operation failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> PostgresError {
    let what = what.into();
    move |source| PostgresError::Io { what: format!("{what}: {source}"), source }
}

/// What a prepared server holds. Passwords are for tests: plain text.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The database, owned by `app`.
    pub database: String,
    /// Of the role `app`.
    pub app_password: String,
    /// Of the role `domicile`.
    pub domicile_password: String,
    /// Of the role `replicator`.
    pub replicator_password: String,
    /// SQL run in the database, as `app`, when it is made.
    pub schema: String,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            database: "clinic".into(),
            app_password: "app-secret".into(),
            domicile_password: "domicile-secret".into(),
            replicator_password: "replicator-secret".into(),
            schema: String::new(),
        }
    }
}

/// The directory with the newest server's programs.
///
/// # Errors
/// When PostgreSQL is not installed.
pub fn bin_dir() -> Result<PathBuf, PostgresError> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .map_err(|_| PostgresError::NotInstalled)?
        .filter_map(Result::ok)
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).ok_or(PostgresError::NotInstalled)
}

/// A command that runs as the user that servers run as.
#[must_use]
pub fn as_server_user(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// The uid and gid that servers run as.
///
/// # Errors
/// When the caller is root and there is no user `postgres`.
pub fn server_user() -> Result<(u32, u32), PostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(io("reading /etc/passwd"))?;
    passwd
        .lines()
        .find_map(|line| {
            let mut parts = line.split(':');
            if parts.next() != Some("postgres") {
                return None;
            }
            Some((parts.nth(1)?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .ok_or(PostgresError::NotInstalled)
}

/// Makes a directory (0700) that belongs to the server's user. Its parents must let that user pass.
///
/// # Errors
/// When it can't be made.
pub fn owned_dir(dir: &Path) -> Result<(), PostgresError> {
    let (uid, gid) = server_user()?;
    std::fs::create_dir_all(dir).map_err(io(format!("creating {}", dir.display())))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .and_then(|()| std::os::unix::fs::chown(dir, Some(uid), Some(gid)))
        .map_err(io(format!("giving {} to the server's user", dir.display())))
}

/// A temporary home for servers whose path the server's user can pass (0755), removed on drop.
///
/// # Errors
/// When it can't be made.
pub fn home() -> Result<tempfile::TempDir, PostgresError> {
    let dir = tempfile::Builder::new().prefix("domicile-pg-").tempdir().map_err(io("making a directory"))?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
        .map_err(io("opening a directory"))?;
    Ok(dir)
}

pub(crate) fn run(command: &mut Command) -> Result<Output, PostgresError> {
    let program = format!("{command:?}").chars().take(200).collect::<String>();
    // From a directory that the server's user can enter, or setpriv's child warns about its own.
    let output = command.current_dir("/").stdin(Stdio::null()).output().map_err(io(program.clone()))?;
    if output.status.success() {
        return Ok(output);
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let from = said.char_indices().rev().nth(1500).map_or(0, |(i, _)| i);
    Err(PostgresError::Failed { program, said: said[from..].to_owned() })
}

fn write_file(path: &Path, mode: u32, text: &str) -> Result<(), PostgresError> {
    let what = || format!("writing {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path).map_err(io(what()))?;
    file.write_all(text.as_bytes()).map_err(io(what()))?;
    let (uid, gid) = server_user()?;
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(io(what()))
}

const SETTINGS: &str = "
# Made by the test kit.
wal_level = logical
wal_log_hints = on
max_wal_senders = 10
max_replication_slots = 10
max_prepared_transactions = 10
hot_standby = on
shared_buffers = 16MB
max_connections = 60
# Shared memory as files of the data directory: a killed server leaves nothing behind elsewhere.
dynamic_shared_memory_type = mmap
wal_retrieve_retry_interval = 200ms
wal_receiver_status_interval = 1s
min_wal_size = 32MB
max_wal_size = 256MB
";

const HBA: &str = "
local all all peer map=kit
local all all scram-sha-256
host all postgres all reject
host all all all scram-sha-256
host replication replicator all scram-sha-256
";

/// Makes a primary: checksums, `wal_level = logical`, roles, database. Left stopped, cleanly.
///
/// # Errors
/// When a program fails or a file can't be written.
pub fn prepare_primary(data_dir: &Path, spec: &Spec) -> Result<(), PostgresError> {
    let bin = bin_dir()?;
    owned_dir(data_dir)?;
    run(as_server_user(&bin.join("initdb"))
        .arg("-D")
        .arg(data_dir)
        .args([
            "-U",
            "postgres",
            "--auth=reject",
            "-E",
            "UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-sync",
        ])
        .args(["--no-instructions"]))?;
    let conf = data_dir.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).map_err(io("reading postgresql.conf"))?;
    write_file(&conf, 0o600, &(text + SETTINGS))?;
    write_file(&data_dir.join("pg_hba.conf"), 0o600, HBA)?;
    write_file(&data_dir.join("pg_ident.conf"), 0o600, &ident()?)?;
    let quoted = |password: &str| format!("'{}'", password.replace('\'', "''"));
    let database = format!("\"{}\"", spec.database.replace('"', "\"\""));
    let roles = format!(
        "CREATE ROLE app LOGIN PASSWORD {};
CREATE ROLE domicile LOGIN PASSWORD {} IN ROLE pg_monitor;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD {} IN ROLE pg_checkpoint
",
        quoted(&spec.app_password),
        quoted(&spec.domicile_password),
        quoted(&spec.replicator_password),
    );
    // pg_rewind reads its source through these.
    let inside = format!(
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean),
 pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text),
 pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
SET SESSION AUTHORIZATION app;
{}
",
        spec.schema
    );
    // Through a running server, never `postgres --single`: what that makes gets object ids of the system's range, and
    // PostgreSQL publishes no such table.
    let server = Postgres::start_unreachable(data_dir)?;
    server.superuser("postgres", &roles)?;
    server.superuser("postgres", &format!("CREATE DATABASE {database} OWNER app"))?;
    server.superuser(&spec.database, &inside)?;
    server.stop()
}

fn ident() -> Result<String, PostgresError> {
    let me = rustix::process::geteuid().as_raw();
    let (server, _) = server_user()?;
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(io("reading /etc/passwd"))?;
    let mut text = String::new();
    for line in passwd.lines() {
        let mut parts = line.split(':');
        let (Some(name), Some(uid)) = (parts.next(), parts.nth(1).and_then(|u| u.parse::<u32>().ok())) else {
            continue;
        };
        if uid == me || uid == server {
            text.push_str(&format!("kit {name} postgres\n"));
        }
    }
    Ok(text)
}

/// Makes a standby of `upstream` from a *cleanly stopped* primary's directory. Left stopped. It streams through the
/// physical slot `slot`, which must exist on the primary by then.
///
/// # Errors
/// When the source was not stopped cleanly, or can't be copied.
pub fn prepare_standby(
    primary_dir: &Path,
    data_dir: &Path,
    upstream: SocketAddr,
    slot: &str,
    spec: &Spec,
) -> Result<(), PostgresError> {
    let control =
        run(as_server_user(&bin_dir()?.join("pg_controldata")).arg(primary_dir).env("LC_ALL", "C"))?;
    let control = String::from_utf8_lossy(&control.stdout);
    let state = control.lines().find_map(|l| l.strip_prefix("Database cluster state:")).map(str::trim);
    if state != Some("shut down") {
        return Err(PostgresError::Failed {
            program: "prepare_standby".into(),
            said: format!(
                "{} was not stopped cleanly: stop it first, or use base_backup",
                primary_dir.display()
            ),
        });
    }
    run(Command::new("cp").arg("-a").arg(primary_dir).arg(data_dir))?;
    // Slots are not part of a base backup either: a copied one would keep write-ahead log for ever.
    let slots = data_dir.join("pg_replslot");
    for entry in std::fs::read_dir(&slots).map_err(io("reading pg_replslot"))?.filter_map(Result::ok) {
        std::fs::remove_dir_all(entry.path()).map_err(io("removing a copied slot"))?;
    }
    follow(data_dir, upstream, slot, spec)
}

/// Makes a standby by `pg_basebackup` from a running server. Left stopped.
///
/// # Errors
/// When the program fails.
pub fn base_backup(
    data_dir: &Path,
    upstream: SocketAddr,
    slot: &str,
    spec: &Spec,
) -> Result<(), PostgresError> {
    owned_dir(data_dir)?;
    run(as_server_user(&bin_dir()?.join("pg_basebackup"))
        .arg("-D")
        .arg(data_dir)
        .args(["-h", &upstream.ip().to_string(), "-p", &upstream.port().to_string(), "-U", "replicator"])
        .args(["-X", "stream", "--checkpoint=fast", "--no-sync", "-w"])
        .env("PGPASSWORD", &spec.replicator_password))?;
    follow(data_dir, upstream, slot, spec)
}

fn follow(data_dir: &Path, upstream: SocketAddr, slot: &str, spec: &Spec) -> Result<(), PostgresError> {
    let conninfo = format!(
        "host={} port={} user=replicator password={} application_name=domicile",
        upstream.ip(),
        upstream.port(),
        spec.replicator_password
    );
    let text =
        format!("primary_conninfo = '{}'\nprimary_slot_name = '{slot}'\n", conninfo.replace('\'', "''"));
    write_file(&data_dir.join("postgresql.auto.conf"), 0o600, &text)?;
    write_file(&data_dir.join("standby.signal"), 0o600, "")
}

/// Runs SQL over TCP with `psql` and returns its unaligned output.
///
/// # Errors
/// What `psql` said.
pub fn psql(
    address: SocketAddr,
    user: &str,
    password: &str,
    database: &str,
    sql: &str,
) -> Result<String, PostgresError> {
    let mut command = Command::new(bin_dir()?.join("psql"));
    command
        .args(["-XAtq", "-w", "-v", "ON_ERROR_STOP=1", "-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string(), "-U", user, "-d", database, "-c", sql])
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "3");
    run(&mut command).map(|o| String::from_utf8_lossy(&o.stdout).trim_end().to_owned())
}

/// The processes of the server in this directory, postmaster included: each has it as working directory.
#[must_use]
pub fn processes(data_dir: &Path) -> Vec<i32> {
    let Ok(wanted) = std::fs::metadata(data_dir) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            let pid: i32 = e.file_name().to_str()?.parse().ok()?;
            let cwd = std::fs::metadata(e.path().join("cwd")).ok()?;
            ((cwd.dev(), cwd.ino()) == (wanted.dev(), wanted.ino())).then_some(pid)
        })
        .collect()
}
