//! The tables, and how an older file becomes a newer one. Only forward.

use std::path::Path;

use sqlx::sqlite::SqlitePool;

use crate::HistoryError;

/// Each brings the schema one further. Never changed once released: a new one is added.
const STEPS: [&str; 1] = ["
CREATE TABLE batches (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  router TEXT NOT NULL,
  boot TEXT NOT NULL,
  number INTEGER NOT NULL,
  minute INTEGER NOT NULL,
  head TEXT NOT NULL,
  digest BLOB NOT NULL,
  UNIQUE (router, boot, number)
) STRICT;
CREATE INDEX batches_of_minutes ON batches (minute, router);
CREATE TABLE facts (
  batch INTEGER NOT NULL REFERENCES batches (seq) ON DELETE CASCADE,
  n INTEGER NOT NULL,
  tenant TEXT,
  minute INTEGER NOT NULL,
  fact TEXT NOT NULL,
  PRIMARY KEY (batch, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX facts_of_tenants ON facts (tenant, minute);
"];

/// Brings the file to the newest schema.
pub(crate) async fn migrate(path: &Path, pool: &SqlitePool) -> Result<(), HistoryError> {
    let failed = |source: sqlx::Error| HistoryError::of(path, source);
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let mut txn = pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *txn).await.map_err(failed)?;
    if found > known {
        return Err(HistoryError::Newer { path: path.to_owned(), found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        sqlx::raw_sql(*step).execute(&mut *txn).await.map_err(failed)?;
    }
    if found < known {
        // A pragma takes no parameters.
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut *txn).await.map_err(failed)?;
    }
    txn.commit().await.map_err(failed)
}
