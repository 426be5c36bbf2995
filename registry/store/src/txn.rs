//! Transactions: preconditions, and what is written when all of them hold.

use std::collections::HashSet;

use domicile_model::token::LeaderFence;
use domicile_model::{Revision, World};

use crate::codec::{Record, encode};
use crate::key::Key;
use crate::store::{Entry, LeaseId, StoreError};

/// Something that must hold for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The key does not exist.
    Absent(Key),
    /// The key exists and was last changed at this revision.
    ModifiedAt(Key, Revision),
    /// The key exists and was created at this revision.
    CreatedAt(Key, Revision),
    /// The key exists with exactly this value.
    Holds(Key, Vec<u8>),
}

impl Precondition {
    /// The key that it looks at.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::ModifiedAt(key, _) | Self::CreatedAt(key, _) | Self::Holds(key, _) => {
                key
            }
        }
    }
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a value, under a lease or for good.
    Put(Key, Vec<u8>, Option<LeaseId>),
    /// Removes a key; nothing happens if it is not there.
    Delete(Key),
}

/// All or nothing: if every precondition holds, every write is applied at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// What must hold.
    pub when: Vec<Precondition>,
    /// What is written.
    pub then: Vec<Op>,
}

/// Proof of leadership that every write of the control plane carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The create revision of the key `leader`.
    pub fence: LeaderFence,
    /// The exact value of the key, with its random part: revisions repeat after a restore.
    pub value: Vec<u8>,
}

/// How many preconditions, and how many writes, one transaction may have: the server's own limit.
pub const MOST_OPS: usize = 128;

/// How many bytes the keys and values of one transaction may have: the server's own limit of 1.5 MiB a request, less
/// a share for the frame around them.
pub const MOST_BYTES: usize = 1_400_000;

impl Txn {
    /// An empty one that compares nothing. Only for the very first transaction, which makes the world, and for
    /// tests; everything else starts with [`Txn::in_world`].
    #[must_use]
    pub fn bare() -> Self {
        Self::default()
    }

    /// A transaction that is applied only in this world.
    #[must_use]
    pub fn in_world(world: &World) -> Self {
        Self::default().when(Precondition::Holds(Key::World, encode(world)))
    }

    /// A transaction of the control plane: applied only in this world and while this leader leads.
    #[must_use]
    pub fn fenced(world: &World, leadership: &Leadership) -> Self {
        Self::in_world(world)
            .when(Precondition::CreatedAt(Key::Leader, leadership.fence.0))
            .when(Precondition::Holds(Key::Leader, leadership.value.clone()))
    }

    /// Adds a precondition.
    #[must_use]
    pub fn when(mut self, precondition: Precondition) -> Self {
        self.when.push(precondition);
        self
    }

    /// Adds a write of a record.
    #[must_use]
    pub fn put<T: Record>(self, key: Key, record: &T) -> Self {
        self.op(Op::Put(key, encode(record), None))
    }

    /// Adds a write of a record under a lease.
    #[must_use]
    pub fn put_leased<T: Record>(self, key: Key, record: &T, lease: LeaseId) -> Self {
        self.op(Op::Put(key, encode(record), Some(lease)))
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(self, key: Key) -> Self {
        self.op(Op::Delete(key))
    }

    /// Whether a store can carry this out at all. Every implementation asks before it does anything, so that none
    /// accepts what another refuses.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is too large or writes a key twice.
    pub fn check(&self) -> Result<(), StoreError> {
        let refused = |why: String| Err(StoreError::Refused(why));
        if self.when.len() > MOST_OPS || self.then.len() > MOST_OPS {
            return refused(format!(
                "a transaction has at most {MOST_OPS} preconditions and {MOST_OPS} writes, this one {} and {}: split it",
                self.when.len(),
                self.then.len()
            ));
        }
        let mut bytes = 0_usize;
        let mut written = HashSet::new();
        for op in &self.then {
            let (key, size) = match op {
                Op::Put(key, value, _) => (key, value.len()),
                Op::Delete(key) => (key, 0),
            };
            bytes = bytes.saturating_add(key.to_string().len()).saturating_add(size);
            if !written.insert(key) {
                return refused(format!("a transaction writes the key `{key}` twice"));
            }
        }
        for precondition in &self.when {
            // Each precondition names its key twice: to compare it, and to report it when it fails.
            let size = match precondition {
                Precondition::Holds(_, value) => value.len(),
                _ => 0,
            };
            bytes = bytes.saturating_add(2 * precondition.key().to_string().len()).saturating_add(size);
        }
        if bytes > MOST_BYTES {
            return refused(format!(
                "a transaction has at most {MOST_BYTES} bytes, this one {bytes}: split it"
            ));
        }
        Ok(())
    }

    /// Adds a write.
    #[must_use]
    pub fn op(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Applied at this revision.
    Done(Revision),
    /// Not applied: a precondition did not hold. Nothing was written.
    Refused {
        /// The revision at which the preconditions were looked at.
        revision: Revision,
        /// What the keys of the preconditions hold, in their order; none where a key does not exist.
        current: Vec<Option<Entry>>,
    },
}
