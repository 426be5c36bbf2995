//! The agent: what its parts share, and the rules that hold between them.
//!
//! One lock (`ops`) orders everything that starts, stops or changes the server: effects, jobs and the keeper. Three
//! things never wait for it: a fence's marker (on disk first, and nothing opens over it), the end of a proof (a thread
//! of its own, and the supervisor), and reading the state. A job that only waits for its upstream gives the lock up to a
//! promotion.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_api::agent::{AgentState, Running};
use domicile_model::clock::{BootTime, Clock};
use domicile_model::links::AddressMap;
use domicile_model::{Epoch, FenceConstants, FenceLevel};
use domicile_seal::keys::PrivateKey;
use domicile_store::Store;

use crate::config::AgentConfig;
use crate::disk::{Disk, Upstream};
use crate::effects::work::Bench;
use crate::failure::Failure;
use crate::os::Owner;
use crate::pg::control::{Control, fork_of};
use crate::pg::local;
use crate::pg::server::{Kind, Server};
use crate::pg::words::{self, Words};

/// A proof in hand: of what, and from when on the server must be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    /// The proof's end less STOP.
    pub(crate) until: BootTime,
}

/// How the server runs, as the agent started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mode {
    pub(crate) kind: Option<Kind>,
    /// It has answered since its start.
    pub(crate) ready: bool,
    /// Others were let in as to a primary.
    pub(crate) open: bool,
}

/// Ends of the server that nobody asked for, one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Falls {
    /// How many, since it last ran for a while.
    pub(crate) count: u32,
    /// Not started again by itself before.
    pub(crate) not_before: Option<BootTime>,
    /// When the present run began.
    pub(crate) started: Option<BootTime>,
}

/// The agent.
pub struct Agent {
    pub(crate) config: AgentConfig,
    pub(crate) links: AddressMap,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) owner: Owner,
    pub(crate) disk: Disk,
    pub(crate) server: Server,
    pub(crate) ops: tokio::sync::Mutex<()>,
    /// Orders to promote that wait for it.
    pub(crate) promoting: AtomicUsize,
    pub(crate) http: reqwest::Client,
    /// What a long job is at.
    pub(crate) bench: Bench,
    /// Signs handovers; none if it can't be used.
    pub(crate) key: Option<PrivateKey>,
    gate: Mutex<(Mode, Option<Held>)>,
    problems: Mutex<BTreeMap<&'static str, String>>,
    /// Ends of the server that nobody asked for.
    pub(crate) falls: Mutex<Falls>,
    /// Held for life: two agents on one directory would start and kill each other's server.
    _lock: std::fs::File,
}

impl Agent {
    /// Prepares directories and memory; starts nothing.
    ///
    /// # Errors
    /// When a directory can't be used, another agent runs on it, or the memory is damaged.
    pub fn new(config: AgentConfig, store: Arc<dyn Store>) -> Result<Arc<Self>, Failure> {
        let links = config.links().map_err(|e| Failure::machine(e.to_string()))?;
        let owner = Owner::of(&config.data_dir, config.bin_dir.as_deref())?;
        let dir = config.state_dir();
        owner.dir(&dir)?;
        let path = dir.join("lock");
        let lock = std::fs::File::create(&path)
            .map_err(|e| Failure::machine(format!("{} can't be made: {e}", path.display())))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::machine(format!("another agent already runs on {}", config.data_dir.display()))
        })?;
        let disk = Disk::open(dir.join("agent.json"), owner.clone())?;
        let key = crate::key::own(&dir, &owner);
        let password = config
            .replication
            .password
            .read()
            .map_err(|e| Failure::machine(format!("replication.password: {e}")))?;
        crate::pg::access::write_pass(&config, &owner, &password)?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(500))
            // Proofs come from the gate itself or not at all.
            .no_proxy()
            .build()
            .map_err(|e| Failure::machine(format!("no HTTP client: {e}")))?;
        let unusable = key.as_ref().err().map(|failure| ("key", failure.to_string()));
        Ok(Arc::new(Self {
            links,
            store,
            clock: Clock::Machine,
            server: Server::new(config.data_dir.clone()),
            owner,
            disk,
            ops: tokio::sync::Mutex::new(()),
            promoting: AtomicUsize::new(0),
            http,
            bench: Bench::default(),
            key: key.ok(),
            gate: Mutex::new((Mode::default(), None)),
            problems: Mutex::new(unusable.into_iter().collect()),
            falls: Mutex::default(),
            config,
            _lock: lock,
        }))
    }

    fn gate(&self) -> MutexGuard<'_, (Mode, Option<Held>)> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mode(&self) -> Mode {
        self.gate().0
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.gate().0 = mode;
    }

    pub(crate) fn held(&self) -> Option<Held> {
        let held = self.gate().1;
        held.filter(|h| self.clock.now() < h.until || self.config.sabotage.trusts_itself)
    }

    /// Takes a proof in hand, if it lasts longer than the one there is or is of a later epoch.
    pub(crate) fn hold(&self, held: Held) {
        let mut gate = self.gate();
        let better = gate.1.is_none_or(|old| (held.epoch, held.until) > (old.epoch, old.until));
        if better {
            gate.1 = Some(held);
            self.bound(&gate);
        }
    }

    /// Tells the supervisor of an open server when to kill it, after what the agent knows has changed.
    pub(crate) fn bind(&self) {
        self.bound(&self.gate());
    }

    /// A word that does not get through leaves the earlier moment; the watchdog's thread goes by the same rule.
    fn bound(&self, gate: &(Mode, Option<Held>)) {
        if !gate.0.open || self.config.sabotage.trusts_itself {
            return;
        }
        let until = match gate.1 {
            _ if self.disk.stands() => None,
            Some(held) => Some(held.until),
            None => Some(self.clock.now()),
        };
        self.server.until(until);
    }

    /// Forgets the proof in hand. Only while the server is down: an open one without a proof is killed.
    pub(crate) fn forget_proof(&self) {
        self.gate().1 = None;
    }

    /// Marks the server open under the proof in hand, or without one where availability comes first; false if neither lets
    /// it. The supervisor knows the end before anybody is let in.
    pub(crate) fn mark_open(&self) -> bool {
        if self.disk.fenced() {
            return false;
        }
        let mut gate = self.gate();
        if self.config.sabotage.trusts_itself {
            gate.0.open = true;
            return true;
        }
        let held = gate.1.filter(|h| self.clock.now() < h.until);
        let until = match held {
            _ if self.disk.stands() => None,
            Some(held) => Some(held.until),
            None => return false,
        };
        if !self.server.until(until) {
            return false;
        }
        gate.0.open = true;
        true
    }

    /// Kills an open server whose proof has ended. Called by the watchdog's thread; waits for nothing but the kill.
    pub(crate) fn lapse(&self) {
        if self.config.sabotage.trusts_itself {
            return;
        }
        let over = {
            let gate = self.gate();
            gate.0.open && gate.1.is_none_or(|h| self.clock.now() >= h.until) && !self.disk.stands()
        };
        if over {
            let left = self.server.kill();
            self.set_mode(Mode::default());
            tracing::warn!(left, "the proof ended: PostgreSQL was killed");
            self.problem(
                "lapse",
                Some("the proof ended, so PostgreSQL was stopped; it opens again with a proof".into()),
            );
        }
    }

    /// Kills the server at once and forgets its mode.
    pub(crate) async fn kill(self: &Arc<Self>) -> usize {
        let this = Arc::clone(self);
        let left = tokio::task::spawn_blocking(move || this.server.kill()).await.unwrap_or(1);
        self.set_mode(Mode::default());
        left
    }

    /// Sets or clears a standing problem.
    pub(crate) fn problem(&self, about: &'static str, what: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            Some(what) => {
                if problems.insert(about, what.clone()).as_ref() != Some(&what) {
                    tracing::warn!(about, "{what}");
                }
            }
            None => {
                problems.remove(about);
            }
        }
    }

    /// Whether a problem stands.
    pub(crate) fn has_problem(&self, about: &'static str) -> bool {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).contains_key(about)
    }

    /// The constants last read.
    pub(crate) fn constants(&self) -> FenceConstants {
        self.disk.get().constants.unwrap_or(FenceConstants::DEFAULT)
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.config.data_dir.join(name)
    }

    pub(crate) fn is_standby_directory(&self) -> bool {
        self.data("standby.signal").exists()
    }

    /// What stops direct writers when the proof ends: looked up, not assumed. A server that is open has been let open by
    /// this agent, and its supervisor knows the end; one that is not open lets nobody write. No watchdog is fed, so none is
    /// ever told.
    fn fence_level(&self) -> FenceLevel {
        if self.mode().open && self.server.unbounded() {
            FenceLevel::GateOnly
        } else {
            FenceLevel::Supervisor
        }
    }

    /// Where PostgreSQL's log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.config.state_dir().join("postgresql.log")
    }

    /// The last complaint of the present run of the server.
    pub(crate) fn last_words(&self) -> Option<Words> {
        words::last(&self.log(), self.server.log_from()?)
    }

    fn why_no_stream(&self, upstream: Option<&Upstream>) -> String {
        let from =
            upstream.map_or_else(|| "its primary".to_owned(), |u| format!("the primary at {}", u.dial));
        let cell = &self.config.cell;
        match self.last_words() {
            Some(Words::Gone(line)) => format!(
                "the standby can't stream: {from} no longer has the write-ahead log that it needs ({line}); build it anew with `domicile cell reprotect {cell}`"
            ),
            Some(Words::Full(line)) => format!("the standby can't stream, its disk is full ({line})"),
            Some(Words::Other(line)) => format!(
                "the standby does not stream from {from} ({line}): check the way there, its slot and the replication password"
            ),
            None => format!(
                "the standby does not stream from {from}: check the way there, and the log {}",
                self.log().display()
            ),
        }
    }

    /// What is known now.
    pub(crate) async fn state(&self) -> AgentState {
        let mode = self.mode();
        let alive = self.server.alive();
        let memory = self.disk.get();
        let control = Control::read(&self.owner, &self.config.data_dir).await;
        let mut problems: Vec<String> =
            self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut live = None;
        if alive && mode.ready {
            const PATIENCE: Duration = Duration::from_millis(500);
            let asked = async {
                let mut connection = local::connect(&self.config, PATIENCE).await?;
                local::live(&mut connection, PATIENCE).await
            };
            match asked.await {
                Ok(found) => live = Some(found),
                // One that crashes over and over only says that it recovers.
                Err(failure) => problems.push(match self.last_words() {
                    Some(words) => format!("{failure}; the last complaint in its log: {}", words.line()),
                    None => failure.to_string(),
                }),
            }
        }
        problems.extend(crate::pg::room::problems(&self.config));
        let quiet = mode.kind == Some(Kind::Standby) && live.as_ref().is_some_and(|l| !l.streaming);
        let not_streaming = quiet.then(|| self.why_no_stream(memory.upstream.as_ref()));
        if let Some(marker) = memory.fence.as_ref().filter(|m| m.fenced.is_none()) {
            problems.push(format!(
                "a fence at epoch {} is in force but the stop has not ended: repeat the fence with `force`, or unfence",
                marker.epoch
            ));
        }
        if memory.rewinding {
            problems.push("a rewind was interrupted: only a rebuild makes this directory usable".into());
        }
        let control = match control {
            Ok(control) => Some(control),
            Err(failure) => {
                problems.push(failure.to_string());
                None
            }
        };
        let timeline = live.as_ref().and_then(|l| l.timeline).max(control.as_ref().map(|c| c.timeline));
        let now = self.clock.now();
        AgentState {
            cell: self.config.cell.clone(),
            region: self.config.region.clone(),
            running: match mode.kind {
                _ if !alive => Running::Stopped,
                None => Running::Stopped,
                Some(Kind::Standby) => Running::Standby,
                Some(_) if mode.open => Running::Open,
                Some(_) => Running::Private,
            },
            system_id: control.as_ref().map(|c| c.system_id.clone()),
            control_state: control.as_ref().map(|c| c.state.clone()),
            timeline,
            fork: timeline.and_then(|t| fork_of(&self.config.data_dir, t)),
            checkpoint: control.as_ref().map(|c| c.checkpoint),
            flushed: live.as_ref().and_then(|l| l.flushed),
            replayed: live.as_ref().and_then(|l| l.replayed),
            streaming: live.as_ref().map(|l| l.streaming),
            not_streaming,
            key: self.key.as_ref().map(|key| domicile_seal::handover::published(&key.public())),
            highest: memory.highest,
            world: memory.world,
            epoch: memory.world.map(|_| memory.epoch),
            primary: self.data("PG_VERSION").exists().then(|| !self.is_standby_directory()),
            fence_in_force: memory.fence.is_some(),
            fence: memory.fence.and_then(|m| m.fenced),
            proof: self
                .held()
                .map(|h| (h.epoch, u64::try_from(h.until.since(now).as_millis()).unwrap_or(u64::MAX))),
            fence_level: (!self.disk.stands()).then(|| self.fence_level()),
            unlisted: memory.unlisted,
            follow: memory.follow,
            losses: memory.losses,
            export: self.config.losses.as_ref().map(crate::effects::losses::place::told),
            work: self.bench.now(&self.clock),
            wal_free_bytes: crate::pg::room::free_for_wal(&self.config),
            problems,
        }
    }
}
