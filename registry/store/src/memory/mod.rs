//! The in-process twin of etcd, for tests and simulation: the same revisions, transactions, watches, compaction and
//! leases, with time that a test owns and faults that a test asks for.
//!
//! It is judged by the same suite (feature `conformance`) as the real server. What it adds are the hooks that a real
//! server has no switch for; they are methods of [`MemoryStore`] and not of the trait.

mod state;
#[cfg(test)]
mod tests;
mod watcher;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_model::clock::Clock;

use crate::key::Key;
use crate::room::Room;
use crate::store::{Entry, Header, LeaseId, Listing, Store, StoreError, Watcher};
use crate::txn::{Commit, Txn};
use state::State;
use watcher::MemoryWatcher;

/// The prefix under which the twin keeps the registry's keys, for [`MemoryStore::put_raw`].
pub const PREFIX: &str = "/domicile/";

/// How the next commit ends that a test wants to end badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostAnswer {
    /// The transaction is carried out, and its answer is lost.
    Applied,
    /// The transaction is lost on its way.
    NotApplied,
}

/// A copy of everything in a store, to be put back by [`MemoryStore::restore`].
#[derive(Debug, Clone)]
pub struct Snapshot(State);

/// A store in memory. Clones share one content.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    inner: Mutex<Inner>,
    /// Sends whenever something happened that a watch may have to answer.
    changed: tokio::sync::watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// How many calls still fail before they do anything.
    failures: usize,
    /// No call is answered at all.
    outage: bool,
    lost_answer: Option<LostAnswer>,
    watches_paused: bool,
    probes_overtake: bool,
    /// Rises whenever all running watches are cut.
    watch_generation: u64,
}

impl MemoryStore {
    /// An empty store whose leases run on this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let inner = Inner {
            state: State::new(),
            failures: 0,
            outage: false,
            lost_answer: None,
            watches_paused: false,
            probes_overtake: false,
            watch_generation: 0,
        };
        let (changed, _) = tokio::sync::watch::channel(());
        Self { shared: Arc::new(Shared { clock, inner: Mutex::new(inner), changed }) }
    }

    /// Ends the leases whose time is over on the store's clock. Every call does that too; this one is for tests that
    /// moved a manual clock and wait for a watch.
    pub fn tick(&self) {
        drop(self.shared.at_work());
        self.shared.wake();
    }

    /// Ends a lease now, as if its time were over.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when there is no such lease.
    pub fn expire(&self, lease: LeaseId) -> Result<(), StoreError> {
        let ended = self.shared.at_work().state.end_lease(lease);
        self.shared.wake();
        ended
    }

    /// Forgets the history up to and including this revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that was done already, [`StoreError::Refused`] when it is still to come.
    pub fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let done = self.shared.at_work().state.compact(revision);
        self.shared.wake();
        done
    }

    /// Lets the next `calls` calls fail with [`StoreError::Unavailable`] before they do anything.
    pub fn fail_next(&self, calls: usize) {
        self.shared.lock().failures = calls;
    }

    /// While true every call fails with [`StoreError::Unavailable`], and running watches are cut.
    pub fn outage(&self, on: bool) {
        let mut inner = self.shared.lock();
        inner.outage = on;
        if on {
            inner.watch_generation += 1;
        }
        drop(inner);
        self.shared.wake();
    }

    /// Lets the next commit end in [`StoreError::UnknownOutcome`].
    pub fn lose_next_answer(&self, how: LostAnswer) {
        self.shared.lock().lost_answer = Some(how);
    }

    /// While true no watch says anything, not even to a probe: a stalled stream.
    pub fn pause_watches(&self, on: bool) {
        self.shared.lock().watches_paused = on;
        self.shared.wake();
    }

    /// Ends all running watches.
    pub fn cut_watches(&self) {
        self.shared.lock().watch_generation += 1;
        self.shared.wake();
    }

    /// While true the answer to a probe comes before the changes that are still to be told, with a header that is
    /// past them, as servers before etcd 3.4.25 do it.
    pub fn let_probes_overtake(&self, on: bool) {
        self.shared.lock().probes_overtake = on;
    }

    /// Writes any key, also one that is none of ours and one outside [`PREFIX`].
    pub fn put_raw(&self, key: &str, value: &[u8]) -> Revision {
        let revision = self.shared.at_work().state.put_raw(key, value);
        self.shared.wake();
        revision
    }

    /// Everything as it stands.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.shared.at_work().state.clone())
    }

    /// Puts a snapshot back: revisions repeat and the cluster keeps its id, as after a real restore. Ends all
    /// running watches.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut inner = self.shared.lock();
        inner.state = snapshot.0.clone();
        inner.watch_generation += 1;
        drop(inner);
        self.shared.wake();
    }

    /// Becomes another cluster with the same content.
    pub fn set_cluster(&self, id: u64) {
        self.shared.lock().state.cluster = id;
    }

    /// How many bytes the store may have, its history included; none: any number. At first [`crate::room::USUAL_QUOTA`].
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.shared.lock().state.quota = bytes;
    }

    /// Takes the alarm back that a full store raises, as `etcdctl alarm disarm` does.
    pub fn disarm(&self) {
        self.shared.lock().state.full = false;
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.at_work().state.revision
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No critical section leaves the state half changed, so a panic of another test thread is not ours.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content, with the leases ended whose time is over.
    fn at_work(&self) -> MutexGuard<'_, Inner> {
        let now = self.clock.now();
        let mut inner = self.lock();
        if inner.state.expire(now) {
            self.wake();
        }
        inner
    }

    /// The content for a call of the trait, unless a test wants that call to fail.
    fn call(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let mut inner = self.at_work();
        if inner.outage {
            return Err(unavailable("the test asked for an outage"));
        }
        if inner.failures > 0 {
            inner.failures -= 1;
            return Err(unavailable("the test asked for a failure"));
        }
        Ok(inner)
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable { place: PLACE.to_owned(), why: why.to_owned() }
}

/// What errors call this store.
const PLACE: &str = "memory";

#[async_trait]
impl Store for MemoryStore {
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        let inner = self.shared.call()?;
        Ok((inner.state.header(), keys.iter().map(|key| inner.state.entry(key)).collect()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let inner = self.shared.call()?;
        Ok(Listing { header: inner.state.header(), entries: inner.state.list(prefix) })
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        txn.check()?;
        let mut inner = self.shared.call()?;
        let lost = inner.lost_answer.take();
        let unknown = || StoreError::UnknownOutcome {
            place: PLACE.to_owned(),
            why: "the test asked for a lost answer".to_owned(),
        };
        if lost == Some(LostAnswer::NotApplied) {
            return Err(unknown());
        }
        let done = inner.state.commit(&txn);
        drop(inner);
        self.shared.wake();
        if lost == Some(LostAnswer::Applied) { Err(unknown()) } else { done }
    }

    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        let inner = self.shared.call()?;
        inner.state.check_history(from)?;
        let watcher = MemoryWatcher::new(Arc::clone(&self.shared), from, inner.watch_generation);
        Ok(Box::new(watcher))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        if ttl.is_zero() {
            return Err(StoreError::Refused("a lease needs a time to live above zero".to_owned()));
        }
        let now = self.shared.clock.now();
        self.shared.call()?.state.grant(ttl, now)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.shared.call()?.state.keep_alive(lease, now)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.shared.call()?.state.end_lease(lease);
        self.shared.wake();
        revoked
    }

    async fn room(&self) -> Result<Option<Room>, StoreError> {
        Ok(Some(self.shared.call()?.state.room()))
    }

    async fn forget_before(&self, revision: Revision) -> Result<(), StoreError> {
        let done = self.shared.call()?.state.compact(revision);
        self.shared.wake();
        match done {
            Err(StoreError::Compacted(_)) => Ok(()),
            done => done,
        }
    }
}
