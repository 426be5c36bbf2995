//! Writing the new world. Its record comes first and says "not reconciled": from then on no registry proof holds, no
//! witness vouches, no agent opens and nobody leads. Placements come once they are decided, and the last transaction says
//! "reconciled".

use domicile_model::{Fleet, RegionFence, RegionId, Revision, World};
use domicile_server::audit::AuditEntry;
use domicile_store::right::first_right;
use domicile_store::world::Schema;
use domicile_store::{Commit, Entry, Key, Op, Precondition, Store, StoreError, Txn};

use crate::decide::Decision;

/// Writes of one transaction, with room for what each carries besides.
const MOST: usize = 100;
/// Bytes of the values of one transaction.
const MOST_BYTES: usize = 1 << 20;
/// How often a commit of unknown outcome is looked at again.
const TRIES: u32 = 5;

/// Why the new world does not stand, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The registry did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else wrote.
    #[error(
        "the registry changed while it was being brought back ({0}): stop every control plane and whoever else writes there"
    )]
    Changed(String),
    /// A placement that breaks a rule.
    #[error(transparent)]
    Broken(#[from] domicile_model::invariants::Broken),
}

/// What is to be written.
pub struct Publication<'a> {
    /// The new world, not reconciled.
    pub world: World,
    /// The world record that stands there now and goes; none: the registry is empty.
    pub replaces: Option<Entry>,
    /// Definitions and records, as they shall stand.
    pub records: Vec<(Key, Vec<u8>)>,
    /// Who holds what.
    pub decisions: &'a [Decision],
    /// The fleet, for its regions.
    pub fleet: &'a Fleet,
    /// Who does it, and why.
    pub by: &'a str,
    /// `registry-restore` or `registry-rebuild`.
    pub action: &'a str,
    /// For the audit log.
    pub because: Vec<String>,
}

impl Publication<'_> {
    /// Writes it, up to the reconciled world. Begun and not ended it leaves a world in which nothing can be done, which a
    /// repetition replaces.
    ///
    /// # Errors
    /// When the registry does not answer or somebody else writes to it.
    pub async fn publish(&self, store: &dyn Store) -> Result<Revision, PublishError> {
        self.begin(store).await?;
        let world = &self.world;
        for removals in self.leftovers(store).await?.chunks(MOST) {
            let txn = removals.iter().fold(Txn::in_world(world), |txn, key| txn.delete(key.clone()));
            commit(store, txn).await?;
        }
        for batch in batches(&self.records) {
            let put =
                |txn: Txn, (key, value): &(Key, Vec<u8>)| txn.op(Op::Put(key.clone(), value.clone(), None));
            commit(store, batch.iter().fold(Txn::in_world(world), put)).await?;
        }
        for decisions in self.decisions.chunks(MOST / 2) {
            let mut txn = Txn::in_world(world);
            for decision in decisions {
                txn = first_right(txn, &decision.placement())?;
            }
            commit(store, txn).await?;
        }
        self.end(store).await
    }

    async fn begin(&self, store: &dyn Store) -> Result<(), PublishError> {
        let txn = match &self.replaces {
            None => {
                Txn::bare().when(Precondition::Absent(Key::Schema)).when(Precondition::Absent(Key::World))
            }
            Some(old) => Txn::bare()
                .when(Precondition::Holds(Key::World, old.value.clone()))
                // Before anything else: whoever led the old world has nothing to write under.
                .delete(Key::Leader),
        };
        let begun =
            AuditEntry::now(self.by, "domicile", &format!("{}-begin", self.action), self.because.clone());
        let txn = txn.put(Key::Schema, &Schema::CURRENT).put(Key::World, &self.world).op(begun.write());
        commit(store, txn).await.map(drop)
    }

    /// What stands in the registry and shall not.
    async fn leftovers(&self, store: &dyn Store) -> Result<Vec<Key>, PublishError> {
        if self.replaces.is_none() {
            return Ok(Vec::new());
        }
        let kept = |key: &Key| matches!(key, Key::Schema | Key::World | Key::Router(_) | Key::Audit(_));
        let listing = store.list("").await?;
        Ok(listing.entries.into_iter().map(|e| e.key).filter(|key| !kept(key)).collect())
    }

    async fn end(&self, store: &dyn Store) -> Result<Revision, PublishError> {
        let reconciled = World { reconciled: true, ..self.world.clone() };
        let closed = self.decisions.iter().filter(|d| d.placement().holder.is_none());
        let mut lines = self.because.clone();
        lines.push(format!("world {}, {} cells", self.world.id, self.decisions.len()));
        lines.extend(closed.map(|d| match &d.verdict {
            crate::decide::Verdict::Closed { why } => format!("cell {} is closed: {why}", d.cell),
            crate::decide::Verdict::Holds { .. } => String::new(),
        }));
        let audit = AuditEntry::now(self.by, "domicile", self.action, lines);
        let mut txn = Txn::in_world(&self.world).put(Key::World, &reconciled).op(audit.write());
        // No table that has not come as far as this proves anything.
        for region in self.fleet.regions.keys().take(MOST) {
            txn = fence(txn, region, self.decisions);
        }
        commit(store, txn).await
    }
}

/// Puts `fences/<region>`, naming a cell that the region may have lost; none if no cell is known.
fn fence(txn: Txn, region: &RegionId, decisions: &[Decision]) -> Txn {
    match decisions.first() {
        None => txn,
        Some(d) => {
            let fence = RegionFence { region: region.clone(), cell: d.cell.clone(), epoch: d.epoch };
            txn.put(Key::Fence(region.clone()), &fence)
        }
    }
}

/// Records in transactions that the registry takes.
fn batches(records: &[(Key, Vec<u8>)]) -> Vec<&[(Key, Vec<u8>)]> {
    let (mut found, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, (_, value)) in records.iter().enumerate() {
        if at - from == MOST || (at > from && bytes + value.len() > MOST_BYTES) {
            found.push(&records[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += value.len();
    }
    if from < records.len() {
        found.push(&records[from..]);
    }
    found
}

/// Commits, and looks what became of it where that is not known.
pub(crate) async fn commit(store: &dyn Store, txn: Txn) -> Result<Revision, PublishError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match store.commit(txn.clone()).await {
            Ok(Commit::Done(revision)) => return Ok(revision),
            // An earlier try of this very transaction may have been applied.
            Ok(Commit::Refused { revision, .. }) if tries > 1 && stands(store, &txn).await? => {
                return Ok(revision);
            }
            Ok(Commit::Refused { current, .. }) => {
                let failed = txn.when.iter().zip(&current).find(|(when, entry)| !holds(when, entry.as_ref()));
                let what = failed.map_or_else(|| "a key".to_owned(), |(when, _)| format!("`{}`", when.key()));
                return Err(PublishError::Changed(what));
            }
            Err(StoreError::UnknownOutcome { .. } | StoreError::Unavailable { .. }) if tries < TRIES => {
                domicile_model::clock::pause(std::time::Duration::from_millis(300)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn holds(when: &Precondition, entry: Option<&Entry>) -> bool {
    match (when, entry) {
        (Precondition::Absent(_), entry) => entry.is_none(),
        (Precondition::ModifiedAt(_, at), Some(entry)) => entry.modified == *at,
        (Precondition::CreatedAt(_, at), Some(entry)) => entry.created == *at,
        (Precondition::Holds(_, value), Some(entry)) => entry.value == *value,
        (_, None) => false,
    }
}

async fn stands(store: &dyn Store, txn: &Txn) -> Result<bool, StoreError> {
    for op in &txn.then {
        let (key, wanted) = match op {
            Op::Put(key, value, _) => (key, Some(value)),
            Op::Delete(key) => (key, None),
        };
        let (_, found) = store.read(std::slice::from_ref(key)).await?;
        if found.into_iter().flatten().next().map(|e| e.value).as_ref() != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a backup's records become in the new world: everything but what belongs to the old one's life. Placements are
/// decided anew; claims and moves that had not ended would be taken up again on facts that are no longer true; fences
/// and witnesses' states hold revisions of another history.
#[must_use]
pub fn carried(
    entries: Vec<(Key, Vec<u8>)>,
    unfinished: &std::collections::BTreeMap<domicile_model::MoveId, domicile_model::CellId>,
) -> Vec<(Key, Vec<u8>)> {
    let stays = |key: &Key| match key {
        Key::Schema
        | Key::World
        | Key::Leader
        | Key::Router(_)
        | Key::Witness(_)
        | Key::Placement(_)
        | Key::Fence(_)
        | Key::Move(_)
        // Its facts are of the epoch of the close; a cell that a person has closed comes back as one to decide on.
        | Key::Closed(_) => false,
        Key::Workflow(id) | Key::WorkflowLog(id, _) => !unfinished.contains_key(id),
        _ => true,
    };
    entries.into_iter().filter(|(key, _)| stays(key)).collect()
}

#[cfg(test)]
mod tests;
