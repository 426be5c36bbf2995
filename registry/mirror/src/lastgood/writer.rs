//! The thread that keeps the files up with the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use domicile_model::Revision;
use domicile_store::codec::encode;
use domicile_store::{Change, Entry, Key, Listing};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::format::{frame, load, replace};
use super::{LastGood, LastGoodError, Mark, io};
use crate::table::RoutingTable;

/// How many jobs may wait. Beyond that the disk is not keeping up, and a snapshot will be cheaper.
const MOST_JOBS: usize = 4096;
/// A journal shorter than this is never worth a new snapshot.
const LEAST_JOURNAL: u64 = 4 << 20;
/// How often a listing is asked for while the files can't be written.
const RETRY: Duration = Duration::from_secs(2);

/// Something to be written.
pub(crate) enum Job {
    /// The table was listed anew.
    Listed { listing: Listing, table: RoutingTable, refused: BTreeSet<Key> },
    /// The table took these changes over, except for what it refused.
    Changed { changes: Vec<Change>, table: RoutingTable, refused: BTreeSet<Key> },
    /// Changes that routing does not look at.
    Passed(Revision),
}

/// The handle. The thread ends with it, after what was handed in is written.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: SyncSender<Job>,
    durable: watch::Receiver<Durable>,
    /// A job did not fit into the queue.
    lost: Arc<AtomicBool>,
    /// A test's switch: say that something is on disk before it is.
    #[cfg(test)]
    early: Arc<AtomicBool>,
}

/// How far the files have come.
#[derive(Debug, Clone)]
pub(crate) struct Durable {
    pub(crate) revision: Revision,
    /// Why they are not kept up at present, if they are not.
    pub(crate) error: Option<Arc<str>>,
}

impl Writer {
    /// Starts the thread. `relist` is asked for when only a full listing can mend the files.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(files: Arc<LastGood>, relist: Arc<Notify>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(MOST_JOBS);
        let (progress, durable) = watch::channel(Durable { revision: Revision::ZERO, error: None });
        let lost = Arc::new(AtomicBool::new(false));
        let thread = Thread {
            files,
            journal: None,
            sizes: (0, 0),
            progress,
            relist,
            lost: lost.clone(),
            retry: None,
            #[cfg(test)]
            early: Arc::default(),
        };
        #[cfg(test)]
        let early = thread.early.clone();
        std::thread::Builder::new().name("last-good".into()).spawn(move || thread.run(&queue))?;
        Ok(Self {
            jobs,
            durable,
            lost,
            #[cfg(test)]
            early,
        })
    }

    /// Hands a job in. Never waits: if the queue is full the job is lost, and the thread asks for a listing.
    pub(crate) fn hand_in(&self, job: Job) {
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::error!(
                    "the last-good file does not keep up: the registry will be listed again for it"
                );
                self.lost.store(true, Ordering::Release);
            }
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!("the writer of the last-good file has ended");
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn acknowledge_early(&self, on: bool) {
        self.early.store(on, Ordering::SeqCst);
    }

    pub(crate) fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }
}

struct Thread {
    files: Arc<LastGood>,
    /// None: nothing can be appended before the next snapshot.
    journal: Option<File>,
    /// Bytes of snapshot and journal.
    sizes: (u64, u64),
    progress: watch::Sender<Durable>,
    relist: Arc<Notify>,
    lost: Arc<AtomicBool>,
    /// When to ask for a listing, which alone can mend the files; none while they are kept up.
    retry: Option<Instant>,
    #[cfg(test)]
    early: Arc<AtomicBool>,
}

impl Thread {
    /// What is to be written next, and everything that has gathered behind it; empty when it is time to retry, none
    /// when there will be nothing more.
    fn gather(&self, queue: &Receiver<Job>) -> Option<Vec<Job>> {
        let first = match self.retry {
            None => queue.recv().ok()?,
            Some(at) => match queue.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        Some(std::iter::once(first).chain(queue.try_iter().take(MOST_JOBS)).collect())
    }

    fn run(mut self, queue: &Receiver<Job>) {
        while let Some(jobs) = self.gather(queue) {
            if self.lost.swap(false, Ordering::Acquire) {
                // One of those that stood behind these is missing. The listing brings all of it.
                self.journal = None;
                self.retry = Some(Instant::now());
            } else {
                match self.write(jobs) {
                    Ok(Some(revision)) => {
                        self.progress.send_replace(Durable { revision, error: None });
                    }
                    Ok(None) => {}
                    Err(why) => {
                        let why = why.to_string();
                        tracing::error!(%why, "the last-good file is not kept up");
                        self.journal = None;
                        self.progress.send_modify(|durable| durable.error = Some(why.into()));
                    }
                }
            }
            let now = Instant::now();
            self.retry = match (&self.journal, self.retry) {
                (Some(_), _) => None,
                (None, Some(at)) if now < at => Some(at),
                (None, before) => {
                    if before.is_some() {
                        self.relist.notify_one();
                    }
                    Some(now + RETRY)
                }
            };
        }
    }

    /// Writes jobs, in their order. Returns how far the files have come; none if nothing can be said.
    fn write(&mut self, jobs: Vec<Job>) -> Result<Option<Revision>, LastGoodError> {
        #[cfg(test)]
        self.lie(&jobs);
        let mut reached = None;
        let mut frames = Vec::new();
        for job in jobs {
            match job {
                Job::Listed { listing, table, refused } => {
                    // Everything before is in the listing.
                    frames.clear();
                    self.snapshot(listing, &table, &refused)?;
                    reached = Some(table.applied());
                }
                // Without a journal something is missing, which only a listing brings.
                Job::Changed { .. } | Job::Passed(_) if self.journal.is_none() => {}
                Job::Changed { changes, table, refused } => {
                    let changes = changes.iter().filter(|c| kept(c.key()) && !refused.contains(c.key()));
                    frames.extend(frame(&table.mark(), changes));
                    reached = Some(table.applied());
                }
                Job::Passed(revision) => reached = Some(revision),
            }
        }
        if let Some(journal) = self.journal.as_mut().filter(|_| !frames.is_empty()) {
            let path = self.files.journal();
            journal.write_all(&frames).map_err(io(&path, "written"))?;
            journal.sync_data().map_err(io(&path, "synced"))?;
            self.sizes.1 += frames.len() as u64;
            if self.sizes.1 > self.sizes.0.max(LEAST_JOURNAL) {
                self.compact()?;
            }
        }
        Ok(reached)
    }

    #[cfg(test)]
    fn lie(&self, jobs: &[Job]) {
        let revision = match jobs.last() {
            Some(Job::Listed { table, .. } | Job::Changed { table, .. }) => table.applied(),
            _ => return,
        };
        if self.early.load(Ordering::SeqCst) {
            self.progress.send_replace(Durable { revision, error: None });
            std::thread::park_timeout(Duration::from_millis(30));
        }
    }

    fn snapshot(
        &mut self,
        listing: Listing,
        table: &RoutingTable,
        refused: &BTreeSet<Key>,
    ) -> Result<(), LastGoodError> {
        let mut entries: BTreeMap<Key, Entry> = listing
            .entries
            .into_iter()
            .filter(|entry| kept(&entry.key) && !refused.contains(&entry.key))
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        if !refused.is_empty() {
            // What the table kept instead stands in the old files, if anywhere.
            let old = load(&self.files.path, &self.files.journal()).ok().flatten();
            let old = old.into_iter().flat_map(|content| content.entries);
            entries.extend(old.filter(|(key, _)| refused.contains(key)));
        }
        // Placements as the table has them, which is not always as the registry lists them.
        entries.retain(|key, _| !matches!(key, Key::Placement(_)));
        for placed in table.placements() {
            let key = Key::Placement(placed.placement.cell.clone());
            let (value, modified) = (encode(&placed.placement), placed.modified);
            entries.insert(key.clone(), Entry { key, value, created: modified, modified });
        }
        self.replace(&table.mark(), &entries)
    }

    fn compact(&mut self) -> Result<(), LastGoodError> {
        match load(&self.files.path, &self.files.journal())? {
            Some(content) => self.replace(&content.mark, &content.entries),
            None => Ok(()),
        }
    }

    fn replace(&mut self, mark: &Mark, entries: &BTreeMap<Key, Entry>) -> Result<(), LastGoodError> {
        self.journal = None;
        let (journal, size) = replace(&self.files.path, mark, entries.values())?;
        self.journal = Some(journal);
        self.sizes = (size, 0);
        Ok(())
    }
}

/// Whether routing looks at a key.
pub(crate) const fn kept(key: &Key) -> bool {
    matches!(
        key,
        Key::World
            | Key::Region(_)
            | Key::Jurisdiction(_)
            | Key::Cell(_)
            | Key::Tenant(_)
            | Key::Host(_)
            | Key::Placement(_)
            | Key::Witness(_)
    )
}
