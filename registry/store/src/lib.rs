//! The registry's store: keys, transactions, the right to write, and the in-process twin.
//!
//! One trait, [`Store`], with three implementations: etcd (`domicile-store-etcd`), `regions.toml` itself
//! (`domicile-store-file`) and [`memory`] for tests and simulation. What they have in common is written down as
//! tests in the feature `conformance`, which runs on all of them.

pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod key;
pub mod lead;
pub mod memory;
pub mod right;
pub mod room;
pub mod store;
pub mod txn;
pub mod world;

pub use codec::{CodecError, Record};
pub use key::{Key, KeyError};
pub use lead::{Candidate, LeaderRecord, PresentLeader, Reign, present_leader};
pub use memory::MemoryStore;
pub use room::{Alarm, AlarmKind, Room};
pub use store::{Batch, Change, Entry, Header, LeaseId, Listing, Store, StoreError, Watcher};
pub use txn::{Commit, Leadership, Op, Precondition, Txn};
pub use world::{WorldError, init_world, read_world};
