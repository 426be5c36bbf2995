//! The running copy: a task that follows the registry, and the handle that everybody else holds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use domicile_model::clock::Clock;
use domicile_model::{CellId, Revision, World};
use domicile_store::codec::decode;
use domicile_store::{Entry, Key, Store, StoreError};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::entry::Placed;
use crate::freshness::{Freshness, Sign};
use crate::lastgood::{Job, Keeper, LastGood, LastGoodError, kept};
use crate::table::{Applied, Refusal, RoutingTable};
use crate::watch::{Follower, Pace, Step, strange};

/// How a mirror runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// How patient the watch is.
    pub pace: Pace,
    /// Where the table is kept for a start without the registry. None: such a start has no table.
    pub last_good: Option<PathBuf>,
    /// How long the registry may take at the start before the last-good table is used.
    pub fallback_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { pace: Pace::default(), last_good: None, fallback_after: Duration::from_secs(1) }
    }
}

/// How often things happened since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Full listings that were taken over.
    pub listings: u64,
    /// Times that the registry did not answer, or not usefully.
    pub losses: u64,
    /// Signs of life that were asked for.
    pub probes: u64,
    /// Records that were not taken over.
    pub refused: u64,
}

/// Why a placement could not be read ahead of the watch.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The registry did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry is not the one that the table came from; it is being listed again.
    #[error("{0}; it is being listed again")]
    OtherHistory(String),
    /// The record was not taken over.
    #[error("the placement of cell {cell} was not taken over: {why}")]
    Refused {
        /// The cell.
        cell: CellId,
        /// Why.
        why: Arc<str>,
    },
}

/// A handle to the running copy. Clones share it; the task ends with the last one.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    table: ArcSwap<RoutingTable>,
    /// Held while a new table is built from the present one. Apart from `sign`, which is asked for all the time: a table
    /// of a million tenants takes a while.
    building: Mutex<()>,
    sign: Mutex<Sign>,
    revision: watch::Sender<Revision>,
    relist: Arc<Notify>,
    keeper: Keeper,
    counts: Mutex<Counts>,
    /// A test's switch: believe that a progress answer means that everything before it was seen.
    #[cfg(test)]
    trusts_progress: std::sync::atomic::AtomicBool,
    /// Why the last-good file was refused at the start, if it was.
    refused_file: Mutex<Option<Arc<str>>>,
}

impl Mirror {
    /// Starts to follow a store. Must be called within a tokio runtime. There is no table yet when it returns; see
    /// [`Mirror::started`].
    ///
    /// # Errors
    /// When the last-good file is something else, another process uses it, or its folder can't be used. A file that is
    /// merely torn is no error: it is moved aside, see [`Mirror::refused_file`].
    pub fn start(store: Arc<dyn Store>, clock: Clock, options: Options) -> Result<Self, LastGoodError> {
        let relist = Arc::new(Notify::new());
        let files = options.last_good.map(LastGood::claim).transpose()?.map(Arc::new);
        let keeper = Keeper::start(files.as_ref(), &relist)?;
        let shared = Arc::new(Shared {
            store: store.clone(),
            clock: clock.clone(),
            table: ArcSwap::from_pointee(RoutingTable::empty()),
            building: Mutex::new(()),
            sign: Mutex::new(Sign::None),
            revision: watch::Sender::new(Revision::ZERO),
            relist,
            keeper,
            counts: Mutex::default(),
            #[cfg(test)]
            trusts_progress: false.into(),
            refused_file: Mutex::new(None),
        });
        let follower = Follower::new(store, clock, options.pace);
        let task = tokio::spawn(run(shared.clone(), follower, files, options.fallback_after));
        Ok(Self { shared, _task: Arc::new(Task(task.abort_handle())) })
    }

    /// Waits until every placement up to `revision` is where the next start would find it: only then may the revision be
    /// acknowledged. Without a last-good file a start has nothing but the registry, so that applied is enough. Has no end
    /// of its own while the disk fails, see [`Mirror::file_error`]: put a timeout around it.
    pub async fn persisted(&self, revision: Revision) {
        if !self.shared.keeper.reached(revision).await {
            self.wait_for(revision).await;
        }
    }

    /// Lets go of the last-good file, so that another process may have it: returns when all that was handed in is written
    /// and the file is free. From then on nothing counts as [`persisted`](Mirror::persisted).
    pub async fn let_go(&self) {
        self.shared.keeper.let_go().await;
    }

    /// Keeps the file again that was let go of.
    ///
    /// # Errors
    /// As [`Mirror::start`]: above all while another process has it.
    pub fn take_back(&self) -> Result<(), LastGoodError> {
        self.shared.keeper.take_back(&self.shared.relist)
    }

    /// Why the last-good file is not kept up at present; none if all is well.
    #[must_use]
    pub fn file_error(&self) -> Option<Arc<str>> {
        let writer = self.shared.keeper.writer()?;
        writer.durable().borrow().error.clone()
    }

    /// Why the file of the last run was refused and moved aside, if it was.
    #[must_use]
    pub fn refused_file(&self) -> Option<Arc<str>> {
        self.shared.refused_file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The present table. For the request path: never waits.
    #[must_use]
    pub fn table(&self) -> Arc<RoutingTable> {
        self.shared.table.load_full()
    }

    /// Where the table came from, and how old it is.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.shared.sign().freshness(self.shared.clock.now())
    }

    /// The applied revision, level-triggered: also marked as changed when a placement was read ahead of the watch. The
    /// table that belongs to it stands in [`Mirror::table`] before the value changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.shared.revision.subscribe()
    }

    /// Waits until everything up to `revision` is applied. Has no end of its own: put a timeout around it.
    pub async fn wait_for(&self, revision: Revision) {
        // The sender lives in `shared`, which this handle keeps.
        let _ = self.subscribe().wait_for(|applied| *applied >= revision).await;
    }

    /// Waits until there is a table, from the registry or from the last-good file.
    pub async fn started(&self) {
        let mut changes = self.subscribe();
        while matches!(*self.shared.sign(), Sign::None) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Reads the world and one placement from the registry, ahead of the watch, and takes the placement over if it is
    /// newer. Returns the table's placement afterwards; none if there is none.
    ///
    /// # Errors
    /// When the registry does not answer, is another one, or its record is refused.
    pub async fn refresh(&self, cell: &CellId) -> Result<Option<Placed>, RefreshError> {
        let key = Key::Placement(cell.clone());
        let before = self.table();
        let (header, entries) = self.shared.store.read(&[Key::World, key.clone()]).await?;
        let mut entries = entries.into_iter();
        let world = entries.next().flatten().map(|entry| decode::<World>(&entry.value));
        if let Some(why) = strange(&before, header, world.as_ref().map(|w| w.as_ref().ok())) {
            self.shared.relist.notify_one();
            return Err(RefreshError::OtherHistory(why));
        }
        // Before the first table there is nothing that a placement could be read ahead of.
        if let Some(entry) = entries.next().flatten().filter(|_| before.cluster().is_some()) {
            let applied = self.shared.apply_ahead(&entry);
            if let Some(refusal) = applied.refused.into_iter().next() {
                return Err(RefreshError::Refused { cell: cell.clone(), why: refusal.why });
            }
        }
        Ok(self.table().placement(cell.as_str()).cloned())
    }

    /// How often things happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the registry listed again: for whoever learned that it is another world than the table's.
    pub fn relist(&self) {
        self.shared.relist.notify_one();
    }
}

impl Shared {
    fn sign(&self) -> std::sync::MutexGuard<'_, Sign> {
        self.sign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Swaps in what `build` makes of the present table; one builder at a time.
    /// `alive` says from the report what is to be said about the source of the table.
    fn swap<R>(
        &self,
        build: impl FnOnce(&RoutingTable) -> (RoutingTable, R),
        alive: impl FnOnce(&R) -> Option<Sign>,
    ) -> R {
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, report) = build(&self.table.load());
        let applied = next.applied();
        self.table.store(Arc::new(next));
        if let Some(now) = alive(&report) {
            *self.sign() = now;
        }
        // Before another builder may go on, or an older revision could be told after a newer one.
        self.revision.send_replace(applied);
        drop(building);
        report
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&self, refused: &[Refusal]) {
        for refusal in refused {
            tracing::error!(key = %refusal.key, why = %refusal.why, "a record was not taken over");
        }
        self.count(|counts| counts.refused += refused.len() as u64);
    }

    fn apply_ahead(&self, entry: &Entry) -> Applied {
        let now = self.clock.now();
        self.swap(|table| table.apply_ahead(entry, now), |_| None)
    }
}

/// Reads what the last run left. Torn files are moved aside.
async fn load(shared: &Arc<Shared>, files: Arc<LastGood>) -> Option<(RoutingTable, Sign)> {
    let now = shared.clock.now();
    let load = tokio::task::spawn_blocking(move || {
        files.load(now).inspect_err(|why| {
            if matches!(why, LastGoodError::Refused { .. }) {
                files.set_aside();
            }
        })
    });
    match load.await {
        Ok(Ok(found)) => found.map(|l| (l.table, Sign::LastGood { loaded: now, age: l.age })),
        Ok(Err(why)) => {
            tracing::error!(%why, "starting without the last-good table");
            *shared.refused_file.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(why.to_string().into());
            None
        }
        // The runtime is shutting down.
        Err(_) => None,
    }
}

async fn run(
    shared: Arc<Shared>,
    mut follower: Follower,
    files: Option<Arc<LastGood>>,
    fallback_after: Duration,
) {
    let mut last_good = match files {
        Some(files) => load(&shared, files).await,
        None => None,
    };
    let fallback = tokio::time::Instant::now() + fallback_after;
    loop {
        // The registry's first listing must meet the last-good table even if that was not in use yet, or an older
        // history could lower an epoch across a restart.
        let table = match &last_good {
            Some((table, _)) => Arc::new(table.clone()),
            None => shared.table.load_full(),
        };
        let step = {
            let step = follower.step(&table);
            tokio::pin!(step);
            loop {
                tokio::select! {
                    step = &mut step => break Some(step),
                    () = shared.relist.notified() => break None,
                    () = tokio::time::sleep_until(fallback), if last_good.is_some() => {
                        if let Some((table, sign)) = last_good.take() {
                            tracing::warn!("the registry does not answer: routing by the last-good table");
                            shared.swap(|_| (table, ()), |()| Some(sign));
                        }
                    }
                }
            }
        };
        match step {
            Some(step) => shared.took(&mut follower, &mut last_good, step),
            None => follower.relist(),
        }
    }
}

impl Shared {
    fn took(&self, follower: &mut Follower, last_good: &mut Option<(RoutingTable, Sign)>, step: Step) {
        let now = self.clock.now();
        match step {
            Step::Listed(listing, asked) => {
                let (before, sign) = last_good.take().unzip();
                let (relisted, table) = self.swap(
                    |table| {
                        let (next, relisted) = before.as_ref().unwrap_or(table).relist(&listing, now);
                        (next.clone(), (relisted, next))
                    },
                    |(r, _)| {
                        if r.rejected {
                            return sign;
                        }
                        // Before the revision is told: whoever was waiting for it looks here next.
                        self.count(|counts| counts.listings += 1);
                        Some(Sign::Live { seen: asked })
                    },
                );
                if let Some(why) = &relisted.other_history {
                    tracing::error!(%why, "the registry is of another history: no epoch is lowered");
                }
                self.report(&relisted.refused);
                if relisted.rejected {
                    follower.relist();
                    return;
                }
                if let Some(writer) = self.keeper.writer() {
                    let refused = keys(&relisted.refused);
                    writer.hand_in(Job::Listed { listing, table, refused });
                }
            }
            Step::Batch(mut batch, seen) => {
                let before = self.table.load().applied();
                let (applied, table) = self.swap(
                    |table| {
                        let (next, applied) = table.apply(&batch.changes, now);
                        #[cfg(test)]
                        let next = self.distort(next, &batch);
                        (next.clone(), (applied, next))
                    },
                    |(a, _)| seen.filter(|_| !a.other_world).map(|seen| Sign::Live { seen }),
                );
                self.report(&applied.refused);
                if applied.other_world {
                    tracing::error!("the registry became another world: listing it again");
                    follower.relist();
                } else if let Some(writer) = self.keeper.writer().filter(|_| applied.new > 0) {
                    // What the table ignored as old must not come back from the disk either.
                    batch.changes.retain(|change| change.revision() > before);
                    writer.hand_in(if batch.changes.iter().any(|change| kept(change.key())) {
                        Job::Changed { changes: batch.changes, table, refused: keys(&applied.refused) }
                    } else {
                        Job::Passed(table.applied())
                    });
                }
            }
            Step::Resumed(asked) => *self.sign() = Sign::Live { seen: asked },
            Step::Probed => self.count(|counts| counts.probes += 1),
            Step::Lost { why, relist } => {
                self.count(|counts| counts.losses += 1);
                tracing::warn!(%why, relist, "lost the registry");
            }
        }
    }
}

fn keys(refused: &[Refusal]) -> BTreeSet<Key> {
    refused.iter().map(|refusal| refusal.key.clone()).collect()
}

/// What tests look at, and the switches that break the mirror for them.
#[cfg(test)]
impl Mirror {
    pub(crate) fn trust_progress(&self, on: bool) {
        self.shared.trusts_progress.store(on, std::sync::atomic::Ordering::SeqCst);
    }

    pub(crate) fn acknowledge_early(&self, on: bool) {
        self.shared.keeper.writer().unwrap().acknowledge_early(on);
    }

    /// Takes changes as if the watch had brought them.
    pub(crate) fn hear(&self, changes: Vec<domicile_store::Change>) {
        let shared = &self.shared;
        let mut follower = Follower::new(shared.store.clone(), shared.clock.clone(), Pace::default());
        let revision = changes.iter().map(domicile_store::Change::revision).max().unwrap();
        let header = domicile_store::Header { cluster: shared.table.load().cluster().unwrap(), revision };
        let batch = domicile_store::Batch { header, changes };
        shared.took(&mut follower, &mut None, Step::Batch(batch, Some(shared.clock.now())));
    }
}

#[cfg(test)]
impl Shared {
    fn distort(&self, table: RoutingTable, batch: &domicile_store::Batch) -> RoutingTable {
        if self.trusts_progress.load(std::sync::atomic::Ordering::SeqCst) {
            table.with_applied(batch.header.revision)
        } else {
            table
        }
    }
}
