//! From a fleet to the entries of a registry, revision by revision.

use std::collections::{BTreeMap, VecDeque};

use domicile_model::fleet::HostClaim;
use domicile_model::{
    CellId, Epoch, FenceConstants, Fleet, Phase, Placement, RegionId, Revision, WitnessSet, World, WorldId,
};
use domicile_store::codec::encode;
use domicile_store::{Change, Entry, Header, Key, StoreError};

/// How many revisions a watch may lag behind before it must list again.
const KEPT_REVISIONS: usize = 256;

/// A cell's right to write as the file gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    epoch: Epoch,
    holder: RegionId,
    standby: RegionId,
}

/// Everything that the store shows, and what it has shown.
#[derive(Debug)]
pub(crate) struct Content {
    header: Header,
    world: World,
    /// By the text of the key, which is the order of listings.
    entries: BTreeMap<String, Entry>,
    /// Of every cell that was ever seen: one that comes back starts above.
    rights: BTreeMap<CellId, Right>,
    history: VecDeque<(Revision, Vec<Change>)>,
}

impl Content {
    /// The first revision. `name` stands for the file: the same one gives the same world and cluster.
    pub(crate) fn new(name: &[u8], fleet: &Fleet) -> Self {
        let id = fnv(name);
        let mut content = Self {
            header: Header { cluster: (id >> 64) as u64, revision: Revision::ZERO },
            world: World { id: WorldId::from_u128(id), reconciled: true, constants: FenceConstants::DEFAULT },
            entries: BTreeMap::new(),
            rights: BTreeMap::new(),
            history: VecDeque::new(),
        };
        content.accept(fleet);
        content
    }

    pub(crate) const fn header(&self) -> Header {
        self.header
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.entries.get(&key.to_string()).cloned()
    }

    pub(crate) fn list(&self, prefix: &str) -> Vec<Entry> {
        self.entries
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// The changes of the first revision that is at least `from`; none if it is still to come.
    pub(crate) fn changes(&self, from: Revision) -> Result<Option<(Revision, Vec<Change>)>, StoreError> {
        match self.history.front() {
            Some((oldest, _)) if from < *oldest => Err(StoreError::Compacted(*oldest)),
            _ => Ok(self.history.iter().find(|(revision, _)| *revision >= from).cloned()),
        }
    }

    /// Takes a fleet over as the next revision. False if it changes nothing.
    pub(crate) fn accept(&mut self, fleet: &Fleet) -> bool {
        let revision = self.header.revision.next();
        let wanted = self.wanted(fleet);
        let mut changes = Vec::new();
        let gone: Vec<String> =
            self.entries.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            if let Some(entry) = self.entries.remove(&key) {
                changes.push(Change::Delete(entry.key, revision));
            }
        }
        for (text, (key, value)) in wanted {
            let old = self.entries.get(&text);
            if old.is_some_and(|old| old.value == value) {
                continue;
            }
            let created = old.map_or(revision, |old| old.created);
            let entry = Entry { key, value, created, modified: revision };
            self.entries.insert(text, entry.clone());
            changes.push(Change::Put(entry));
        }
        if changes.is_empty() {
            return false;
        }
        self.header.revision = revision;
        self.history.push_back((revision, changes));
        if self.history.len() > KEPT_REVISIONS {
            self.history.pop_front();
        }
        true
    }

    fn wanted(&mut self, fleet: &Fleet) -> BTreeMap<String, (Key, Vec<u8>)> {
        let mut wanted = BTreeMap::new();
        let mut put = |key: Key, value: Vec<u8>| {
            wanted.insert(key.to_string(), (key, value));
        };
        put(Key::World, encode(&self.world));
        for region in fleet.regions.values() {
            put(Key::Region(region.id.clone()), encode(region));
        }
        for set in fleet.jurisdictions.values() {
            put(Key::Jurisdiction(set.id.clone()), encode(set));
        }
        for tenant in fleet.tenants.values() {
            put(Key::Tenant(tenant.id.clone()), encode(tenant));
            for host in &tenant.hosts {
                put(Key::Host(host.clone()), encode(&HostClaim { tenant: tenant.id.clone() }));
            }
        }
        for cell in fleet.cells.values() {
            put(Key::Cell(cell.id.clone()), encode(cell));
            let right = self.right(&cell.id, &cell.primary, &cell.dr);
            let placement = Placement {
                cell: cell.id.clone(),
                epoch: right.epoch,
                holder: Some(right.holder),
                standby: Some(right.standby),
                phase: Phase::Serving,
                moving: None,
                availability_first: cell.availability_first,
                witnesses: WitnessSet::of([].into()),
            };
            put(Key::Placement(cell.id.clone()), encode(&placement));
        }
        // A cell that the file no longer names gives its right up: should it come back, it is under a new epoch.
        for (cell, right) in &mut self.rights {
            if !fleet.cells.contains_key(cell)
                && self.entries.contains_key(&Key::Cell(cell.clone()).to_string())
            {
                right.epoch = right.epoch.next();
            }
        }
        wanted
    }

    /// The right to a cell: a new epoch whenever primary or DR region change.
    fn right(&mut self, cell: &CellId, primary: &RegionId, dr: &RegionId) -> Right {
        let epoch = match self.rights.get(cell) {
            None => Epoch::FIRST,
            Some(old) if old.holder == *primary && old.standby == *dr => old.epoch,
            Some(old) => old.epoch.next(),
        };
        let right = Right { epoch, holder: primary.clone(), standby: dr.clone() };
        self.rights.insert(cell.clone(), right.clone());
        right
    }
}

/// FNV-1a with 128 bits: any fixed function of the file's name will do.
fn fnv(name: &[u8]) -> u128 {
    name.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
