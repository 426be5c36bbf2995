//! The store as everybody sees it.

use std::time::Duration;

use async_trait::async_trait;
use domicile_model::Revision;

use crate::key::Key;
use crate::room::Room;
use crate::txn::{Commit, Txn};

/// A lease, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// Which history an answer belongs to, and how far it had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The cluster's id. Another one is another history.
    pub cluster: u64,
    /// The revision of the answer.
    pub revision: Revision,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Vec<u8>,
    /// Where it was created.
    pub created: Revision,
    /// Where it was last changed.
    pub modified: Revision,
}

/// All entries under the prefix, at one revision.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The revision that the listing shows.
    pub header: Header,
    /// In the order of their keys. Keys of other versions are left out.
    pub entries: Vec<Entry>,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Created or changed.
    Put(Entry),
    /// Removed, at this revision.
    Delete(Key, Revision),
}

impl Change {
    /// The revision of the change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete(_, revision) => *revision,
        }
    }

    /// The key that changed.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key, _) => key,
        }
    }
}

/// One answer of a watch: changes that belong together, or, empty, a sign of life.
///
/// The revision in the header of an empty batch is *not* a promise that all changes up to it were seen: servers
/// before etcd 3.4.25 and 3.5.8 let a progress answer overtake events.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The server's revision when it answered.
    pub header: Header,
    /// Changes in the order of their revisions; all changes of one revision stand in one batch.
    pub changes: Vec<Change>,
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, without quorum, or too slow. Try again.
    #[error("the registry at {place} did not answer: {why}")]
    Unavailable {
        /// Where.
        place: String,
        /// What the transport said.
        why: String,
    },
    /// A commit was sent and no answer came: it may be applied or not. Read back before deciding anything.
    ///
    /// Not finding it proves nothing for ever: a member that was stopped may carry it out when it wakes up. Only a
    /// commit that breaks one of its preconditions ends it, so none that matters goes without any.
    #[error("the registry at {place} did not confirm a commit, which may or may not be applied: {why}")]
    UnknownOutcome {
        /// Where.
        place: String,
        /// What the transport said.
        why: String,
    },
    /// The revision asked for is gone: list again.
    #[error("the revision asked for was compacted away; the oldest one left is {0}")]
    Compacted(Revision),
    /// The lease has run out or never existed.
    #[error("the lease has run out")]
    LeaseLost,
    /// The store takes no more: its database has reached its quota. Removals are still taken.
    #[error(
        "the registry at {place} is full: compact it, defragment each member, then `etcdctl alarm disarm`"
    )]
    Full {
        /// Where.
        place: String,
    },
    /// This store can't be written to.
    #[error("{0} is read-only: edit the file, or use an etcd registry")]
    ReadOnly(String),
    /// The request itself is wrong, or not allowed.
    #[error("the registry refused the request: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later. A commit of unknown outcome must be read back instead.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A running watch.
#[async_trait]
pub trait Watcher: Send {
    /// The next answer. Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// When the stream has ended or was compacted; it is of no use afterwards.
    async fn next(&mut self) -> Result<Batch, StoreError>;

    /// Asks for a sign of life, which comes as an empty batch.
    ///
    /// # Errors
    /// When the stream has ended.
    async fn probe(&mut self) -> Result<(), StoreError>;

    /// Says that this watch is being dropped for what it told, or did not tell, although nothing failed: the next one
    /// begins at another member, where there are several.
    fn give_up(&mut self) {}
}

/// The registry's store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What these keys hold now, all at one revision, in their order. Linearizable: the answer shows everything that
    /// was committed before the call.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError>;

    /// Everything whose key, as text, begins with `prefix` (empty: all), at one revision. Linearizable.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Applies a transaction.
    ///
    /// # Errors
    /// [`StoreError::UnknownOutcome`] when it may have been applied. A failed precondition is no error but
    /// [`Commit::Refused`].
    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError>;

    /// Watches everything from this revision on, that one included.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that revision is gone, here or at the first [`Watcher::next`].
    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError>;

    /// A lease that ends this long after its last renewal, and takes its keys with it.
    ///
    /// # Errors
    /// When the store does not answer, or can't lease.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease. Not a proof of anything: an older server answers without quorum.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// How full the store is; none where nothing limits it.
    ///
    /// # Errors
    /// When the store does not answer.
    async fn room(&self) -> Result<Option<Room>, StoreError>;

    /// Forgets what keys held before this revision; what they hold now stays. Watches from an earlier revision end with
    /// [`StoreError::Compacted`]. Nothing happens where that was done already, or where no history is kept.
    ///
    /// # Errors
    /// When the store does not answer, or the revision is still to come.
    async fn forget_before(&self, revision: Revision) -> Result<(), StoreError>;
}
