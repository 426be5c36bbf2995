//! A watch on the file: a cursor into the revisions.

use std::sync::Weak;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_store::{Batch, StoreError, Watcher};
use tokio::sync::watch;

use crate::store::Shared;

pub(crate) struct FileWatcher {
    shared: Weak<Shared>,
    changed: watch::Receiver<Revision>,
    from: Revision,
    /// Signs of life that were asked for.
    probes: usize,
}

impl FileWatcher {
    pub(crate) fn new(shared: Weak<Shared>, from: Revision, changes: &watch::Sender<Revision>) -> Self {
        Self { shared, changed: changes.subscribe(), from, probes: 0 }
    }

    fn poll(&mut self) -> Result<Option<Batch>, StoreError> {
        let Some(shared) = self.shared.upgrade() else { return Err(closed()) };
        let content = shared.content();
        let header = content.header();
        if let Some((revision, changes)) = content.changes(self.from)? {
            self.from = revision.next();
            return Ok(Some(Batch { header, changes }));
        }
        if self.probes > 0 {
            self.probes -= 1;
            return Ok(Some(Batch { header, changes: Vec::new() }));
        }
        Ok(None)
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { place: "the file".into(), why: "it was closed".into() }
}

#[async_trait]
impl Watcher for FileWatcher {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            // Seen before looking, so that whatever happens after the look wakes us.
            self.changed.borrow_and_update();
            if let Some(batch) = self.poll()? {
                return Ok(batch);
            }
            self.changed.changed().await.map_err(|_| closed())?;
        }
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        self.probes += 1;
        Ok(())
    }
}
