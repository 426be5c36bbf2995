//! One workflow in the hands of one leader: reads, and edges, each of which is one fenced transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::{LogEvent, MoveStatus};
use domicile_model::clock::{BootTime, Clock, pause};
use domicile_model::{Cell, Placement, RegionId, Revision, RouterId, Silence, Token, World};
use domicile_store::codec::{decode, encode};
use domicile_store::right::take_right_on;
use domicile_store::{Commit, Entry, Key, Leadership, Listing, Op, Precondition, Store, StoreError, Txn};
use jiff::Timestamp;

use crate::error::Halt;
use crate::options::Options;
use crate::provider::{Databases, Observation};
use crate::record::Workflow;
use crate::sampling::Sampler;

/// How often a step that waits for days looks whether it still should.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What all workflows of an engine share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) databases: Arc<dyn Databases>,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) clock: Clock,
    pub(crate) options: Options,
}

/// A workflow in the hands of this leader.
pub(crate) struct Run {
    pub(crate) shared: Arc<Shared>,
    pub(crate) leadership: Leadership,
    pub(crate) world: World,
    pub(crate) cell: Cell,
    pub(crate) flow: Workflow,
    /// The revision of the record as read or written last.
    seen: Revision,
    /// When this leader first saw the close committed. Never carried over from another leader: its clock is another.
    pub(crate) close_seen: Option<BootTime>,
    /// Witnesses that were declared destroyed, with when this leader first saw that. Never carried over either.
    pub(crate) barred: BTreeMap<RouterId, BootTime>,
    /// Steps whose newest intent was written by this very run, so that nothing can have been sent before.
    pub(crate) mine: BTreeSet<String>,
}

/// A change of the placement that an edge makes with it.
pub(crate) struct Right {
    pub(crate) old: Placement,
    pub(crate) seen: Revision,
    pub(crate) new: Placement,
}

/// An edge in the making.
#[derive(Default)]
pub(crate) struct Edge<'a> {
    pub(crate) events: Vec<(&'a str, LogEvent, &'a str)>,
    pub(crate) right: Option<Right>,
    /// That the old witnesses are silent, so that the right may come with others.
    pub(crate) silence: Option<Silence>,
    /// The move is over: its claim goes.
    pub(crate) release: bool,
    /// What must hold besides.
    pub(crate) when: Vec<Precondition>,
    /// Writes that stand or fall with it.
    pub(crate) also: Vec<Op>,
}

impl<'a> Edge<'a> {
    pub(crate) fn of(step: &'a str, event: LogEvent, note: &'a str) -> Self {
        Self { events: vec![(step, event, note)], ..Self::default() }
    }

    pub(crate) fn and(mut self, step: &'a str, event: LogEvent, note: &'a str) -> Self {
        self.events.push((step, event, note));
        self
    }

    pub(crate) fn right(mut self, right: Right) -> Self {
        self.right = Some(right);
        self
    }

    pub(crate) fn silent(mut self, silence: Option<Silence>) -> Self {
        self.silence = silence;
        self
    }

    pub(crate) fn with(mut self, also: impl IntoIterator<Item = Op>) -> Self {
        self.also.extend(also);
        self
    }

    pub(crate) fn when(mut self, when: impl IntoIterator<Item = Precondition>) -> Self {
        self.when.extend(when);
        self
    }

    pub(crate) const fn release(mut self) -> Self {
        self.release = true;
        self
    }
}

impl Run {
    /// Reads the workflow and its cell.
    pub(crate) async fn load(
        shared: Arc<Shared>,
        leadership: Leadership,
        world: World,
        id: domicile_model::MoveId,
    ) -> Result<Option<Self>, Halt> {
        let key = Key::Workflow(id);
        let Some(entry) = read(&shared, std::slice::from_ref(&key)).await?.pop().flatten() else {
            return Ok(None);
        };
        let flow: Workflow = decode(&entry.value).map_err(|e| Halt::Stuck(e.to_string()))?;
        let cell_key = Key::Cell(flow.cell.clone());
        let Some(cell) = read(&shared, std::slice::from_ref(&cell_key)).await?.pop().flatten() else {
            return Ok(None);
        };
        let cell: Cell = decode(&cell.value).map_err(|e| Halt::Stuck(e.to_string()))?;
        let seen = entry.modified;
        let mine = BTreeSet::new();
        Ok(Some(Self {
            shared,
            leadership,
            world,
            cell,
            flow,
            seen,
            close_seen: None,
            barred: BTreeMap::new(),
            mine,
        }))
    }

    /// Reads the record again.
    pub(crate) async fn reload(&mut self) -> Result<(), Halt> {
        let entry = self.read_one(Key::Workflow(self.flow.id)).await?;
        let entry = entry.ok_or_else(|| Halt::Deposed("the record of the move is gone".to_owned()))?;
        self.flow = decode(&entry.value).map_err(|e| Halt::Stuck(e.to_string()))?;
        self.seen = entry.modified;
        Ok(())
    }

    /// Ends a long wait with [`Halt::Conflict`] once somebody has written the record since this run did: a person may have
    /// ended the move. Looked at every few seconds; `last` keeps when that was.
    pub(crate) async fn still_mine(&self, last: &mut BootTime) -> Result<(), Halt> {
        if self.now().since(*last) < ASK_AGAIN {
            return Ok(());
        }
        *last = self.now();
        if self.was_changed().await? { Err(Halt::Conflict) } else { Ok(()) }
    }

    /// Whether somebody has written the record since this run read or wrote it.
    pub(crate) async fn was_changed(&self) -> Result<bool, Halt> {
        let entry = self.read_one(Key::Workflow(self.flow.id)).await?;
        Ok(entry.is_none_or(|entry| entry.modified != self.seen))
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn now(&self) -> BootTime {
        self.shared.clock.now()
    }

    pub(crate) fn from(&self) -> RegionId {
        self.flow.from.clone()
    }

    pub(crate) fn to(&self) -> RegionId {
        self.flow.to.clone()
    }

    /// The token that the newest intent of this step stands under.
    pub(crate) fn next_token(&self, step: &str) -> Token {
        Token {
            world: self.world.id,
            leader: self.leadership.fence,
            attempt: self.flow.attempt + 1,
            moving: self.flow.id,
            step: step.to_owned(),
            cell: self.flow.cell.clone(),
        }
    }

    /// Looks at one of the cell's servers; not having been able to look is an empty observation.
    pub(crate) async fn observe(&self, region: &RegionId) -> Observation {
        self.shared.observe(&self.cell, region).await
    }

    pub(crate) async fn read_one(&self, key: Key) -> Result<Option<Entry>, Halt> {
        Ok(read(&self.shared, &[key]).await?.pop().flatten())
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing, Halt> {
        let mut pace = Pace::new(self.options().backoff);
        loop {
            match self.shared.store.list(prefix).await {
                Ok(listing) => return Ok(listing),
                Err(error) if error.is_retryable() => pace.wait(&error).await,
                Err(error) => return Err(Halt::Stuck(error.to_string())),
            }
        }
    }

    /// The placement as it stands, and where it was last changed.
    pub(crate) async fn placement(&self) -> Result<(Placement, Revision), Halt> {
        let entry = self.read_one(Key::Placement(self.flow.cell.clone())).await?;
        let gone =
            || Halt::Stuck(format!("cell {} has no placement: the registry was damaged", self.flow.cell));
        let entry = entry.ok_or_else(gone)?;
        let placement = decode(&entry.value).map_err(|e| Halt::Stuck(e.to_string()))?;
        Ok((placement, entry.modified))
    }

    /// Commits an edge: the record, its log entries, the placement if it changes; all or nothing, fenced.
    /// `change` sees the placement as it will stand.
    pub(crate) async fn edge(
        &mut self,
        edge: Edge<'_>,
        change: impl FnOnce(&mut Workflow, Option<&Placement>),
    ) -> Result<Revision, Halt> {
        let mut flow = self.flow.clone();
        let at = Timestamp::now();
        let base = if self.options().sabotage.unfenced {
            Txn::in_world(&self.world)
        } else {
            Txn::fenced(&self.world, &self.leadership)
        };
        let fences = base.when.len();
        let mut txn = base.when(Precondition::ModifiedAt(Key::Workflow(flow.id), self.seen));
        for (step, event, note) in &edge.events {
            let token = (*event == LogEvent::Intent || *event == LogEvent::UndoIntent)
                .then(|| Token { attempt: flow.attempt + 1, ..self.next_token(step) });
            if let Some(token) = token {
                flow.attempt = token.attempt;
                flow.steps.entry((*step).to_owned()).or_default().token = Some(token);
            }
            let entry = flow
                .take(step, *event, note, &self.options().name, at)
                .map_err(|e| Halt::Stuck(format!("the engine has a bug, nothing was written: {e}")))?;
            txn = txn.put(Key::WorkflowLog(flow.id, entry.0.n), &entry);
        }
        let mut placed = None;
        if let Some(right) = edge.right {
            let silence = edge.silence.as_ref();
            let (with, new) = take_right_on(txn, &right.old, right.seen, right.new, silence)
                .map_err(|e| Halt::Stuck(format!("the engine has a bug, nothing was written: {e}")))?;
            txn = with;
            placed = Some(new);
        }
        let status = flow.status.clone();
        change(&mut flow, placed.as_ref());
        if flow.status != status {
            flow.updated = at;
        }
        if edge.release {
            txn = txn.delete(Key::Move(flow.cell.clone()));
        }
        txn.when.extend(edge.when);
        txn.then.extend(edge.also);
        let txn = txn.put(Key::Workflow(flow.id), &flow);
        let revision = self.commit(txn, fences, &encode(&flow)).await?;
        for (step, event, note) in &edge.events {
            tell(&flow, step, *event, note);
            if matches!(event, LogEvent::Intent | LogEvent::UndoIntent) {
                self.mine.insert((*step).to_owned());
            }
        }
        if flow.status != status {
            tracing::info!(moving = %flow.id, cell = %flow.cell, kind = ?flow.definition, status = ?flow.status, "status of a move");
        }
        self.flow = flow;
        self.seen = revision;
        Ok(revision)
    }

    /// Commits until it is known what became of it. The same transaction is sent again: at most one of them can be
    /// applied, because each compares the record's revision.
    async fn commit(&self, txn: Txn, fences: usize, record: &[u8]) -> Result<Revision, Halt> {
        let mut pace = Pace::new(self.options().backoff);
        loop {
            match self.shared.store.commit(txn.clone()).await {
                Ok(Commit::Done(revision)) => return Ok(revision),
                Ok(Commit::Refused { current, .. }) => {
                    // A first try of unknown outcome may have been applied: then the record is ours, to the byte.
                    if let Some(Some(now)) = current.get(fences)
                        && now.value == record
                    {
                        return Ok(now.modified);
                    }
                    let broken =
                        txn.when.iter().zip(&current).take(fences).any(|(w, c)| !holds(w, c.as_ref()));
                    return Err(if broken {
                        Halt::Deposed("another leader leads, or the registry is another world".to_owned())
                    } else {
                        Halt::Conflict
                    });
                }
                // Full: somebody will make room, and the move goes on; being stuck could not be written down either.
                Err(
                    error @ (StoreError::UnknownOutcome { .. }
                    | StoreError::Unavailable { .. }
                    | StoreError::Full { .. }),
                ) => pace.wait(&error).await,
                Err(error) => return Err(Halt::Stuck(error.to_string())),
            }
        }
    }

    /// Ends the present step.
    pub(crate) async fn done(
        &mut self,
        note: &str,
        change: impl FnOnce(&mut Workflow),
    ) -> Result<Revision, Halt> {
        let step = self.flow.step.clone();
        self.edge(Edge::of(&step, LogEvent::Done, note), |flow, _| {
            change(flow);
            flow.advance();
        })
        .await
    }

    /// Writes that a person is needed.
    pub(crate) async fn stuck(&mut self, why: &str) -> Result<(), Halt> {
        let step = self.flow.step.clone();
        self.edge(Edge::of(&step, LogEvent::Stuck, why), |flow, _| {
            flow.status = MoveStatus::Stuck { step: step.clone(), why: why.to_owned() };
        })
        .await
        .map(|_| ())
    }
}

/// Says in this process's log what was just committed, so that an operator can follow a move there. What needs an eye
/// is a warning.
pub(crate) fn tell(flow: &Workflow, step: &str, event: LogEvent, note: &str) {
    let (moving, cell, kind) = (flow.id, &flow.cell, flow.definition);
    match event {
        LogEvent::Failed | LogEvent::Unknown | LogEvent::Stuck => {
            tracing::warn!(%moving, %cell, ?kind, step, ?event, note, "move");
        }
        LogEvent::Intent
        | LogEvent::Done
        | LogEvent::UndoIntent
        | LogEvent::Undone
        | LogEvent::Verb
        | LogEvent::Skipped
        | LogEvent::Asked => {
            tracing::info!(%moving, %cell, ?kind, step, ?event, note, "move");
        }
    }
}

fn holds(precondition: &Precondition, current: Option<&Entry>) -> bool {
    match (precondition, current) {
        (Precondition::Absent(_), found) => found.is_none(),
        (Precondition::ModifiedAt(_, at), Some(found)) => found.modified == *at,
        (Precondition::CreatedAt(_, at), Some(found)) => found.created == *at,
        (Precondition::Holds(_, value), Some(found)) => found.value == *value,
        (_, None) => false,
    }
}

async fn read(shared: &Shared, keys: &[Key]) -> Result<Vec<Option<Entry>>, Halt> {
    let mut pace = Pace::new(shared.options.backoff);
    loop {
        match shared.store.read(keys).await {
            Ok((_, entries)) => return Ok(entries),
            Err(error) if error.is_retryable() => pace.wait(&error).await,
            Err(error) => return Err(Halt::Stuck(error.to_string())),
        }
    }
}

/// Pauses that grow, with jitter, so that many workflows do not come back at once.
pub(crate) struct Pace {
    next: Duration,
    longest: Duration,
}

impl Pace {
    pub(crate) const fn new((first, longest): (Duration, Duration)) -> Self {
        Self { next: first, longest }
    }

    pub(crate) async fn wait(&mut self, why: &(impl std::fmt::Display + Sync)) {
        tracing::debug!(%why, "waiting before the next try");
        let jitter = rand::random_range(0.75..1.25);
        pause(self.next.mul_f64(jitter)).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
