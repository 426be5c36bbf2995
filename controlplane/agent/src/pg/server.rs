//! The running server: started through the supervisor, watched, stopped.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_model::clock::BootTime;
use rustix::process::Signal;
use tokio::sync::watch;

use super::access;
use crate::config::AgentConfig;
use crate::disk::Upstream;
use crate::failure::Failure;
use crate::os::{Owner, kill_server, postmaster, server_processes, signal};

/// How the server was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Out of recovery.
    Primary,
    /// Out of recovery, for reading its log only: without the network and without workers that apply changes.
    Sealed,
    /// In recovery.
    Standby,
}

struct Child {
    supervisor: i32,
    /// Lines to the supervisor; its end tells the supervisor that the agent is gone.
    words: OwnedFd,
    /// The supervisor's exit code, once it has ended; 1 where a signal ended it.
    exited: watch::Receiver<Option<i32>>,
    /// How long the log was before this run.
    log_from: u64,
    /// The supervisor knows a moment at which to kill it.
    bounded: bool,
}

/// The server's process, if it runs.
pub(crate) struct Server {
    data_dir: PathBuf,
    child: Mutex<Option<Child>>,
    /// This agent killed the present run.
    killed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, child: Mutex::new(None), killed: AtomicBool::new(false) }
    }

    /// Whether the supervisor runs, and so, as far as anyone can tell, the server.
    pub(crate) fn alive(&self) -> bool {
        lock(&self.child).as_ref().is_some_and(|c| c.exited.borrow().is_none())
    }

    /// How the last run ended, if it ended and this agent did not kill it: the supervisor's exit code.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        let code = lock(&self.child).as_ref().and_then(|c| *c.exited.borrow());
        code.filter(|_| !self.killed.load(Ordering::SeqCst))
    }

    /// Where the part of the log begins that this run wrote, in bytes.
    pub(crate) fn log_from(&self) -> Option<u64> {
        lock(&self.child).as_ref().map(|c| c.log_from)
    }

    /// Starts it, with nobody but the agent let in. Returns at once.
    pub(crate) fn start(
        &self,
        config: &AgentConfig,
        owner: &Owner,
        kind: Kind,
        upstream: Option<&Upstream>,
    ) -> Result<(), Failure> {
        if self.alive() {
            return Err(Failure::machine("PostgreSQL runs already"));
        }
        // What an earlier agent left running would hold the directory, and may be open.
        if kill_server(&self.data_dir, Duration::from_secs(5)) > 0 {
            return Err(Failure::machine("processes of an earlier PostgreSQL do not die"));
        }
        // No process works in the directory any more. The lock file's number may since belong to somebody else, or to a
        // zombie that nobody waits for (a container without an init): PostgreSQL would take it for a running server.
        let _ = std::fs::remove_file(self.data_dir.join("postmaster.pid"));
        let socket = config.socket_dir.join(format!(".s.PGSQL.{}.lock", config.address.port()));
        if locked_for(&socket, &self.data_dir) {
            let _ = std::fs::remove_file(socket);
        }
        let access = if kind == Kind::Standby { access::Access::Open } else { access::Access::Private };
        access::write(config, owner, access)?;
        owner.dir(&config.socket_dir)?;
        let mut argv = match &config.supervisor {
            Some(argv) => argv.clone(),
            None => {
                let me = std::env::current_exe()
                    .map_err(|e| Failure::machine(format!("the agent can't find its own program: {e}")))?;
                vec![me.to_string_lossy().into_owned(), "agent-supervise".into()]
            }
        };
        argv.push(self.data_dir.to_string_lossy().into_owned());
        argv.extend(owner.argv("postgres", true));
        argv.push("-D".into());
        argv.push(self.data_dir.to_string_lossy().into_owned());
        for (name, value) in settings(config, kind, upstream) {
            argv.push("-c".into());
            argv.push(format!("{name}={value}"));
        }
        let log_path = config.state_dir().join("postgresql.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .and_then(|f| Ok((f.try_clone()?, f)))
            .map_err(|e| Failure::machine(format!("{} can't be written: {e}", log_path.display())))?;
        let log_from = log.0.metadata().map_or(0, |m| m.len());
        let mut command = tokio::process::Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .current_dir("/")
            .env("LC_ALL", "C")
            .env("PGPASSFILE", access::pass_path(config));
        command.stdin(Stdio::piped()).stdout(log.0).stderr(log.1);
        let mut child = command
            .spawn()
            .map_err(|e| Failure::machine(format!("the supervisor {} can't be started: {e}", argv[0])))?;
        let failed = |e| Failure::machine(format!("the supervisor can't be talked to: {e}"));
        let supervisor = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        let words = child
            .stdin
            .take()
            .ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?
            .into_owned_fd()
            .map_err(failed)?;
        // A supervisor that was stopped must not be able to stop the agent by a full pipe.
        rustix::fs::fcntl_setfl(&words, rustix::fs::OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let (tell, exited) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await;
            tracing::info!(?status, "the supervisor of PostgreSQL ended");
            tell.send_replace(Some(status.ok().and_then(|s| s.code()).unwrap_or(1)));
        });
        self.killed.store(false, Ordering::SeqCst);
        *lock(&self.child) = Some(Child { supervisor, words, exited, log_from, bounded: false });
        Ok(())
    }

    /// Tells the supervisor when to kill the server. A word that does not get through leaves the earlier moment.
    pub(crate) fn until(&self, moment: Option<BootTime>) -> bool {
        let line = match moment {
            Some(moment) => format!("until {}\n", moment.as_nanos()),
            None => "until never\n".to_owned(),
        };
        lock(&self.child).as_mut().is_some_and(|c| {
            let told = rustix::io::write(&c.words, line.as_bytes()).is_ok_and(|n| n == line.len());
            if told {
                c.bounded = moment.is_some();
            }
            told
        })
    }

    /// Whether a server runs whose supervisor knows no moment at which to kill it.
    pub(crate) fn unbounded(&self) -> bool {
        lock(&self.child).as_ref().is_some_and(|c| !c.bounded)
    }

    /// Sends a signal to the postmaster: SIGHUP reloads, SIGINT begins a clean stop.
    pub(crate) fn signal(&self, which: Signal) -> bool {
        let running = server_processes(&self.data_dir);
        postmaster(&self.data_dir).filter(|p| running.contains(p)).is_some_and(|p| signal(p, which))
    }

    /// Kills all of it at once. Blocks for some milliseconds. Returns how many processes would not die.
    pub(crate) fn kill(&self) -> usize {
        self.killed.store(true, Ordering::SeqCst);
        let left = kill_server(&self.data_dir, Duration::from_secs(2));
        // Before it has changed to its directory it is found only as the supervisor's child, and dies with it.
        if let Some(child) = lock(&self.child).take()
            && child.exited.borrow().is_none()
        {
            signal(child.supervisor, Signal::KILL);
        }
        left + kill_server(&self.data_dir, Duration::from_millis(500))
    }

    /// Begins a clean stop and waits for its end; false if it is not over in time.
    pub(crate) async fn stop_cleanly(&self, within: Duration) -> bool {
        let exited = lock(&self.child).as_ref().map(|c| c.exited.clone());
        let Some(mut exited) = exited else { return server_processes(&self.data_dir).is_empty() };
        self.signal(Signal::INT);
        let ended = async {
            // The signal is lost if the postmaster had not installed its handlers yet: send it again.
            loop {
                match tokio::time::timeout(Duration::from_millis(500), exited.wait_for(Option::is_some)).await
                {
                    Ok(_) => return,
                    Err(_) => self.signal(Signal::INT),
                };
            }
        };
        if tokio::time::timeout(within, ended).await.is_err() {
            return false;
        }
        lock(&self.child).take();
        server_processes(&self.data_dir).is_empty()
    }
}

/// Whether a socket's lock file was written by a server of this directory: its second line names it.
fn locked_for(lock: &Path, data_dir: &Path) -> bool {
    let named = std::fs::read_to_string(lock).ok().and_then(|text| {
        let line = text.lines().nth(1)?.trim();
        std::fs::canonicalize(line).ok()
    });
    named.is_some() && named == std::fs::canonicalize(data_dir).ok()
}

fn settings(config: &AgentConfig, kind: Kind, upstream: Option<&Upstream>) -> Vec<(String, String)> {
    let path = |p: PathBuf| p.to_string_lossy().into_owned();
    let mut all: Vec<(String, String)> =
        config.settings.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    set("hba_file", path(access::hba_path(config)));
    set("ident_file", path(access::ident_path(config)));
    set("port", config.address.port().to_string());
    let listen = if kind == Kind::Sealed { String::new() } else { config.address.ip().to_string() };
    set("listen_addresses", listen);
    set("unix_socket_directories", path(config.socket_dir.clone()));
    set("unix_socket_permissions", "0700".into());
    set("wal_level", "logical".into());
    set("wal_log_hints", "on".into());
    set("hot_standby", "on".into());
    set("max_slot_wal_keep_size", format!("{}MB", config.slot_keep_mib));
    set("wal_keep_size", "128MB".into());
    // A standby that comes back must not wait for its own ghost's slot, nor five seconds for its next try.
    set("wal_sender_timeout", "10s".into());
    set("wal_receiver_timeout", "10s".into());
    set("wal_retrieve_retry_interval", "200ms".into());
    set("wal_receiver_status_interval", "1s".into());
    set("logging_collector", "off".into());
    // The agent tells people why the server failed, by its log.
    set("lc_messages", "C".into());
    if kind == Kind::Sealed {
        set("max_logical_replication_workers", "0".into());
        set("autovacuum", "off".into());
    }
    if let Some(up) = upstream.filter(|_| kind == Kind::Standby) {
        let conninfo = format!(
            "host={} port={} user={} application_name={} passfile={}",
            up.dial.ip(),
            up.dial.port(),
            config.replication.user,
            config.region,
            path(access::pass_path(config)),
        );
        set("primary_conninfo", conninfo);
        set("primary_slot_name", up.slot.clone());
        set("recovery_target_timeline", "latest".into());
    }
    all
}
