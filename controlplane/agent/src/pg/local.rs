//! The agent's own way in: the superuser over the unix socket, by peer.

use std::time::Duration;

use domicile_model::token::Lsn;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row};

use crate::config::AgentConfig;
use crate::failure::Failure;

/// Connects. The connection ends with its value.
pub(crate) async fn connect(config: &AgentConfig, patience: Duration) -> Result<PgConnection, Failure> {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&config.socket_dir)
        .port(config.address.port())
        .username("postgres")
        .database(&config.database)
        .ssl_mode(PgSslMode::Disable)
        .application_name("domicile-agent")
        .disable_statement_logging();
    match tokio::time::timeout(patience, PgConnection::connect_with(&options)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(e)) => Err(Failure::database("connecting over the unix socket", &e)),
        Err(_) => Err(Failure::database_slow("connecting over the unix socket", patience)),
    }
}

/// Runs statements that return nothing of interest.
pub(crate) async fn execute(
    connection: &mut PgConnection,
    sql: impl Into<String>,
    patience: Duration,
) -> Result<(), Failure> {
    let run = sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection);
    match tokio::time::timeout(patience, run).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(Failure::database("running SQL", &e)),
        Err(_) => Err(Failure::database_slow("running SQL", patience)),
    }
}

/// The first row of a query, as texts; columns cast with `::text`.
pub(crate) async fn row(
    connection: &mut PgConnection,
    sql: impl Into<String>,
    patience: Duration,
) -> Result<Option<Vec<Option<String>>>, Failure> {
    let run = sqlx::query(AssertSqlSafe(sql.into())).fetch_optional(connection);
    let row = match tokio::time::timeout(patience, run).await {
        Ok(Ok(row)) => row,
        Ok(Err(e)) => return Err(Failure::database("asking", &e)),
        Err(_) => return Err(Failure::database_slow("asking", patience)),
    };
    let Some(row) = row else { return Ok(None) };
    (0..row.len())
        .map(|i| row.try_get::<Option<String>, _>(i).map_err(|e| Failure::database("reading a row", &e)))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The first column of the first row.
pub(crate) async fn value(
    connection: &mut PgConnection,
    sql: impl Into<String>,
    patience: Duration,
) -> Result<Option<String>, Failure> {
    Ok(row(connection, sql, patience).await?.and_then(|r| r.into_iter().next().flatten()))
}

/// What a running server says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) in_recovery: bool,
    pub(crate) flushed: Option<Lsn>,
    pub(crate) replayed: Option<Lsn>,
    pub(crate) streaming: bool,
    pub(crate) timeline: Option<u32>,
}

/// Asks it, in one query.
pub(crate) async fn live(connection: &mut PgConnection, patience: Duration) -> Result<Live, Failure> {
    const SQL: &str = "SELECT r::text,
 CASE WHEN r THEN NULL ELSE pg_current_wal_flush_lsn()::text END,
 CASE WHEN r THEN pg_last_wal_replay_lsn()::text END,
 CASE WHEN r THEN EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')
  ELSE EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming') END::text,
 CASE WHEN r THEN (SELECT received_tli::text FROM pg_stat_wal_receiver)
  ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text END
 FROM (SELECT pg_is_in_recovery()) AS q(r)";
    let row = row(connection, SQL, patience).await?.unwrap_or_default();
    let at = |i: usize| row.get(i).cloned().flatten();
    Ok(Live {
        in_recovery: at(0).as_deref() == Some("true"),
        flushed: at(1).and_then(|t| t.parse().ok()),
        replayed: at(2).and_then(|t| t.parse().ok()),
        streaming: at(3).as_deref() == Some("true"),
        timeline: at(4).and_then(|t| t.parse().ok()),
    })
}
