//! What a primary keeps of its write-ahead log, as the role that looks can see it.

use domicile_api::protection::{Retention, Slot, SlotUse};
use sqlx::{PgConnection, Row};

/// The limit stands in every row, and in one row where there is no slot.
const SLOTS: &str =
    "SELECT s.slot_name::text, s.active, pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint, s.wal_status,
 s.safe_wal_size, g.setting::bigint * 1048576
 FROM pg_settings g LEFT JOIN pg_replication_slots s ON NOT s.temporary WHERE g.name = 'max_slot_wal_keep_size'
 ORDER BY (s.slot_name = $1 OR s.slot_name = 'domicile_losses') DESC, s.restart_lsn NULLS FIRST LIMIT 20";

/// Looks; none if the server does not answer. `standby`: the slot that the cell's standby uses.
pub(crate) async fn look(connection: &mut PgConnection, standby: &str) -> Option<Retention> {
    let rows = sqlx::query(SLOTS).bind(standby).fetch_all(connection).await.ok()?;
    let mut seen = Retention::default();
    for row in rows {
        // -1: no limit.
        seen.limit_bytes = u64::try_from(row.try_get::<i64, _>(5).ok()?).ok();
        let Some(name) = row.try_get::<Option<String>, _>(0).ok()? else { continue };
        let used_for = match name.as_str() {
            "domicile_losses" => SlotUse::Losses,
            of if of == standby => SlotUse::Standby,
            _ => SlotUse::Other,
        };
        seen.slots.push(Slot {
            used_for,
            active: row.try_get(1).ok()?,
            kept_bytes: row.try_get::<Option<i64>, _>(2).ok()?.and_then(|n| u64::try_from(n).ok()),
            wal_status: row.try_get(3).ok()?,
            safe_bytes: row.try_get(4).ok()?,
            name,
        });
    }
    Some(seen)
}
