//! A watch on the twin: a cursor into its history.

use std::sync::Arc;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_model::clock::Clock;

use super::{Shared, unavailable};
use crate::store::{Batch, StoreError, Watcher};

/// As many revisions as etcd puts into one answer to a watch that lags behind.
const MOST_REVISIONS: usize = 1000;

pub(super) struct MemoryWatcher {
    shared: Arc<Shared>,
    changed: tokio::sync::watch::Receiver<()>,
    from: Revision,
    probes: usize,
    generation: u64,
}

impl MemoryWatcher {
    pub(super) fn new(shared: Arc<Shared>, from: Revision, generation: u64) -> Self {
        let changed = shared.changed.subscribe();
        Self { shared, changed, from, probes: 0, generation }
    }

    /// The next answer, if there is one now.
    fn poll(&mut self) -> Result<Option<Batch>, StoreError> {
        let inner = self.shared.at_work();
        if inner.watch_generation != self.generation {
            return Err(unavailable("the watch was cut"));
        }
        if inner.watches_paused {
            return Ok(None);
        }
        let state = &inner.state;
        if inner.probes_overtake && self.probes > 0 {
            self.probes -= 1;
            return Ok(Some(Batch { header: state.header(), changes: Vec::new() }));
        }
        state.check_history(self.from)?;
        if let Some((last, changes)) = state.changes(self.from, MOST_REVISIONS) {
            self.from = last.next();
            return Ok(Some(Batch { header: state.header(), changes }));
        }
        if self.probes > 0 {
            self.probes -= 1;
            return Ok(Some(Batch { header: state.header(), changes: Vec::new() }));
        }
        Ok(None)
    }
}

#[async_trait]
impl Watcher for MemoryWatcher {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            // Seen before looking, so that whatever happens after the look wakes us.
            self.changed.borrow_and_update();
            if let Some(batch) = self.poll()? {
                return Ok(batch);
            }
            let next_end = self.shared.lock().state.next_end();
            match (&self.shared.clock, next_end) {
                // On the machine's clock a lease can end while nobody calls.
                (Clock::Machine, Some(end)) => {
                    let left = end.since(self.shared.clock.now());
                    let _ = tokio::time::timeout(left, self.changed.changed()).await;
                }
                // The sender lives in `shared`, which we hold: it does not go away.
                _ => {
                    let _ = self.changed.changed().await;
                }
            }
        }
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        if self.shared.lock().watch_generation != self.generation {
            return Err(unavailable("the watch was cut"));
        }
        self.probes += 1;
        self.shared.wake();
        Ok(())
    }
}
