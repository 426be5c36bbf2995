//! What stands in a primary beside rows that are replicated and listed, as the role that looks can see it.

use domicile_engine::provider::Beside;
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// One more name than is told.
const NAMES: u32 = 21;

fn names(of: &str) -> String {
    format!("ARRAY(SELECT name::text FROM ({of}) AS q(name) ORDER BY 1 LIMIT {NAMES})")
}

fn tables(which: &str) -> String {
    names(&format!(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'domicile', 'cron')
 AND n.nspname NOT LIKE 'pg\\_%' AND {which}"
    ))
}

/// Looks; none if the server does not answer all of it.
pub(crate) async fn look(connection: &mut PgConnection) -> Option<Beside> {
    let sql = format!(
        "SELECT {keyless}, {unlogged}, (SELECT count(*) FROM pg_largeobject_metadata), {slots}, {subscriptions},
 {publications}, to_regclass('cron.job') IS NULL,
 (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots
  WHERE slot_name = 'domicile_losses'),
 (SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size' AND setting <> '-1')",
        keyless = tables(
            "c.relpersistence = 'p' AND c.relreplident <> 'i'
 AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
        ),
        unlogged = tables("c.relpersistence = 'u'"),
        slots = names(
            "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' AND slot_name <> 'domicile_losses'
 AND NOT temporary"
        ),
        subscriptions = names("SELECT subname FROM pg_subscription"),
        publications = names("SELECT pubname FROM pg_publication WHERE pubname <> 'domicile_all'"),
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *connection).await.ok()?;
    let list = |i: usize| row.try_get::<Vec<String>, _>(i).ok();
    let count =
        |i: usize| row.try_get::<Option<i64>, _>(i).ok().flatten().and_then(|n| u64::try_from(n).ok());
    let none = row.try_get::<bool, _>(6).ok()?;
    Some(Beside {
        keyless: list(0)?,
        unlogged: list(1)?,
        large_objects: count(2)?,
        slots: list(3)?,
        subscriptions: list(4)?,
        publications: list(5)?,
        jobs: if none { Some(Vec::new()) } else { jobs(connection).await },
        slot_kept_bytes: count(7),
        slot_limit_bytes: count(8),
    })
}

/// The jobs of pg_cron. Its table shows everybody only their own: what a policy hides is unknown, not nothing.
async fn jobs(connection: &mut PgConnection) -> Option<Vec<String>> {
    let whole =
        sqlx::query("SELECT NOT row_security_active('cron.job')").fetch_one(&mut *connection).await.ok()?;
    if !whole.try_get::<bool, _>(0).ok()? {
        return None;
    }
    let sql = names("SELECT coalesce(to_jsonb(j)->>'jobname', 'job ' || jobid) FROM cron.job j WHERE active");
    let row = sqlx::query(AssertSqlSafe(format!("SELECT {sql}"))).fetch_one(connection).await.ok()?;
    row.try_get(0).ok()
}
