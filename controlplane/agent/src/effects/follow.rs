//! Becoming a standby again: attach, else rewind once, else rebuild.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domicile_api::agent::{Follow, Progress, ProgressStatus};
use domicile_api::protection::Doing;
use domicile_model::clock::pause;
use domicile_model::token::Lsn;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::agent::Agent;
use crate::disk::Upstream;
use crate::failure::Failure;
use crate::os::{recovering, sync_dir};
use crate::pg::control::Control;
use crate::pg::server::Kind;
use crate::pg::words::Words;
use crate::pg::{access, local};

/// How long a started standby may take until it streams before another way is taken.
const ATTACH: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Attach,
    Rewind,
    Rebuild,
}

/// How far something was when it was last looked at.
#[derive(Debug, Default)]
struct Way<T>(Option<T>);

impl<T: PartialOrd> Way<T> {
    /// Whether it has gone on since. One that can't be seen has not.
    fn goes_on(&mut self, at: Option<T>) -> bool {
        let further = at.is_some() && at > self.0;
        if further {
            self.0 = at;
        }
        further
    }
}

impl How {
    const fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Rewind => "rewind",
            Self::Rebuild => "rebuild",
        }
    }
}

impl Agent {
    /// Starts the job. Refused where it would destroy transactions that nobody has read yet.
    pub(crate) async fn follow(self: &Arc<Self>, order: Follow) -> Result<Progress, Failure> {
        self.accept(&order.token).await?;
        if let Some(running) = self.disk.get().follow.filter(|p| p.status == ProgressStatus::Running)
            && self.ops.try_lock().is_err()
        {
            return Ok(running);
        }
        if self.held().is_some() && self.mode().open {
            return Err(Failure::refused("open", "this server is open as a primary under a proof")
                .hint("fence it first; a primary never follows by itself"));
        }
        let how = self.choose(&order).await?;
        let progress = Progress {
            token: order.token.clone(),
            how: how.name().into(),
            status: ProgressStatus::Running,
            share: None,
        };
        self.disk.change(|m| m.follow = Some(progress.clone()))?;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let _guard = this.ops.lock().await;
            let done = this.carry_out(&order, how).await;
            this.bench.end();
            let status = match done {
                Ok(()) => ProgressStatus::Done,
                Err(failure) => {
                    tracing::warn!(%failure, how = how.name(), "could not become a standby");
                    ProgressStatus::Failed { why: failure.to_string() }
                }
            };
            let ended = Progress { token: order.token, how: how.name().into(), status, share: None };
            if let Err(failure) = this.disk.change(|m| m.follow = Some(ended)) {
                this.problem("follow", Some(failure.to_string()));
            }
        });
        Ok(progress)
    }

    async fn choose(&self, order: &Follow) -> Result<How, Failure> {
        let memory = self.disk.get();
        if memory.rewinding || !self.data("global/pg_control").exists() {
            return Ok(How::Rebuild);
        }
        if self.is_standby_directory() {
            // A rewind brings no log that the upstream has removed, and a standby has nothing that nobody read.
            let gone = matches!(self.last_words(), Some(Words::Gone(_))) && !self.streams().await;
            return Ok(if gone || memory.unrewindable {
                How::Rebuild
            } else if memory.unattachable {
                How::Rewind
            } else {
                How::Attach
            });
        }
        let control = Control::read(&self.owner, &self.config.data_dir).await?;
        let Some(fork) = order.fork else {
            return Err(Failure::refused(
                "no-fork",
                "this directory is a primary's and the order names no fork: where the upstream left it is unknown",
            ));
        };
        // The shutdown checkpoint is the last record here. The upstream took its records from here and whole, so if
        // it forked behind the checkpoint's start, it has all of it and nothing here is past the fork.
        let clean = control.is_clean_primary() && !self.server.alive();
        if clean && control.timeline == fork.parent && control.checkpoint < fork.at && !memory.unattachable {
            return Ok(How::Attach);
        }
        if !memory.exported.contains(&fork) {
            return Err(Failure::refused(
                "losses-not-exported",
                format!(
                    "the log here goes past the fork at {}, and what lies there was not exported",
                    fork.at
                ),
            )
            .hint("export the losses of this move first"));
        }
        Ok(How::Rewind)
    }

    async fn carry_out(self: &Arc<Self>, order: &Follow, how: How) -> Result<(), Failure> {
        let upstream = Upstream { dial: self.links.dial(order.upstream), slot: order.slot.clone() };
        if how == How::Attach && self.is_standby_directory() {
            let same = self.disk.get().upstream.as_ref() == Some(&upstream);
            if same && self.mode().ready && self.streams().await {
                return Ok(());
            }
        }
        match how {
            How::Attach => {}
            How::Rewind => self.rewind(&upstream).await?,
            How::Rebuild => self.rebuild(&upstream).await?,
        }
        self.attach(&upstream, how).await
    }

    /// Makes the directory a standby's and starts it. This ends a fence: the order to follow is what the old primary
    /// was waiting for.
    async fn attach(self: &Arc<Self>, upstream: &Upstream, how: How) -> Result<(), Failure> {
        self.bench.begin(Doing::Attaching, &self.clock);
        self.stop().await?;
        // Slots of a primary's life would keep its log for ever.
        let slots = self.data("pg_replslot");
        if let Ok(entries) = std::fs::read_dir(&slots) {
            for entry in entries.filter_map(Result::ok) {
                std::fs::remove_dir_all(entry.path()).map_err(|e| {
                    Failure::machine(format!("{} can't be removed: {e}", entry.path().display()))
                })?;
            }
        }
        self.owner.write(&self.data("standby.signal"), b"")?;
        self.disk.change(|m| {
            m.upstream = Some(upstream.clone());
            m.rewinding = false;
            m.fence = None;
            m.promotion = None;
            m.unlisted = false;
        })?;
        // A copy of a large database first replays what was written while it was made: however long that takes, it is not
        // given up, nor started from its beginning again, while it goes on.
        let mut way = Way::default();
        while let Err(failure) = self.ready(Kind::Standby, ATTACH).await {
            if !failure.is_unfinished() || !way.goes_on(recovering(&self.config.data_dir)) {
                return Err(failure);
            }
        }
        let mut way = Way(self.replayed().await);
        let mut give_up = self.clock.now() + ATTACH;
        while !self.streams().await {
            // It stands and only waits for its upstream, which may just have died.
            if self.promoting.load(Ordering::SeqCst) > 0 {
                return Err(Failure::busy(
                    "it runs as a standby, and is to be promoted before it has streamed",
                ));
            }
            if self.clock.now() > give_up {
                if way.goes_on(self.replayed().await) {
                    give_up = self.clock.now() + ATTACH;
                    continue;
                }
                self.disk.change(|m| {
                    m.unattachable = how != How::Rebuild;
                    m.unrewindable = how == How::Rewind;
                })?;
                let words = self.last_words();
                return Err(Failure::machine(format!(
                    "it runs as a standby but does not stream from {} within {} s ({}); the log is {}",
                    upstream.dial,
                    ATTACH.as_secs(),
                    words.as_ref().map_or("it says nothing", Words::line),
                    self.log().display()
                ))
                .hint(
                    "check the way to the upstream, its slot and the replication password, then follow again",
                ));
            }
            pause(Duration::from_millis(50)).await;
        }
        self.disk.change(|m| (m.unattachable, m.unrewindable) = (false, false))
    }

    /// How far it has replayed, if it says so.
    async fn replayed(&self) -> Option<Lsn> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut connection = local::connect(&self.config, PATIENCE).await.ok()?;
        local::live(&mut connection, PATIENCE).await.ok()?.replayed
    }

    /// Whether it streams, and goes on streaming: one that is refused at once looks for a moment as if it did, over and
    /// over again.
    async fn streams(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(1);
        const RECEIVER: &str = "SELECT pid::text FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let asked = async {
            let mut connection = local::connect(&self.config, PATIENCE).await?;
            let first = local::value(&mut connection, RECEIVER, PATIENCE).await?;
            if first.is_none() {
                return Ok(false);
            }
            // Longer than the pause between two tries to stream.
            pause(Duration::from_millis(300)).await;
            let second = local::value(&mut connection, RECEIVER, PATIENCE).await?;
            Ok::<_, Failure>(first == second)
        };
        asked.await.unwrap_or(false)
    }

    /// Stops whatever runs, cleanly if it can be had.
    async fn stop(self: &Arc<Self>) -> Result<(), Failure> {
        if self.server.alive() {
            self.server.stop_cleanly(Duration::from_secs(20)).await;
        }
        match self.kill().await {
            0 => Ok(()),
            left => Err(Failure::machine(format!("{left} processes of PostgreSQL do not die"))),
        }
    }

    async fn rewind(self: &Arc<Self>, upstream: &Upstream) -> Result<(), Failure> {
        self.bench.begin(Doing::Rewinding, &self.clock);
        // pg_rewind refuses a standby's directory and one that was not stopped cleanly.
        if self.is_standby_directory() {
            self.stop().await?;
            std::fs::remove_file(self.data("standby.signal"))
                .map_err(|e| Failure::machine(format!("standby.signal can't be removed: {e}")))?;
        } else {
            self.ready(Kind::Sealed, Duration::from_secs(120)).await?;
            self.stop().await?;
        }
        // Until the source's first checkpoint on its new timeline a rewind would find nothing to do.
        let password =
            self.config.replication.password.read().map_err(|e| Failure::machine(e.to_string()))?;
        let options = PgConnectOptions::new_without_pgpass()
            .host(&upstream.dial.ip().to_string())
            .port(upstream.dial.port())
            .username(&self.config.replication.user)
            .password(&password)
            .database(&self.config.database)
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging();
        let mut source = tokio::time::timeout(Duration::from_secs(5), PgConnection::connect_with(&options))
            .await
            .map_err(|_| Failure::database_slow("connecting to the upstream", Duration::from_secs(5)))?
            .map_err(|e| Failure::database("connecting to the upstream", &e))?;
        local::execute(&mut source, "CHECKPOINT", Duration::from_secs(60)).await?;
        drop(source);
        self.disk.change(|m| m.rewinding = true)?;
        let conninfo = format!(
            "host={} port={} user={} dbname={}",
            upstream.dial.ip(),
            upstream.dial.port(),
            self.config.replication.user,
            quoted(&self.config.database)
        );
        let mut command = self.owner.command("pg_rewind");
        command
            .arg("-D")
            .arg(&self.config.data_dir)
            .arg(format!("--source-server={conninfo}"))
            .arg("--progress")
            .env("PGPASSFILE", access::pass_path(&self.config));
        // The marker goes only with the standby.signal that follows: in between lies a directory that must not run.
        self.bench.run(command, "pg_rewind").await
    }

    async fn rebuild(self: &Arc<Self>, upstream: &Upstream) -> Result<(), Failure> {
        self.bench.begin(Doing::BaseBackup, &self.clock);
        self.stop().await?;
        let beside = |suffix: &str| {
            let mut path = self.config.data_dir.clone().into_os_string();
            path.push(suffix);
            std::path::PathBuf::from(path)
        };
        let (new, old) = (beside(".rebuild"), beside(".old"));
        let clear = |path: &std::path::Path| match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::machine(format!("{} can't be removed: {e}", path.display())))
            }
            _ => Ok(()),
        };
        clear(&new)?;
        self.owner.dir(&new)?;
        let mut command = self.owner.command("pg_basebackup");
        command
            .arg("-D")
            .arg(&new)
            .args(["-h", &upstream.dial.ip().to_string(), "-p", &upstream.dial.port().to_string()])
            .args([
                "-U",
                &self.config.replication.user,
                "-X",
                "stream",
                "--checkpoint=fast",
                "-w",
                "--progress",
            ])
            .env("PGPASSFILE", access::pass_path(&self.config));
        if let Some(most) = self.config.rebuild_max_rate_kib {
            command.arg(format!("--max-rate={most}k"));
        }
        self.bench.run(command, "pg_basebackup").await?;
        // A standby's before it is in place: at no instant does a directory lie there that would start as a primary.
        self.owner.write(&new.join("standby.signal"), b"")?;
        clear(&old)?;
        let moved =
            |e: std::io::Error| Failure::machine(format!("the new directory can't be put in place: {e}"));
        if self.config.data_dir.exists() {
            std::fs::rename(&self.config.data_dir, &old).map_err(moved)?;
        }
        std::fs::rename(&new, &self.config.data_dir).map_err(moved)?;
        if let Some(parent) = self.config.data_dir.parent() {
            sync_dir(parent)?;
        }
        clear(&old)
    }
}

/// A value of a connection string.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_on_is_waited_for_again() {
        let file = |n: u8| Some(format!("00000001000000000000000{n}"));
        let mut way = Way::default();
        assert!(way.goes_on(file(1)) && way.goes_on(file(3)));
        assert!(!way.goes_on(file(3)), "it stands still");
        assert!(!way.goes_on(file(1)), "it began anew");
        assert!(!way.goes_on(None), "it can't be seen");
        let mut way = Way(Some(Lsn(5)));
        assert!(!way.goes_on(Some(Lsn(5))) && way.goes_on(Some(Lsn(6))));
    }
}
