//! What the write-ahead log of a server can't show of a loss, by name.

use std::time::Duration;

use sqlx::PgConnection;

use super::local;
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(10);

/// Names of tables by a condition, at most twenty of them.
fn tables(which: &str) -> String {
    format!(
        "(SELECT string_agg(CASE WHEN nr <= 20 THEN name ELSE 'and ' || (n - 20) || ' more' END, ', ' ORDER BY nr)
 FROM (SELECT n.nspname || '.' || c.relname AS name, row_number() OVER (ORDER BY n.nspname, c.relname) AS nr,
   count(*) OVER () AS n
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'domicile')
   AND n.nspname NOT LIKE 'pg\\_%' AND {which}) AS named WHERE nr <= 21)"
    )
}

/// In sentences; what never shows first.
pub(crate) async fn spots(connection: &mut PgConnection) -> Result<Vec<String>, Failure> {
    let keyless = tables(
        "c.relpersistence = 'p' AND c.relreplident <> 'i'
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
    );
    let unlogged = tables("c.relpersistence = 'u'");
    let sql = format!(
        "SELECT {keyless}, {unlogged}, (SELECT count(*)::text FROM pg_largeobject_metadata),
 (SELECT string_agg(datname, ', ' ORDER BY datname) FROM pg_database
  WHERE datallowconn AND NOT datistemplate AND datname NOT IN (current_database(), 'postgres'))"
    );
    let row = local::row(connection, sql, PATIENCE).await?.unwrap_or_default();
    let at = |i: usize| row.get(i).cloned().flatten();
    let mut spots: Vec<String> =
        ["changes of the schema (DDL)", "sequences", "temporary tables"].map(str::to_owned).to_vec();
    if let Some(names) = at(0) {
        spots.push(format!("which row it was, in tables without a primary key: {names}"));
    }
    if let Some(names) = at(1) {
        spots.push(format!("unlogged tables: {names}"));
    }
    match at(2).as_deref() {
        None | Some("0") => {}
        Some(n) => spots.push(format!("large objects ({n} on the old primary)")),
    }
    if let Some(names) = at(3) {
        spots.push(format!("other databases of the server: {names}"));
    }
    Ok(spots)
}
