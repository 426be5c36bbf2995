//! A server that the kit itself runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PostgresError, as_server_user, bin_dir, owned_dir, processes, psql, run};

/// A running server; killed with all its processes when dropped.
#[derive(Debug)]
pub struct Postgres {
    data_dir: PathBuf,
    socket_dir: PathBuf,
    address: SocketAddr,
}

impl Postgres {
    /// Starts the server in this prepared directory and waits until it answers.
    ///
    /// # Errors
    /// When it does not start; the end of its log is in the error.
    pub fn start(data_dir: &Path, address: SocketAddr) -> Result<Self, PostgresError> {
        Self::run(data_dir, address, &address.ip().to_string())
    }

    /// Starts it for the superuser over the unix socket only: no port is taken.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_unreachable(data_dir: &Path) -> Result<Self, PostgresError> {
        Self::run(data_dir, SocketAddr::from(([127, 0, 0, 1], 5432)), "")
    }

    fn run(data_dir: &Path, address: SocketAddr, listen: &str) -> Result<Self, PostgresError> {
        let socket_dir = data_dir.with_extension("socket");
        owned_dir(&socket_dir)?;
        let log = data_dir.with_extension("socket").join("postgresql.log");
        let options = format!(
            "-c listen_addresses='{listen}' -c port={} -c unix_socket_directories={}",
            address.port(),
            socket_dir.display()
        );
        let this = Self { data_dir: data_dir.to_owned(), socket_dir, address };
        run(as_server_user(&bin_dir()?.join("pg_ctl"))
            .args(["-w", "-t", "30", "-o", &options, "-D"])
            .arg(data_dir)
            .arg("-l")
            .arg(&log)
            .arg("start"))
        .map_err(|e| PostgresError::Failed {
            program: "pg_ctl start".into(),
            said: format!("{e}\n{}", std::fs::read_to_string(&log).unwrap_or_default()),
        })?;
        Ok(this)
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// When it does not stop within half a minute.
    pub fn stop(self) -> Result<(), PostgresError> {
        run(as_server_user(&bin_dir()?.join("pg_ctl"))
            .args(["-w", "-t", "30", "-m", "fast", "-D"])
            .arg(&self.data_dir)
            .arg("stop"))
        .map(drop)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Runs SQL over TCP as this role.
    ///
    /// # Errors
    /// What `psql` said.
    pub fn sql(
        &self,
        user: &str,
        password: &str,
        database: &str,
        sql: &str,
    ) -> Result<String, PostgresError> {
        psql(self.address, user, password, database, sql)
    }

    /// Runs SQL as the superuser over the unix socket.
    ///
    /// # Errors
    /// What `psql` said.
    pub fn superuser(&self, database: &str, sql: &str) -> Result<String, PostgresError> {
        let mut command: Command = as_server_user(&bin_dir()?.join("psql"));
        command
            .args(["-XAtq", "-w", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql, "-h"])
            .arg(&self.socket_dir)
            .args(["-p", &self.address.port().to_string()]);
        run(&mut command).map(|o| String::from_utf8_lossy(&o.stdout).trim_end().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The postmaster first, so that it forks nothing more; SIGKILL also ends processes that a test stopped.
        for _ in 0..100 {
            let mut left = processes(&self.data_dir);
            if left.is_empty() {
                break;
            }
            left.sort_unstable();
            for pid in left.into_iter().filter_map(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
            std::thread::yield_now();
        }
    }
}
