//! A full listing: builds the next table in one piece, with the old one at hand for what must not be forgotten.

use std::sync::Arc;

use domicile_model::clock::BootTime;
use domicile_model::invariants::epoch_rises;
use domicile_model::{CellId, Placement, World};
use domicile_store::codec::decode;
use domicile_store::{Entry, Key, Listing};

use super::{Refusal, RoutingTable};
use crate::entry::Placed;
use crate::lastgood::Mark;

/// What a full listing did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Relisted {
    /// Why the listing is of another history than the table before it, if it is.
    pub other_history: Option<Arc<str>>,
    /// The listing is not of a registry that was ever filled, although the table came from one: nothing was taken
    /// over. Try again later.
    pub rejected: bool,
    /// What was not taken over; the old values stand.
    pub refused: Vec<Refusal>,
}

impl RoutingTable {
    /// The table of a full listing. What is gone from the listing is gone from the table.
    ///
    /// If the listing is of another history (another cluster, another world, or a revision below the applied one),
    /// no epoch is lowered: a placement that would be keeps standing, in doubt. If moreover the world is still called
    /// the same, the whole table is marked as diverged.
    #[must_use]
    pub fn relist(&self, listing: &Listing, now: BootTime) -> (Self, Relisted) {
        let world = listing.entries.iter().find(|entry| entry.key == Key::World);
        let found = world.and_then(|entry| decode::<World>(&entry.value).ok());
        let other = self.other_history(listing, found.as_ref());
        if self.world.is_some() && world.is_none() {
            let why: Arc<str> =
                "the registry has lost its world record: it was wiped, or is another one".into();
            let kept = Self { diverged: Some(why.clone()), ..self.clone() };
            return (kept, Relisted { other_history: Some(why), rejected: true, refused: Vec::new() });
        }
        let same_world = match (self.world(), &found) {
            (Some(old), Some(new)) => old.id == new.id,
            (old, _) => old.is_some(),
        };
        let mut report = Relisted { other_history: other.clone(), ..Relisted::default() };
        let mut next = Self {
            applied: listing.header.revision,
            cluster: Some(listing.header.cluster),
            diverged: if same_world { self.diverged.clone().or_else(|| other.clone()) } else { None },
            floors: self.floors.clone(),
            ..Self::empty()
        };
        // Cells and tenants first, so that what comes after can share their ids.
        let rank = |key: &Key| match key {
            Key::Cell(_) => 0,
            Key::Tenant(_) => 1,
            _ => 2,
        };
        for wanted in 0..=2 {
            for entry in listing.entries.iter().filter(|entry| rank(&entry.key) == wanted) {
                let result = match &entry.key {
                    Key::Placement(cell) => next.relist_placement(self, cell, entry, now, other.is_some()),
                    _ => next.put(entry, now, &mut Vec::new()),
                };
                if result.is_err() {
                    next.keep(self, &entry.key);
                }
                next.note(&entry.key, result, &mut report.refused);
            }
        }
        next.keep_missing(self, other.as_ref(), &mut report.refused);
        if other.is_none()
            && let Some(why) = self.contradiction(listing)
        {
            next.diverged = Some(why.clone());
            report.other_history = Some(why);
        }
        (next, report)
    }

    /// The table that a last-good file holds.
    pub(crate) fn restored(listing: &Listing, mark: Mark, now: BootTime) -> Self {
        let (mut table, _) = Self::empty().relist(listing, now);
        table.diverged = mark.diverged;
        table.floors = Arc::new(mark.floors);
        for (cell, why) in mark.doubts {
            table.doubt(&cell, &why);
            table.note(&Key::Placement(cell), Err(why), &mut Vec::new());
        }
        table
    }

    /// What a last-good file holds besides the entries.
    pub(crate) fn mark(&self) -> Mark {
        let doubt =
            |cell: &CellId| self.placements.get(cell.as_str()).and_then(|placed| placed.doubt.clone());
        let doubts = self.refused.keys().filter_map(|key| match key {
            Key::Placement(cell) => doubt(cell).map(|why| (cell.clone(), why)),
            _ => None,
        });
        Mark {
            cluster: self.cluster.unwrap_or_default(),
            applied: self.applied,
            diverged: self.diverged.clone(),
            floors: (*self.floors).clone(),
            doubts: doubts.collect(),
        }
    }

    fn other_history(&self, listing: &Listing, found: Option<&World>) -> Option<Arc<str>> {
        let cluster = self.cluster?;
        let header = listing.header;
        match (self.world(), found) {
            (Some(old), Some(new)) if old.id != new.id => {
                return Some(format!("the registry is world {} now, it was {}", new.id, old.id).into());
            }
            // A world record that can't be read says nothing; whoever asks for a proof reads it again.
            _ => {}
        }
        if header.cluster != cluster {
            return Some(
                format!("the registry is cluster {:x} now, it was {cluster:x}", header.cluster).into(),
            );
        }
        (header.revision < self.applied).then(|| {
            format!(
                "the registry is at revision {}, below {}, which was already applied",
                header.revision, self.applied
            )
            .into()
        })
    }

    /// A placement whose last change lies before the one that this table has seen: the registry was turned back, and
    /// has by now come past the revision that would have told.
    fn contradiction(&self, listing: &Listing) -> Option<Arc<str>> {
        listing.entries.iter().find_map(|entry| {
            let Key::Placement(cell) = &entry.key else { return None };
            let known = self.placement(cell.as_str()).filter(|known| known.doubt.is_none())?;
            (entry.modified < known.modified && known.modified <= listing.header.revision).then(|| {
                format!(
                    "cell {cell} was last changed at revision {} says the registry, which has shown revision {} before",
                    entry.modified, known.modified
                )
                .into()
            })
        })
    }

    fn relist_placement(
        &mut self,
        before: &Self,
        cell: &CellId,
        entry: &Entry,
        now: BootTime,
        other: bool,
    ) -> Result<(), Arc<str>> {
        let Some(known) = before.placements.get(cell.as_str()) else {
            return self.put(entry, now, &mut Vec::new());
        };
        let result = if !other && known.modified > self.applied {
            // Read ahead of this listing.
            self.placements.insert(known.clone());
            Ok(())
        } else if !other && known.modified == entry.modified && known.doubt.is_none() {
            self.placements.insert(known.clone());
            Ok(())
        } else {
            self.put(entry, now, &mut Vec::new()).and_then(|()| {
                let new = self.placements.get(cell.as_str()).cloned();
                let Some(new) = new else { return Ok(()) };
                epoch_rises(&known.placement, &new.placement).map_err(|b| Arc::from(b.to_string()))?;
                if same_instruction(&known.placement, &new.placement) {
                    // The same order, listed again: requests have been waiting since it was first applied.
                    let kept = Placed { applied_at: known.applied_at, ..(*new).clone() };
                    self.placements.insert(Arc::new(kept));
                }
                Ok(())
            })
        };
        result.inspect_err(|why: &Arc<str>| self.keep_placement(known, why))
    }

    /// Keeps a placement although the listing says otherwise: edges go on by it, no proof covers it.
    fn keep_placement(&mut self, known: &Arc<Placed>, why: &Arc<str>) {
        // Its revision may be of another history; from here on what counts is what comes after this listing.
        let kept = Placed { modified: self.applied, doubt: Some(why.clone()), ..(**known).clone() };
        self.placements.insert(Arc::new(kept));
    }

    /// Takes over the old value of a record that the listing holds in a form that can't be read.
    fn keep(&mut self, before: &Self, key: &Key) {
        match key {
            Key::World => self.world.clone_from(&before.world),
            Key::Region(id) => {
                if let Some(old) = before.regions.get(id) {
                    Arc::make_mut(&mut self.regions).insert(id.clone(), old.clone());
                }
            }
            Key::Jurisdiction(id) => {
                if let Some(old) = before.jurisdictions.get(id) {
                    Arc::make_mut(&mut self.jurisdictions).insert(id.clone(), old.clone());
                }
            }
            Key::Witness(id) => {
                if let Some(old) = before.witnesses.get(id) {
                    Arc::make_mut(&mut self.witnesses).insert(id.clone(), old.clone());
                }
            }
            Key::Cell(id) => {
                if let Some(old) = before.cells.get(id.as_str()) {
                    self.cells.insert(old.clone());
                }
            }
            Key::Tenant(id) => {
                if let Some(old) = before.tenants.get(id.as_str()) {
                    self.tenants.insert(old.clone());
                }
            }
            Key::Host(pattern) => {
                let (from, to, name) = match pattern {
                    domicile_model::HostPattern::Exact(name) => (&before.exact, &mut self.exact, name),
                    domicile_model::HostPattern::Wildcard(name) => {
                        (&before.wildcard, &mut self.wildcard, name)
                    }
                };
                if let Some(old) = from.get(name.as_str()) {
                    to.insert(old.clone());
                }
            }
            _ => {}
        }
    }

    /// Placements that the old table has and the listing has not.
    fn keep_missing(&mut self, before: &Self, other: Option<&Arc<str>>, refused: &mut Vec<Refusal>) {
        for known in before.placements.iter() {
            let cell = &known.placement.cell;
            if self.placements.get(cell.as_str()).is_some() {
                continue;
            }
            match other {
                Some(why) => {
                    self.keep_placement(known, why);
                    self.note(&Key::Placement(cell.clone()), Err(why.clone()), refused);
                }
                None if known.modified > self.applied => {
                    self.placements.insert(known.clone());
                }
                None => {
                    Arc::make_mut(&mut self.floors).insert(cell.clone(), known.placement.epoch);
                }
            }
        }
    }
}

fn same_instruction(old: &Placement, new: &Placement) -> bool {
    old.epoch == new.epoch && old.holder == new.holder && old.phase == new.phase
}
