//! The running copy: a task that follows the registry, and the handle that everybody else holds.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use domicile_model::clock::{BootTime, Clock};
use domicile_model::{CellId, Revision, World};
use domicile_store::codec::decode;
use domicile_store::{Entry, Key, Store, StoreError};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::entry::Placed;
use crate::freshness::{Freshness, Sign};
use crate::table::{Applied, Refusal, RoutingTable};
use crate::watch::{Follower, Pace, Step, strange};

/// How a mirror runs.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How patient the watch is.
    pub pace: Pace,
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
    /// Held while a new table is built from the present one.
    sign: Mutex<Sign>,
    revision: watch::Sender<Revision>,
    relist: Notify,
}

impl Mirror {
    /// Starts to follow a store. Must be called within a tokio runtime; returns at once, with a table of nothing.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, clock: Clock, options: Options) -> Self {
        let shared = Arc::new(Shared {
            store: store.clone(),
            clock: clock.clone(),
            table: ArcSwap::from_pointee(RoutingTable::empty()),
            sign: Mutex::new(Sign::None),
            revision: watch::Sender::new(Revision::ZERO),
            relist: Notify::new(),
        });
        let follower = Follower::new(store, clock, options.pace);
        let task = tokio::spawn(run(shared.clone(), follower));
        Self { shared, _task: Arc::new(Task(task.abort_handle())) }
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
    /// `alive` says from the report which moment was a sign of life.
    fn swap<R>(
        &self,
        build: impl FnOnce(&RoutingTable) -> (RoutingTable, R),
        alive: impl FnOnce(&R) -> Option<BootTime>,
    ) -> R {
        let mut sign = self.sign();
        let (next, report) = build(&self.table.load());
        let applied = next.applied();
        self.table.store(Arc::new(next));
        if let Some(seen) = alive(&report) {
            *sign = Sign::Live { seen };
        }
        drop(sign);
        self.revision.send_replace(applied);
        report
    }

    fn apply_ahead(&self, entry: &Entry) -> Applied {
        let now = self.clock.now();
        self.swap(|table| table.apply_ahead(entry, now), |_| None)
    }
}

async fn run(shared: Arc<Shared>, mut follower: Follower) {
    loop {
        let table = shared.table.load_full();
        let step = tokio::select! {
            step = follower.step(&table) => step,
            () = shared.relist.notified() => {
                follower.relist();
                continue;
            }
        };
        let now = shared.clock.now();
        match step {
            Step::Listed(listing, asked) => {
                let relisted =
                    shared.swap(|table| table.relist(&listing, now), |r| (!r.rejected).then_some(asked));
                if let Some(why) = &relisted.other_history {
                    tracing::error!(%why, "the registry is of another history: no epoch is lowered");
                }
                if relisted.rejected {
                    follower.relist();
                }
                report(&relisted.refused);
            }
            Step::Batch(batch, seen) => {
                let applied = shared
                    .swap(|table| table.apply(&batch.changes, now), |r| (!r.other_world).then_some(seen));
                if applied.other_world {
                    tracing::error!("the registry became another world: listing it again");
                    follower.relist();
                }
                report(&applied.refused);
            }
            Step::Resumed(asked) => *shared.sign() = Sign::Live { seen: asked },
            Step::Probed => {}
            Step::Lost { why, relist } => tracing::warn!(%why, relist, "lost the registry"),
        }
    }
}

fn report(refused: &[Refusal]) {
    for refusal in refused {
        tracing::error!(key = %refusal.key, why = %refusal.why, "a record was not taken over");
    }
}
