//! The store, and the task that looks at the file.

use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domicile_config::{MAX_BYTES, Mistakes, parse};
use domicile_model::clock::pause;
use domicile_model::{Fleet, Revision};
use domicile_store::{Commit, Entry, Header, Key, LeaseId, Listing, Room, Store, StoreError, Txn, Watcher};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::content::Content;
use crate::watcher::FileWatcher;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Every so many looks it is read although size and time of the last change are the same: two writes within one tick
/// of the file system's clock look alike.
const READ_ANYWAY: u32 = 10;

/// Why a file can't be a registry.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It can't be read.
    #[error("{path} can't be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no text, or says something wrong. The display is the whole report.
    #[error("{0}")]
    Mistakes(Mistakes),
}

/// regions.toml as a store that can't be written to.
#[derive(Debug)]
pub struct FileStore {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    path: PathBuf,
    content: Mutex<Content>,
    error: Mutex<Option<Arc<str>>>,
    /// Sends when the content has changed.
    pub(crate) changed: watch::Sender<Revision>,
}

impl FileStore {
    /// Reads the file and begins to watch over it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the file can't be read, or what it says is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        let seen = Seen::of(&path).map_err(|source| OpenError::Read { path: shown(&path), source })?;
        let bytes = read(&path)?;
        let fleet = understand(&path, &bytes)?;
        // The same file by another way is the same registry; if that can't be told, the name as given will do.
        let name = path.canonicalize().unwrap_or_else(|_| path.clone());
        let content = Content::new(name.as_os_str().as_encoded_bytes(), &fleet);
        let revision = content.header().revision;
        let shared = Arc::new(Shared {
            path,
            content: Mutex::new(content),
            error: Mutex::new(None),
            changed: watch::Sender::new(revision),
        });
        let task = tokio::spawn(look_after(Arc::downgrade(&shared), seen, hash(&bytes)));
        Ok(Self { shared, task: task.abort_handle() })
    }

    /// What is wrong with the file as it stands now, if its last edit was not taken over: the whole report.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_only(&self) -> StoreError {
        StoreError::ReadOnly(shown(&self.shared.path))
    }
}

impl Shared {
    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, result: Result<Fleet, OpenError>) {
        let error = match result {
            Ok(fleet) => {
                let mut content = self.content();
                let changed = content.accept(&fleet);
                let revision = content.header().revision;
                drop(content);
                if changed {
                    tracing::info!(path = %self.path.display(), %revision, "the file was read again");
                    self.changed.send_replace(revision);
                }
                None
            }
            Err(why) => {
                let why = why.to_string();
                tracing::error!(path = %self.path.display(), "the edit was not taken over:\n{why}");
                Some(Arc::from(why))
            }
        };
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What of a file's metadata tells that it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    length: u64,
    modified: Option<SystemTime>,
}

impl Seen {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { length: metadata.len(), modified: metadata.modified().ok() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        // One byte more than is allowed, so that the parser sees that there are too many.
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| OpenError::Read { path: shown(path), source })?;
    Ok(bytes)
}

fn understand(path: &Path, bytes: &[u8]) -> Result<Fleet, OpenError> {
    let text = std::str::from_utf8(bytes).map_err(|why| OpenError::Read {
        path: shown(path),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not UTF-8: {why}")),
    })?;
    parse(&shown(path), text).map_err(OpenError::Mistakes)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Looks at the file until the store is gone.
async fn look_after(shared: Weak<Shared>, mut seen: Seen, mut taken: u64) {
    let mut waiting: Option<u64> = None;
    let mut looks = 0_u32;
    let mut missing = false;
    loop {
        pause(EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        looks = looks.wrapping_add(1);
        let path = shared.path.clone();
        let anyway = missing || waiting.is_some() || looks.is_multiple_of(READ_ANYWAY);
        // Files may lie on slow or hanging disks: not on the runtime's own threads.
        let look = tokio::task::spawn_blocking(move || {
            let now = Seen::of(&path).map_err(|source| OpenError::Read { path: shown(&path), source })?;
            if now == seen && !anyway {
                return Ok((now, None));
            }
            read(&path).map(|bytes| (now, Some(bytes)))
        });
        match look.await {
            Ok(Ok((now, bytes))) => {
                seen = now;
                let Some(bytes) = bytes else { continue };
                let found = hash(&bytes);
                if found == taken && !missing {
                    waiting = None;
                } else if waiting == Some(found) {
                    // Seen twice alike: nobody is in the middle of writing it. Half a file may well be a good one
                    // that lacks the other half of the tenants.
                    (waiting, taken, missing) = (None, found, false);
                    shared.settle(understand(&shared.path, &bytes));
                } else {
                    waiting = Some(found);
                }
            }
            Ok(Err(why)) => {
                // An editor may replace the file by removing it first; said once, when it stays away.
                if waiting.take().is_none() && !missing {
                    missing = true;
                    shared.settle(Err(why));
                }
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

#[async_trait]
impl Store for FileStore {
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        let content = self.shared.content();
        Ok((content.header(), keys.iter().map(|key| content.get(key)).collect()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let content = self.shared.content();
        Ok(Listing { header: content.header(), entries: content.list(prefix) })
    }

    async fn commit(&self, _: Txn) -> Result<Commit, StoreError> {
        Err(self.read_only())
    }

    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        self.shared.content().changes(from)?;
        Ok(Box::new(FileWatcher::new(Arc::downgrade(&self.shared), from, &self.shared.changed)))
    }

    async fn grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        Err(self.read_only())
    }

    async fn keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    async fn room(&self) -> Result<Option<Room>, StoreError> {
        Ok(None)
    }

    async fn forget_before(&self, _: Revision) -> Result<(), StoreError> {
        Ok(())
    }
}
