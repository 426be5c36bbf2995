//! The engine: plans moves, starts them, runs every unfinished one while it leads, and answers for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_api::agent::LossReport;
use domicile_api::moves::{MoveStatus, MoveView};
use domicile_api::protection::BuildingView;
use domicile_model::clock::Clock;
use domicile_model::{Cell, CellId, MoveClaim, MoveId, RegionId, World};
use domicile_store::codec::decode;
use domicile_store::{Key, Leadership, Store};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::drive::drive;
use crate::error::{Halt, MoveError};
use crate::options::Options;
use crate::provider::Databases;
use crate::record::{LogRecord, Workflow};
use crate::run::{Run, Shared};
use crate::sampling::Sampler;
use crate::snapshot::all;

/// How often the leader looks for workflows that nobody told it about.
const LOOK: Duration = Duration::from_millis(500);

/// Why leading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeadEnd {
    /// It was told to.
    Cancelled,
    /// Another leader leads, or another world is served. Nothing more was done after that was seen.
    Deposed(String),
}

/// The engine of one control plane. Followers plan and answer; only the leader starts and runs.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) wake: Notify,
    running: Mutex<BTreeSet<MoveId>>,
}

impl Engine {
    /// An engine on this registry and these databases.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        databases: Arc<dyn Databases>,
        clock: Clock,
        options: Options,
    ) -> Arc<Self> {
        let sampler = Arc::new(Sampler::new(databases.clone(), clock.clone()));
        let shared = Arc::new(Shared { store, databases, sampler, clock, options });
        Arc::new(Self { shared, wake: Notify::new(), running: Mutex::default() })
    }

    /// The samples, to be fed by whoever hosts the engine: [`Sampler::tick`].
    #[must_use]
    pub fn sampler(&self) -> &Arc<Sampler> {
        &self.shared.sampler
    }

    /// Looks for unfinished moves now: something may have been lifted that held them up.
    pub fn look_again(&self) {
        self.wake.notify_one();
    }

    /// How a move stands; none if there is none of this id.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn view(&self, id: MoveId) -> Result<Option<MoveView>, MoveError> {
        let listing = self.shared.store.list(&Key::Workflow(id).to_string()).await?;
        let views = views(&listing.entries)?;
        let found = views.into_iter().find(|v| v.id == id);
        Ok(found.map(|view| MoveView { building: self.building(&view), ..view }))
    }

    /// How far the new standby of a move is, while it is built; none otherwise, or if nobody has seen it lately.
    #[must_use]
    pub fn building(&self, view: &MoveView) -> Option<BuildingView> {
        let builds = view.status == MoveStatus::Running && ["losses", "re-protect"].contains(&&*view.step);
        let building = self.sampler().building(&view.cell).filter(|_| builds)?;
        // A server that still runs as it did before its order is on no way yet.
        (view.from.as_ref() == Some(&building.region)).then_some(building)
    }

    /// All moves that the registry knows, the newest first.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn list(&self) -> Result<Vec<MoveView>, MoveError> {
        let listing = self.shared.store.list("workflows/").await?;
        let mut views = views(&listing.entries)?;
        views.sort_by_key(|v| std::cmp::Reverse(v.created));
        Ok(views)
    }

    /// The transactions that a forced move lost, from where the old primary stands; none while it has no list.
    ///
    /// # Errors
    /// When there is no such move, or the old primary can't be asked.
    pub async fn losses(&self, id: MoveId) -> Result<Option<LossReport>, MoveError> {
        let (_, found) = self.shared.store.read(&[Key::Workflow(id)]).await?;
        let found = found.into_iter().next().flatten().ok_or_else(|| no_such_move(id))?;
        let flow: Workflow = decode(&found.value)?;
        self.losses_of(id, &flow.cell, &flow.from).await
    }

    /// The same of a move whose record has left the registry: of this cell, away from this region.
    ///
    /// # Errors
    /// When there is no such cell, or the old primary can't be asked.
    pub async fn losses_of(
        &self,
        id: MoveId,
        cell: &CellId,
        from: &RegionId,
    ) -> Result<Option<LossReport>, MoveError> {
        let (_, found) = self.shared.store.read(&[Key::Cell(cell.clone())]).await?;
        let found = found.into_iter().next().flatten().ok_or_else(|| no_such_move(id))?;
        let cell: Cell = decode(&found.value)?;
        let asked = self.shared.databases.losses(&cell, from, id);
        match tokio::time::timeout(self.shared.options.call, asked).await {
            Ok(answer) => answer.map_err(|e| MoveError::NotNow(e.to_string())),
            Err(_) => {
                Err(MoveError::NotNow(format!("the agent in {from} did not answer in time: ask again")))
            }
        }
    }

    /// Runs every unfinished move until told to stop or deposed. Each runs in a task of its own; all of them end
    /// before this returns.
    pub async fn lead(
        self: &Arc<Self>,
        leadership: Leadership,
        world: World,
        cancel: CancellationToken,
    ) -> LeadEnd {
        let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
        self.wake.notify_one();
        let end = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break LeadEnd::Cancelled,
                Some(ended) = tasks.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => break LeadEnd::Deposed(why),
                    Err(panicked) => tracing::error!(%panicked, "a workflow's task ended; it is taken up again"),
                },
                found = self.look() => for id in found {
                    if self.with_running(|running| running.insert(id)) {
                        let task = RunningGuard { engine: self.clone(), id };
                        let (leadership, world) = (leadership.clone(), world.clone());
                        tasks.spawn(async move { task.run(leadership, world).await });
                    }
                },
            }
        };
        tasks.shutdown().await;
        self.with_running(BTreeSet::clear);
        end
    }

    fn with_running<T>(&self, f: impl FnOnce(&mut BTreeSet<MoveId>) -> T) -> T {
        f(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there may be unfinished moves that nobody runs, and names all unfinished ones.
    async fn look(&self) -> Vec<MoveId> {
        loop {
            // Stuck moves are among the unfinished ones: without this pause they would be taken up without end.
            let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
            match all::<MoveClaim>(&*self.shared.store, "moves/").await {
                Ok(claims) => {
                    let found: Vec<MoveId> = claims.into_iter().map(|c| c.moving).collect();
                    if found.iter().any(|id| self.with_running(|running| !running.contains(id))) {
                        return found;
                    }
                }
                Err(error) => tracing::warn!(%error, "can't look for unfinished moves"),
            }
        }
    }
}

/// Takes a workflow off the list of running ones, however its task ends.
struct RunningGuard {
    engine: Arc<Engine>,
    id: MoveId,
}

impl RunningGuard {
    async fn run(self, leadership: Leadership, world: World) -> Result<(), String> {
        match Run::load(self.engine.shared.clone(), leadership, world, self.id).await {
            Ok(Some(mut run)) => drive(&mut run).await,
            Ok(None) => Ok(()),
            Err(Halt::Deposed(why)) => Err(why),
            Err(error) => {
                tracing::error!(%error, id = %self.id, "an unfinished move can't be taken up");
                Ok(())
            }
        }
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let id = self.id;
        self.engine.with_running(|running| running.remove(&id));
    }
}

pub(crate) fn no_such_move(id: MoveId) -> MoveError {
    MoveError::NotFound(format!("there is no move {id}: `domicile failover list` names them"))
}

pub(crate) fn not_now(halt: Halt) -> MoveError {
    match halt {
        Halt::Deposed(_) => MoveError::Deposed,
        other => MoveError::NotNow(format!("{other}: look at the move and ask again")),
    }
}

/// The moves whose records are among these entries, each with as much of its log as is there. One whose record is not
/// among them is left out.
///
/// # Errors
/// When one can't be read.
pub fn views(entries: &[domicile_store::Entry]) -> Result<Vec<MoveView>, MoveError> {
    let mut flows = Vec::new();
    let mut logs: BTreeMap<MoveId, Vec<_>> = BTreeMap::new();
    for entry in entries {
        match &entry.key {
            Key::Workflow(_) => flows.push(decode::<Workflow>(&entry.value)?),
            Key::WorkflowLog(id, _) => {
                logs.entry(*id).or_default().push(decode::<LogRecord>(&entry.value)?.0);
            }
            _ => {}
        }
    }
    Ok(flows.iter().map(|flow| flow.view(logs.remove(&flow.id).unwrap_or_default())).collect())
}
