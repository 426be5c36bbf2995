//! The first keys of a registry: its format and its world.

use domicile_model::{FenceConstants, World, WorldId};
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Record, decode};
use crate::key::Key;
use crate::store::{Entry, Store, StoreError};
use crate::txn::{Precondition, Txn};

/// The key `schema`: the layout of the registry as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Rises when keys get another meaning. A program that knows a lower one does not touch the registry.
    pub layout: u32,
}

impl Schema {
    /// What this program reads and writes.
    pub const CURRENT: Self = Self { layout: 1 };
}

impl Record for Schema {
    const NAME: &'static str = "schema";
}

/// Why there is no world to work in.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The store did not answer, or refused.
    #[error("the world can't be read or made")]
    Store(#[from] StoreError),
    /// A newer program wrote it, or it is damaged.
    #[error("the registry's first keys can't be read")]
    Codec(#[from] CodecError),
    /// A newer program laid the registry out.
    #[error("the registry has layout {found}, this program knows {known}: upgrade it", known = Schema::CURRENT.layout)]
    Newer {
        /// Its layout.
        found: u32,
    },
    /// Placements without a world, or half of the first keys: part of the registry was lost.
    #[error(
        "the registry holds {present} but no `{missing}`: it was damaged; restore or rebuild it before use"
    )]
    Damaged {
        /// What is there.
        present: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// The fence constants would stop healthy cells.
    #[error("the fence constants are not usable: {0}")]
    Constants(&'static str),
}

/// How often a commit of unknown outcome is read back and tried again.
const TRIES: usize = 3;

/// The registry's world, if it has one.
///
/// # Errors
/// When the store does not answer, or what it holds can't be used.
pub async fn read_world(store: &dyn Store) -> Result<Option<World>, WorldError> {
    let (_, mut found) = store.read(&[Key::Schema, Key::World]).await?;
    let world = found.pop().flatten();
    let schema = found.pop().flatten();
    understood(schema, world)
}

/// The registry's world, made now if the registry is empty. An existing world keeps its constants, whatever is asked
/// for here. Any number of programs may do this at once; they all get the same world.
///
/// # Errors
/// When the store does not answer, the constants are unusable, or the registry is damaged.
pub async fn init_world(store: &dyn Store, constants: FenceConstants) -> Result<World, WorldError> {
    let mut tries = 0;
    loop {
        if let Some(world) = read_world(store).await? {
            return Ok(world);
        }
        if let Some(problem) = constants.problem() {
            return Err(WorldError::Constants(problem));
        }
        if !store.list("placements/").await?.entries.is_empty() {
            return Err(WorldError::Damaged { present: "placements", missing: "world" });
        }
        let world = World { id: WorldId::new(), reconciled: true, constants };
        let txn = Txn::bare()
            .when(Precondition::Absent(Key::Schema))
            .when(Precondition::Absent(Key::World))
            .put(Key::Schema, &Schema::CURRENT)
            .put(Key::World, &world);
        // Done, refused or unknown: what stands there now is the world, whoever made it.
        tries += 1;
        match store.commit(txn).await {
            Ok(_) => {}
            Err(StoreError::UnknownOutcome { .. }) if tries < TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn understood(schema: Option<Entry>, world: Option<Entry>) -> Result<Option<World>, WorldError> {
    let damaged = |present, missing| Err(WorldError::Damaged { present, missing });
    match (schema, world) {
        (None, None) => Ok(None),
        (Some(_), None) => damaged("`schema`", "world"),
        (None, Some(_)) => damaged("`world`", "schema"),
        (Some(schema), Some(world)) => {
            let schema: Schema = decode(&schema.value)?;
            if schema.layout > Schema::CURRENT.layout {
                return Err(WorldError::Newer { found: schema.layout });
            }
            Ok(Some(decode(&world.value)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LostAnswer, MemoryStore};
    use crate::txn::Op;
    use domicile_model::CellId;
    use domicile_model::clock::Clock;

    const CONSTANTS: FenceConstants = FenceConstants::DEFAULT;

    fn store() -> MemoryStore {
        MemoryStore::new(Clock::Machine)
    }

    #[tokio::test]
    async fn an_empty_registry_gets_one_world_and_keeps_it() {
        let store = store();
        assert_eq!(read_world(&store).await.unwrap(), None);
        let world = init_world(&store, CONSTANTS).await.unwrap();
        assert!(world.reconciled);
        let other = FenceConstants { fence_ms: 20_000, ..CONSTANTS };
        assert_eq!(init_world(&store, other).await.unwrap(), world);
        assert_eq!(read_world(&store).await.unwrap(), Some(world));
    }

    #[tokio::test]
    async fn many_at_once_get_the_same_world() {
        let store = store();
        let all = futures::future::join_all((0..8).map(|_| init_world(&store, CONSTANTS))).await;
        let first = all[0].as_ref().unwrap().id;
        assert!(all.iter().all(|world| world.as_ref().unwrap().id == first));
    }

    #[tokio::test]
    async fn a_lost_answer_is_read_back() {
        for how in [LostAnswer::Applied, LostAnswer::NotApplied] {
            let store = store();
            store.lose_next_answer(how);
            let world = init_world(&store, CONSTANTS).await.unwrap();
            assert_eq!(read_world(&store).await.unwrap(), Some(world));
        }
    }

    #[tokio::test]
    async fn placements_without_a_world_are_no_empty_registry() {
        let store = store();
        let key = Key::Placement(CellId::new("c").unwrap());
        store.commit(Txn::bare().op(Op::Put(key, vec![], None))).await.unwrap();
        assert!(matches!(init_world(&store, CONSTANTS).await, Err(WorldError::Damaged { .. })));
        assert_eq!(store.list("").await.unwrap().entries.len(), 1);
    }

    #[tokio::test]
    async fn half_of_the_first_keys_is_damage() {
        for key in [Key::Schema, Key::World] {
            let store = store();
            init_world(&store, CONSTANTS).await.unwrap();
            store.commit(Txn::bare().delete(key)).await.unwrap();
            assert!(matches!(init_world(&store, CONSTANTS).await, Err(WorldError::Damaged { .. })));
            assert!(matches!(read_world(&store).await, Err(WorldError::Damaged { .. })));
        }
    }

    #[tokio::test]
    async fn a_newer_layout_is_left_alone() {
        let store = store();
        init_world(&store, CONSTANTS).await.unwrap();
        store.commit(Txn::bare().put(Key::Schema, &Schema { layout: 2 })).await.unwrap();
        assert!(matches!(read_world(&store).await, Err(WorldError::Newer { found: 2 })));
    }

    #[tokio::test]
    async fn unusable_constants_make_no_world() {
        let store = store();
        let broken = FenceConstants { fence_ms: 0, ..CONSTANTS };
        assert!(matches!(init_world(&store, broken).await, Err(WorldError::Constants(_))));
        assert_eq!(read_world(&store).await.unwrap(), None);
    }
}
