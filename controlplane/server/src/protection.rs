//! How well cells are protected, for alarms. What is not known is absent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domicile_api::protection::{BuildingView, Doing, RetentionView, SlotUse, UnprotectedView};
use domicile_model::{Cell, CellId};
use jiff::Timestamp;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use crate::app::App;
use crate::current::Current;

/// When this control plane last saw that the registry names a standby, by cell. The registry knows when a cell was last
/// moved; one that lost its standby otherwise (it was opened after a restore) did so after that.
#[derive(Debug, Default)]
pub struct Protected(Mutex<BTreeMap<CellId, Timestamp>>);

impl Protected {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<CellId, Timestamp>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a cell that somebody holds has no standby, and since when.
#[must_use]
pub fn unprotected(app: &App, current: &Current, cell: &Cell) -> Option<UnprotectedView> {
    cell.database.as_ref()?;
    let (placement, _) = current.placements.get(&cell.id)?;
    let now = Timestamp::now();
    if placement.standby.is_some() {
        app.protected.with(|seen| seen.insert(cell.id.clone(), now));
        return None;
    }
    placement.holder.as_ref()?;
    let seen = app.protected.with(|seen| seen.get(&cell.id).copied());
    Some(clock(current.moved.get(&cell.id).copied(), seen, now))
}

/// Since when a cell has no standby: since its last move, unless it was seen with one after that.
fn clock(moved: Option<Timestamp>, seen: Option<Timestamp>, now: Timestamp) -> UnprotectedView {
    let (since, because) = match (moved, seen) {
        (Some(moved), Some(seen)) if seen > moved => (Some(seen), "it was last seen with a standby then"),
        (Some(moved), _) => (Some(moved), "its holder last changed then"),
        (None, Some(seen)) => (Some(seen), "it was last seen with a standby then"),
        (None, None) => (None, "it was never moved, and never seen with a standby"),
    };
    // A clock that was set back says nothing.
    let for_ms = since.and_then(|since| u64::try_from(now.duration_since(since).as_millis()).ok());
    UnprotectedView { since, for_ms, because: because.to_owned() }
}

/// How far the new standby of a cell is. None where the registry names one that streams in any way: its lag is told elsewhere.
#[must_use]
pub fn building(app: &App, current: &Current, cell: &Cell) -> Option<BuildingView> {
    cell.database.as_ref()?;
    let (placement, _) = current.placements.get(&cell.id)?;
    let building = app.engine.sampler().building(&cell.id)?;
    let named = placement.standby.as_ref() == Some(&building.region);
    (placement.holder.is_some() && !(named && building.doing == Doing::CatchingUp)).then_some(building)
}

/// The leader's look at all cells, for alarms.
pub fn measure(app: &App, current: &Current) {
    for cell in current.fleet.cells.values() {
        let unprotected = unprotected(app, current, cell);
        let building = building(app, current, cell);
        let has = cell.database.is_some();
        app.metrics.protection.standby(&cell.id, has, unprotected.as_ref(), building.as_ref());
    }
}

/// Per cell; slots by what they are for, so that foreign names make no labels.
#[derive(Debug, Clone)]
pub struct ProtectionMetrics {
    kept: IntGaugeVec,
    safe: IntGaugeVec,
    active: IntGaugeVec,
    limit: IntGaugeVec,
    free: IntGaugeVec,
    away: GaugeVec,
    unprotected: GaugeVec,
    done: IntGaugeVec,
    left: IntGaugeVec,
    left_for: GaugeVec,
}

fn seconds(gauges: &GaugeVec, cell: &str, ms: Option<u64>) {
    match ms {
        #[expect(clippy::cast_precision_loss, reason = "2^53 ms do not pass")]
        Some(ms) => gauges.with_label_values(&[cell]).set(ms as f64 / 1000.0),
        None => drop(gauges.remove_label_values(&[cell])),
    }
}

fn set(gauges: &IntGaugeVec, labels: &[&str], value: Option<i64>) {
    match value {
        Some(value) => gauges.with_label_values(labels).set(value),
        // It was there only if it was known before.
        None => drop(gauges.remove_label_values(labels)),
    }
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl ProtectionMetrics {
    /// Registered, without cells.
    ///
    /// # Errors
    /// Never: the names are fixed and differ from the others'.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let times = |name: &str, help: &str| {
            let gauges = GaugeVec::new(Opts::new(name, help), &["cell"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        Ok(Self {
            kept: gauges(
                "domicile_cell_wal_retained_bytes",
                "write-ahead log that the primary keeps for a slot (standby, losses, other)",
                &["cell", "slot"],
            )?,
            safe: gauges(
                "domicile_cell_slot_safe_bytes",
                "what can still be written before a slot may be given up",
                &["cell", "slot"],
            )?,
            active: gauges(
                "domicile_cell_slot_active",
                "1 while somebody reads from the standby's slot",
                &["cell", "slot"],
            )?,
            limit: gauges(
                "domicile_cell_wal_retention_limit_bytes",
                "the most that slots may keep (max_slot_wal_keep_size); absent: no limit, or unknown",
                &["cell"],
            )?,
            free: gauges(
                "domicile_cell_wal_free_bytes",
                "free bytes on the volume of the primary's write-ahead log",
                &["cell"],
            )?,
            away: times(
                "domicile_cell_standby_may_stay_away_seconds",
                "how long the standby, which is away, can stay so before it has to be built anew",
            )?,
            unprotected: times(
                "domicile_cell_unprotected_seconds",
                "for how long a cell has had no standby, as the leader sees it; 0: it has one; absent: not known",
            )?,
            done: gauges(
                "domicile_cell_rebuild_done_bytes",
                "bytes copied of a standby that is being built, as the leader sees it",
                &["cell"],
            )?,
            left: gauges(
                "domicile_cell_rebuild_left_bytes",
                "bytes that it has still to copy, or to replay",
                &["cell"],
            )?,
            left_for: times(
                "domicile_cell_rebuild_left_seconds",
                "how long that will take at the measured rate; absent: not known",
            )?,
        })
    }

    /// What the primary of a cell keeps.
    pub fn retention(&self, cell: &CellId, kept: Option<&RetentionView>) {
        let cell = cell.as_str();
        let mut slots = BTreeMap::new();
        for slot in kept.iter().flat_map(|kept| &kept.seen.slots) {
            // Of several that are not ours, the one that keeps most.
            let known = slots.entry(slot.used_for).or_insert(slot);
            if slot.kept_bytes > known.kept_bytes {
                *known = slot;
            }
        }
        for used_for in [SlotUse::Standby, SlotUse::Losses, SlotUse::Other] {
            let (labels, slot) = ([cell, used_for.name()], slots.get(&used_for));
            set(&self.kept, &labels, slot.and_then(|s| s.kept_bytes).map(whole));
            set(&self.safe, &labels, slot.and_then(|s| s.safe_bytes));
        }
        let standby = slots.get(&SlotUse::Standby);
        set(&self.active, &[cell, SlotUse::Standby.name()], standby.map(|s| i64::from(s.active)));
        set(&self.limit, &[cell], kept.and_then(|k| k.seen.limit_bytes).map(whole));
        set(&self.free, &[cell], kept.and_then(|k| k.seen.free_bytes).map(whole));
        seconds(&self.away, cell, kept.and_then(|k| k.standby_may_stay_away_ms));
    }

    /// Whether a cell has a standby, and how far a new one is. `has`: it has a database at all.
    fn standby(
        &self,
        cell: &CellId,
        has: bool,
        unprotected: Option<&UnprotectedView>,
        building: Option<&BuildingView>,
    ) {
        let cell = cell.as_str();
        let for_ms = match unprotected {
            Some(unprotected) => unprotected.for_ms,
            None => has.then_some(0),
        };
        seconds(&self.unprotected, cell, for_ms);
        set(&self.done, &[cell], building.and_then(|b| b.done_bytes).map(whole));
        set(&self.left, &[cell], building.and_then(|b| b.left_bytes).map(whole));
        seconds(&self.left_for, cell, building.and_then(|b| b.left_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unprotected_clock_counts_from_the_last_that_is_known() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let since = |moved: Option<i64>, seen: Option<i64>| {
            let view = clock(moved.map(at), seen.map(at), at(100));
            (view.since.map(Timestamp::as_second), view.for_ms)
        };
        assert_eq!(since(Some(40), None), (Some(40), Some(60_000)));
        assert_eq!(since(Some(40), Some(30)), (Some(40), Some(60_000)));
        assert_eq!(since(Some(40), Some(90)), (Some(90), Some(10_000)));
        assert_eq!(since(None, Some(90)), (Some(90), Some(10_000)));
        assert_eq!(since(None, None), (None, None), "not known is not 0");
        assert_eq!(since(Some(110), None), (Some(110), None), "a clock that was set back");
    }
}
