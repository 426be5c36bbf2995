//! No number is given out twice: after a promotion that may have lost something, sequences are raised before anybody
//! is let in.
//!
//! PostgreSQL logs a sequence up to 32 values ahead of what it has given out, and more of them are drawn after a standby
//! last heard. How many, nobody can know; so each sequence goes on past the last value known here by the larger of a
//! configured number and its own cache (sessions keep as many to themselves).

use std::time::Duration;

use domicile_api::agent::SequenceGuard;
use sqlx::PgConnection;

use super::local;
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(10);
/// Most sequences that are named when they were left.
const MOST_NAMED: usize = 100;

/// Raises all sequences of the database by `values` steps. Repeated, it raises them again, which only makes gaps.
pub(crate) async fn raise(connection: &mut PgConnection, values: u64) -> Result<SequenceGuard, Failure> {
    if values == 0 {
        return Ok(SequenceGuard { values, raised: 0, left: Vec::new() });
    }
    // Numeric: near the ends of their range the sums do not fit a bigint. Temporary ones belong to sessions that are
    // gone, and those of extensions count as well.
    let sql = format!(
        "WITH known AS (
 SELECT s.seqrelid, n.nspname || '.' || c.relname AS name, s.seqcycle,
  coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart)::numeric
   + greatest(s.seqcache::numeric, {values}::numeric) * s.seqincrement AS next, s.seqmin, s.seqmax
 FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence <> 't'),
judged AS (SELECT *, CASE WHEN seqcycle THEN name || ': it goes round'
  WHEN next NOT BETWEEN seqmin AND seqmax THEN name || ': it would pass its end' END AS why FROM known),
raised AS (SELECT setval(seqrelid::regclass, next::bigint, true) FROM judged WHERE why IS NULL)
SELECT (SELECT count(*) FROM raised)::text,
 (SELECT json_agg(why ORDER BY name) FROM (SELECT why, name FROM judged WHERE why IS NOT NULL ORDER BY name LIMIT {MOST_NAMED}) AS l)::text,
 (SELECT count(*) FROM judged WHERE why IS NOT NULL)::text"
    );
    let row = local::row(connection, sql, PATIENCE).await?.unwrap_or_default();
    let at = |i: usize| row.get(i).cloned().flatten();
    let count = |i: usize| at(i).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let mut left: Vec<String> = at(1).and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let named = u64::try_from(left.len()).unwrap_or(u64::MAX);
    if count(2) > named {
        left.push(format!("and {} more", count(2) - named));
    }
    Ok(SequenceGuard { values, raised: count(0), left })
}
