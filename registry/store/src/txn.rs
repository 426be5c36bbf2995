//! Transactions: preconditions, and what is written when all of them hold.

use domicile_model::token::LeaderFence;
use domicile_model::{Revision, World};

use crate::codec::{Record, encode};
use crate::key::Key;
use crate::store::{Entry, LeaseId};

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
