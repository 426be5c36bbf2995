//! How well cells are protected, for alarms. What is not known is absent.

use std::collections::BTreeMap;

use domicile_api::protection::{RetentionView, SlotUse};
use domicile_model::CellId;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

/// Per cell; slots by what they are for, so that foreign names make no labels.
#[derive(Debug, Clone)]
pub struct ProtectionMetrics {
    kept: IntGaugeVec,
    safe: IntGaugeVec,
    active: IntGaugeVec,
    limit: IntGaugeVec,
    free: IntGaugeVec,
    away: GaugeVec,
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
        let away = GaugeVec::new(
            Opts::new(
                "domicile_cell_standby_may_stay_away_seconds",
                "how long the standby, which is away, can stay so before it has to be built anew",
            ),
            &["cell"],
        )?;
        registry.register(Box::new(away.clone()))?;
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
            away,
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
        match kept.and_then(|k| k.standby_may_stay_away_ms) {
            #[expect(clippy::cast_precision_loss, reason = "a forecast")]
            Some(ms) => self.away.with_label_values(&[cell]).set(ms as f64 / 1000.0),
            None => drop(self.away.remove_label_values(&[cell])),
        }
    }
}
