//! What SQL can tell, as the role that looks.

use std::time::Duration;

use domicile_api::protection::Retention;
use domicile_engine::provider::{Beside, EffectError, Observation, PrimarySample, StandbySample};
use domicile_model::token::Lsn;
use domicile_model::{Cell, RegionId, Token};
use sqlx::{Connection, PgConnection, Row};

use crate::connections::{LookError, connect};
use crate::{PostgresDatabases, beside, retention};

/// Each side of a sample has this long, whatever the other does.
const SIDE: Duration = Duration::from_millis(500);
/// How often a heartbeat is written.
const BEAT: Duration = Duration::from_secs(1);

/// What the agent does not tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    recovery: Option<bool>,
    loss_slot: Option<bool>,
    beside: Option<Beside>,
    retention: Option<Retention>,
    prepared: Option<u64>,
    can_rewind: Option<bool>,
    streaming: Option<bool>,
    flushed: Option<Lsn>,
    replayed: Option<Lsn>,
}

impl Look {
    /// Adds to what the agent said; where the agent said nothing, stands in for it.
    pub(crate) fn into(self, seen: &mut Observation) {
        // The agent remembers what the slots' positions may hide.
        seen.loss_slot = seen.loss_slot.filter(|good| !good).or(self.loss_slot);
        seen.beside = self.beside;
        seen.retention = self.retention;
        seen.prepared_transactions = self.prepared;
        seen.can_rewind = self.can_rewind;
        seen.writable = seen.writable.or(self.recovery.map(|r| !r));
        seen.standby = seen.standby.or(self.recovery);
        seen.streaming = seen.streaming.or(self.streaming);
        seen.flushed = seen.flushed.or(self.flushed);
        seen.replayed = seen.replayed.or(self.replayed);
    }
}

/// The slot counts as good only if the standby has all that came before its position: else what lies between would be
/// lost and not listed. Of a standby that is away its own slot tells what it has, unless that was made again after the loss
/// slot, which the agent remembers.
const LOOK: &str = "SELECT r,
 CASE WHEN NOT r THEN EXISTS (SELECT FROM pg_replication_slots l WHERE l.slot_name = 'domicile_losses'
  AND l.wal_status IS DISTINCT FROM 'lost' AND NOT EXISTS (SELECT FROM pg_stat_replication s
   WHERE s.state = 'streaming' AND s.flush_lsn < l.confirmed_flush_lsn)
  AND NOT EXISTS (SELECT FROM pg_replication_slots p WHERE p.slot_name = $1 AND NOT p.active
   AND (p.restart_lsn IS NULL OR p.restart_lsn < l.confirmed_flush_lsn))) END,
 (SELECT count(*) FROM pg_prepared_xacts),
 current_setting('data_checksums') = 'on' OR current_setting('wal_log_hints') = 'on',
 CASE WHEN r THEN EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')
  ELSE EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming') END,
 CASE WHEN NOT r THEN pg_current_wal_flush_lsn()::text END,
 CASE WHEN r THEN pg_last_wal_replay_lsn()::text END
 FROM (SELECT pg_is_in_recovery()) AS q(r)";

pub(crate) async fn look(
    provider: &PostgresDatabases,
    cell: &Cell,
    region: &RegionId,
    within: Duration,
) -> Result<Look, LookError> {
    let at = address(provider, cell, region)?;
    let asked = async {
        let mut connection = connect(provider, cell, region).await?;
        let row = sqlx::query(LOOK)
            .bind(&provider.config.slot)
            .fetch_one(&mut connection)
            .await
            .map_err(|e| LookError::sql(at, &e))?;
        let primary = row.try_get::<bool, _>(0).is_ok_and(|recovery| !recovery);
        let beside = if primary { beside::look(&mut connection).await } else { None };
        let retention =
            if primary { retention::look(&mut connection, &provider.config.slot).await } else { None };
        connection.close().await.ok();
        let lsn = |i: usize| row.try_get::<Option<String>, _>(i).ok().flatten().and_then(|t| t.parse().ok());
        Ok(Look {
            recovery: row.try_get(0).ok(),
            loss_slot: row.try_get(1).ok().flatten(),
            beside,
            retention,
            prepared: row.try_get::<i64, _>(2).ok().and_then(|n| u64::try_from(n).ok()),
            can_rewind: row.try_get(3).ok(),
            streaming: row.try_get(4).ok(),
            flushed: lsn(5),
            replayed: lsn(6),
        })
    };
    tokio::time::timeout(within, asked).await.unwrap_or(Err(LookError::Slow { at, ms: within.as_millis() }))
}

fn address(
    provider: &PostgresDatabases,
    cell: &Cell,
    region: &RegionId,
) -> Result<std::net::SocketAddr, LookError> {
    let endpoint = cell.database.as_ref().and_then(|d| d.endpoints.get(region)).ok_or(LookError::Unnamed)?;
    Ok(provider.config.links.dial(endpoint.address))
}

/// Writes the canary of a move and reads it back.
pub(crate) async fn canary(
    provider: &PostgresDatabases,
    cell: &Cell,
    region: &RegionId,
    token: &Token,
    within: Duration,
) -> Result<(), EffectError> {
    let at = address(provider, cell, region).map_err(|e| EffectError::Refused(e.to_string()))?;
    let moving = token.moving.to_string();
    let written = async {
        let mut connection = connect(provider, cell, region).await?;
        let sql = |e: sqlx::Error| LookError::sql(at, &e);
        sqlx::query(
            "INSERT INTO domicile.canary (move, at, step) VALUES ($1, clock_timestamp(), $2)
 ON CONFLICT (move) DO UPDATE SET at = excluded.at, step = excluded.step",
        )
        .bind(&moving)
        .bind(&token.step)
        .execute(&mut connection)
        .await
        .map_err(sql)?;
        connection.close().await.ok();
        // Read on another connection: what it finds was committed.
        let mut connection = connect(provider, cell, region).await?;
        let row = sqlx::query("SELECT step, pg_is_in_recovery() FROM domicile.canary WHERE move = $1")
            .bind(&moving)
            .fetch_optional(&mut connection)
            .await
            .map_err(sql)?;
        connection.close().await.ok();
        Ok::<_, LookError>(
            row.and_then(|r| Some((r.try_get::<String, _>(0).ok()?, r.try_get::<bool, _>(1).ok()?))),
        )
    };
    match tokio::time::timeout(within, written).await {
        Ok(Ok(Some((step, false)))) if step == token.step => Ok(()),
        Ok(Ok(found)) => {
            Err(EffectError::Refused(format!("{at}: the canary row did not survive: found {found:?}")))
        }
        Ok(Err(e @ LookError::Sql { refused: true, .. })) => Err(EffectError::Refused(e.to_string())),
        Ok(Err(e @ (LookError::Unnamed | LookError::Secret(_)))) => Err(EffectError::Refused(e.to_string())),
        Ok(Err(e)) => Err(EffectError::Unknown(e.to_string())),
        Err(_) => Err(EffectError::Unknown(format!("{at}: the canary was not confirmed within {within:?}"))),
    }
}

// The snapshot is taken before the position is read: whatever had ended in it was flushed by then.
const PRIMARY: &str = "SELECT pg_is_in_recovery(),
 CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END,
 pg_snapshot_xmax(pg_current_snapshot())::text,
 EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming'),
 pg_snapshot_xmin(pg_current_snapshot())::text";

/// Looks at the primary, and writes the heartbeat when it is due.
pub(crate) async fn primary(
    provider: &PostgresDatabases,
    cell: &Cell,
    region: &RegionId,
) -> Option<PrimarySample> {
    let place = provider.connections.of(&cell.id, region);
    let asked_and_beaten = async {
        let mut kept = place.lock().await;
        let mut connection = match kept.connection.take() {
            Some(connection) => connection,
            None => connect(provider, cell, region).await.ok()?,
        };
        let asked = provider.clock.now();
        let row = sqlx::query(PRIMARY).fetch_one(&mut connection).await.ok()?;
        if row.try_get::<bool, _>(0).ok()? {
            kept.connection = Some(connection);
            return None;
        }
        let sample = PrimarySample {
            asked,
            flushed: row.try_get::<Option<String>, _>(1).ok()??.parse().ok()?,
            next_xid: row.try_get::<String, _>(2).ok()?.parse().ok()?,
            oldest_xid: row.try_get::<String, _>(4).ok()?.parse().ok()?,
            streaming: row.try_get(3).ok()?,
        };
        let due = kept.heartbeat.is_none_or(|last| asked.since(last) >= BEAT);
        if due && beat(provider, &mut connection).await.is_ok() {
            kept.heartbeat = Some(asked);
        }
        kept.connection = Some(connection);
        Some(sample)
    };
    tokio::time::timeout(SIDE, asked_and_beaten).await.ok().flatten()
}

async fn beat(provider: &PostgresDatabases, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO domicile.heartbeat (server, at) VALUES ($1, clock_timestamp())
 ON CONFLICT (server) DO UPDATE SET at = excluded.at",
    )
    .bind(&provider.config.server)
    .execute(connection)
    .await
    .map(drop)
}

// On a standby the snapshot's list of what runs is always empty, and its lowest number takes its place.
const STANDBY: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text,
 EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
 pg_snapshot_xmin(pg_current_snapshot())::text";
const AGE: &str =
    "SELECT (extract(epoch FROM clock_timestamp() - max(at)) * 1000)::bigint FROM domicile.heartbeat";

/// Looks at the standby.
pub(crate) async fn standby(
    provider: &PostgresDatabases,
    cell: &Cell,
    region: &RegionId,
) -> Option<StandbySample> {
    let place = provider.connections.of(&cell.id, region);
    let asked = async {
        let mut kept = place.lock().await;
        let mut connection = match kept.connection.take() {
            Some(connection) => connection,
            None => connect(provider, cell, region).await.ok()?,
        };
        let asked = provider.clock.now();
        let row = sqlx::query(STANDBY).fetch_one(&mut connection).await.ok()?;
        let recovery: bool = row.try_get(0).ok()?;
        let age = sqlx::query(AGE).fetch_one(&mut connection).await;
        // Without the table, or before the first beat, the age is unknown.
        let age = age.ok().and_then(|r| r.try_get::<Option<i64>, _>(0).ok().flatten());
        kept.connection = Some(connection);
        if !recovery {
            return None;
        }
        Some(StandbySample {
            asked,
            replayed: row.try_get::<Option<String>, _>(1).ok()??.parse().ok()?,
            ended_below: row.try_get::<String, _>(3).ok().and_then(|t| t.parse().ok()),
            data_age_ms: age.map(|ms| u64::try_from(ms).unwrap_or(0)),
            streaming: row.try_get(2).ok()?,
        })
    };
    tokio::time::timeout(SIDE, asked).await.ok().flatten()
}
