//! What a test needs on the machine, and where it is found.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// The oldest PostgreSQL that the product supports: `pg_rewind` with `restore_command`, slots with a size limit.
const OLDEST_POSTGRES: u32 = 13;

/// A program on `PATH`, or in the places where Debian puts servers.
///
/// # Errors
/// A sentence that says what to install.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    for place in places {
        let file = place.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    bail!("`{name}` is not installed: run scripts/setup, or install it and put it on PATH")
}

/// The directory with `postgres`, `initdb`, `pg_ctl`, `pg_rewind`, `pg_basebackup`: the newest one found.
///
/// # Errors
/// A sentence that says what to install.
pub fn postgres_bin() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        for entry in versions.flatten() {
            let version = entry.file_name().to_str().and_then(|v| v.parse().ok());
            let bin = entry.path().join("bin");
            if let Some(version) = version.filter(|v| *v >= OLDEST_POSTGRES)
                && is_postgres_bin(&bin)
            {
                found.push((version, bin));
            }
        }
    }
    if let Some((_, bin)) = found.into_iter().max() {
        return Ok(bin);
    }
    if let Some(bin) = program("postgres").ok().and_then(|p| p.parent().map(Path::to_owned))
        && is_postgres_bin(&bin)
    {
        return Ok(bin);
    }
    bail!(
        "no PostgreSQL {OLDEST_POSTGRES} or newer under /usr/lib/postgresql or on PATH: run scripts/setup, or install postgresql-15"
    )
}

/// Whether all the server programs that the product calls are there.
fn is_postgres_bin(dir: &Path) -> bool {
    ["postgres", "initdb", "pg_ctl", "pg_rewind", "pg_basebackup", "pg_controldata"]
        .iter()
        .all(|p| dir.join(p).is_file())
}

/// What a fleet's databases may grow to. Containers often have a `/dev/shm` of 64 MiB.
const ROOM: u64 = 4 << 30;

/// A place for data of tests: memory where there is enough of it, since etcd 3.4 syncs every write.
#[must_use]
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) >= ROOM);
    let writable = room && tempfile::Builder::new().prefix("domicile-probe-").tempdir_in(memory).is_ok();
    if writable { memory.to_owned() } else { std::env::temp_dir() }
}

/// A directory of its own under [`scratch`], removed on drop.
///
/// # Errors
/// When it can't be made.
pub fn scratch_dir(prefix: &str) -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(prefix).tempdir_in(scratch())
}

/// Whether this process is root. PostgreSQL refuses to run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let error = program("no-such-program-of-ours").unwrap_err().to_string();
        assert!(error.contains("no-such-program-of-ours") && error.contains("scripts/setup"), "{error}");
    }

    #[test]
    fn the_servers_are_found() {
        assert!(program("etcd").unwrap().is_file());
        assert!(postgres_bin().unwrap().join("postgres").is_file());
    }
}
