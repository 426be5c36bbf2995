//! The keeper: what runs follows from what lies on disk and which proof is in hand. Beside it the watchdog, which ends
//! an open server without waiting for anyone, and the loop that moves the loss slot and drops slots of former names.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use domicile_model::clock::pause;
use rustix::process::Signal;
use sqlx::PgConnection;

use crate::agent::{Agent, Falls, Mode};
use crate::failure::Failure;
use crate::pg::server::Kind;
use crate::pg::words::Words;
use crate::pg::{access, furniture, local};
use crate::supervise::{LAPSED, ORPHANED};

/// How often the keeper looks.
const TICK: Duration = Duration::from_millis(40);
/// How often the watchdog looks: STOP is long against it.
const WATCH: Duration = Duration::from_millis(10);

/// The second start after a fall waits this long, each further one twice as long…
const REST: Duration = Duration::from_secs(1);
/// …but never longer.
const MOST_REST: Duration = Duration::from_secs(10);
/// A server that ran this long has not fallen at its start.
const STOOD: Duration = Duration::from_secs(5);

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
        if let Ok(_guard) = agent.ops.try_lock()
            && !agent.rests()
        {
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
            self.fell();
            self.kill().await;
            mode = self.mode();
        }
        if self.disk.fenced() && !sealed {
            if alive {
                self.server.signal(Signal::INT);
            }
            self.problem("server", None);
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
        self.stood();
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
        self.falls().started = Some(self.clock.now());
        tracing::info!(?kind, "PostgreSQL starts");
        Ok(())
    }

    fn falls(&self) -> std::sync::MutexGuard<'_, Falls> {
        self.falls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has ended. If nobody asked for that, says why, and lets it rest before the next start: the first
    /// time not at all, then longer and longer, so that a full disk does not make it start twenty times a second.
    fn fell(&self) {
        // A stop in order, whoever asked for it, and one for want of a proof are no falls.
        if self.server.exit_code().is_none_or(|code| [0, LAPSED, ORPHANED].contains(&code)) {
            return;
        }
        let rest = {
            let mut falls = self.falls();
            falls.count = falls.count.saturating_add(1);
            let rest = match falls.count {
                1 => Duration::ZERO,
                n => (REST * (1 << n.min(6)) / 4).min(MOST_REST),
            };
            falls.not_before = Some(self.clock.now() + rest);
            rest
        };
        let why = match self.last_words() {
            Some(Words::Full(line)) => format!("its disk is full ({line}); free space there"),
            Some(words) => format!("its last words: {}", words.line()),
            None => format!("its log is {}", self.log().display()),
        };
        let again = if rest.is_zero() {
            "it is started again".to_owned()
        } else {
            format!("it is started again every {} s", rest.as_secs().max(1))
        };
        self.problem(
            "server",
            Some(format!("PostgreSQL in {} ended by itself: {why}; {again}", self.config.data_dir.display())),
        );
    }

    /// Whether the server rests after falls. A fence or an order does not wait for that.
    fn rests(&self) -> bool {
        let now = self.clock.now();
        !self.server.alive()
            && self.mode().kind.is_none()
            && self.falls().not_before.is_some_and(|at| now < at)
    }

    /// Forgets falls once the server has stood for a while.
    fn stood(&self) {
        let mut falls = self.falls();
        let now = self.clock.now();
        if falls.count > 0 && falls.started.is_some_and(|at| now.since(at) >= STOOD) {
            falls.count = 0;
            drop(falls);
            self.problem("server", None);
        }
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
        } else {
            // What follows another one opens with no proof, and needs none.
            self.problem("lapse", None);
        }
        mode.ready = true;
        self.set_mode(*mode);
        self.problem("keeper", None);
        tracing::info!(kind = ?mode.kind, "PostgreSQL answers");
        Ok(())
    }

    /// Remembers the slot that its file names, and drops those that it named before.
    async fn sweep(&self, connection: &mut PgConnection) -> Result<(), Failure> {
        let present = &self.config.slot;
        let made = self.disk.get().slots;
        let mut slots = furniture::sweep(connection, &made, present).await?;
        slots.push(present.clone());
        self.disk.change(|m| m.slots = slots)
    }

    /// Lets everyone in, if there is a proof.
    pub(crate) fn open(&self) -> Result<(), Failure> {
        let may = self.held().is_some() || self.disk.stands() || self.config.sabotage.trusts_itself;
        if self.disk.fenced() || !may {
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

impl Agent {
    /// Remembers, also over a restart, whether something could not be listed.
    fn unlisted(&self, found: &furniture::Found) -> Result<(), Failure> {
        let was = self.disk.get().unlisted;
        let now = (was && !found.covered) || found.losses.is_some();
        if was && now && found.losses.is_none() && !self.has_problem("loss-slot") {
            self.problem("loss-slot", Some(furniture::unlisted()));
        }
        if was == now { Ok(()) } else { self.disk.change(|m| m.unlisted = now) }
    }
}

/// Moves the loss slot behind the standby, for ever, and says when slots were given up.
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
            for about in ["losses", "loss-slot", "standby-slot", "slots"] {
                agent.problem(about, None);
            }
            continue;
        }
        if connection.is_none() {
            connection = local::connect(&agent.config, Duration::from_secs(1)).await.ok();
        }
        let Some(open) = connection.as_mut() else { continue };
        if round.is_multiple_of(10) {
            let swept = agent.sweep(open).await;
            agent.problem("slots", swept.err().map(|f| f.to_string()));
        }
        round = round.wrapping_add(1);
        let done = async {
            if round.is_multiple_of(10) {
                furniture::name_rows(open).await?;
            }
            furniture::advance(open, &agent.config).await
        };
        match done.await {
            Ok(found) => {
                let told = agent.unlisted(&found);
                agent.problem("losses", told.err().map(|f| f.to_string()));
                // What was given up is told until the standby has all that was written before the slots were made again.
                for (about, problem) in [("loss-slot", found.losses), ("standby-slot", found.standby)] {
                    if problem.is_some() || found.covered {
                        agent.problem(about, problem);
                    }
                }
            }
            Err(failure) => {
                agent.problem("losses", Some(failure.to_string()));
                connection = None;
            }
        }
    }
}
