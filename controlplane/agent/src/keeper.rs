//! The keeper: what runs follows from what lies on disk and which proof is in hand. Beside it the watchdog, which ends
//! an open server without waiting for anyone, and the loop that moves the loss slot.

use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::pause;
use rustix::process::Signal;

use crate::agent::{Agent, Mode};
use crate::failure::Failure;
use crate::pg::server::Kind;
use crate::pg::{access, furniture, local};

/// How often the keeper looks.
const TICK: Duration = Duration::from_millis(40);
/// How often the watchdog looks: STOP is long against it.
const WATCH: Duration = Duration::from_millis(10);

/// Starts the thread that kills an open server when its proof ends. It ends with the agent.
pub(crate) fn watchdog(agent: &Arc<Agent>) {
    let agent = Arc::downgrade(agent);
    std::thread::spawn(move || {
        while let Some(agent) = agent.upgrade() {
            agent.lapse();
            drop(agent);
            std::thread::park_timeout(WATCH);
        }
    });
}

/// Keeps the server as it should be, for ever.
pub(crate) async fn keep(agent: Arc<Agent>) {
    let mut fails: u32 = 0;
    loop {
        // Whoever has the lock starts and stops the server itself.
        if let Ok(_guard) = agent.ops.try_lock() {
            match agent.settle_down(false).await {
                Ok(()) => fails = 0,
                Err(failure) => {
                    fails = fails.saturating_add(1);
                    agent.problem("keeper", Some(failure.to_string()));
                }
            }
        }
        pause(TICK * (1 << fails.min(6))).await;
    }
}

impl Agent {
    /// One step towards what should run. The caller holds `ops`. `sealed`: a primary is to run for its log only.
    pub(crate) async fn settle_down(self: &Arc<Self>, sealed: bool) -> Result<(), Failure> {
        let mut mode = self.mode();
        let alive = self.server.alive();
        if !alive && mode.kind.is_some() {
            // It ended by itself, or the supervisor ended it: what it left running must not go on either.
            self.kill().await;
            mode = self.mode();
        }
        if self.disk.fenced() && !sealed {
            if alive {
                self.server.signal(Signal::INT);
            }
            return Ok(());
        }
        if !alive {
            if self.disk.get().rewinding {
                return Err(Failure::machine(
                    "the directory was left by an interrupted rewind: it needs a rebuild",
                ));
            }
            if !self.data("PG_VERSION").exists() {
                return Err(Failure::machine(format!(
                    "there is no database in {}",
                    self.config.data_dir.display()
                )));
            }
            let kind = match (self.is_standby_directory(), sealed) {
                (true, _) => Kind::Standby,
                (false, true) => Kind::Sealed,
                (false, false) => Kind::Primary,
            };
            self.start(kind)?;
            return Ok(());
        }
        if mode.kind == Some(Kind::Standby) && !self.is_standby_directory() {
            // Somebody else promoted it: as a primary it may run only under the rules for one.
            self.kill().await;
            return Err(Failure::machine("the standby was promoted by somebody else and was stopped"));
        }
        if !mode.ready {
            self.welcome(&mut mode).await?;
        }
        if mode.kind == Some(Kind::Primary) && mode.ready && !mode.open && !sealed {
            self.open()?;
        }
        Ok(())
    }

    /// Starts the server; nobody but the agent gets in, unless it is a standby.
    pub(crate) fn start(self: &Arc<Self>, kind: Kind) -> Result<(), Failure> {
        let upstream = self.disk.get().upstream;
        self.set_mode(Mode::default());
        self.server.start(&self.config, &self.owner, kind, upstream.as_ref())?;
        self.set_mode(Mode { kind: Some(kind), ready: false, open: false });
        tracing::info!(?kind, "PostgreSQL starts");
        Ok(())
    }

    /// Asks a started server whether it answers; makes what a primary needs.
    async fn welcome(&self, mode: &mut Mode) -> Result<(), Failure> {
        const PATIENCE: Duration = Duration::from_millis(400);
        let Ok(mut connection) = local::connect(&self.config, PATIENCE).await else { return Ok(()) };
        let live = local::live(&mut connection, PATIENCE).await?;
        let expected = mode.kind == Some(Kind::Standby);
        if live.in_recovery != expected {
            // A primary still in recovery from its crash lets nobody in; ask again.
            return Ok(());
        }
        if mode.kind == Some(Kind::Primary) {
            let done = furniture::furnish(&mut connection, &self.config).await;
            self.problem("furniture", done.err().map(|f| f.to_string()));
        }
        mode.ready = true;
        self.set_mode(*mode);
        self.problem("keeper", None);
        tracing::info!(kind = ?mode.kind, "PostgreSQL answers");
        Ok(())
    }

    /// Lets everyone in, if there is a proof.
    pub(crate) fn open(&self) -> Result<(), Failure> {
        if self.disk.fenced() || (self.held().is_none() && !self.config.sabotage.trusts_itself) {
            return Ok(());
        }
        if !self.mark_open() {
            return Ok(());
        }
        access::write(&self.config, &self.owner, access::Access::Open)?;
        self.server.signal(Signal::HUP);
        self.problem("lapse", None);
        tracing::info!("PostgreSQL is open");
        Ok(())
    }

    /// Waits until the server answers as this kind, starting it where needed. The caller holds `ops`.
    pub(crate) async fn ready(self: &Arc<Self>, kind: Kind, within: Duration) -> Result<(), Failure> {
        let give_up = self.clock.now() + within;
        loop {
            self.settle_down(kind == Kind::Sealed).await?;
            let mode = self.mode();
            if mode.ready && self.server.alive() {
                // A primary that runs already serves for reading its log as well.
                let fits = mode.kind == Some(kind)
                    || (kind == Kind::Sealed && mode.kind == Some(Kind::Primary) && !mode.open);
                return if fits {
                    Ok(())
                } else {
                    Err(Failure::refused("wrong-role", format!("PostgreSQL runs as {:?}", mode.kind)))
                };
            }
            if self.clock.now() >= give_up {
                return Err(Failure::unfinished(format!(
                    "PostgreSQL did not answer within {} ms of its start; its log: {}",
                    within.as_millis(),
                    self.config.state_dir().join("postgresql.log").display()
                )));
            }
            pause(Duration::from_millis(15)).await;
        }
    }
}

/// Moves the loss slot behind the standby, for ever.
pub(crate) async fn follow_losses(agent: Arc<Agent>) {
    let mut connection = None;
    let mut round = 0_u32;
    loop {
        pause(Duration::from_millis(500)).await;
        // Not during an order: a promotion is open before it has made its slots, and would look as if it had lost them.
        let open = agent.ops.try_lock().is_ok_and(|_order| agent.mode().open);
        if !open {
            // What went wrong while it was open (a fence ends the connection, too) says nothing about the next time.
            connection = None;
            agent.problem("losses", None);
            continue;
        }
        if connection.is_none() {
            connection = local::connect(&agent.config, Duration::from_secs(1)).await.ok();
        }
        let Some(open) = connection.as_mut() else { continue };
        round = round.wrapping_add(1);
        let done = async {
            if round.is_multiple_of(10) {
                furniture::name_rows(open).await?;
            }
            furniture::advance(open, &agent.config.slot).await
        };
        match done.await {
            Ok(problem) => {
                if problem.is_some() || round.is_multiple_of(120) {
                    agent.problem("losses", problem);
                }
            }
            Err(failure) => {
                agent.problem("losses", Some(failure.to_string()));
                connection = None;
            }
        }
    }
}
