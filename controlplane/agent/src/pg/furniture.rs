//! What the agent keeps in a primary: the product's own schema, the publication and the slots.

use std::time::Duration;

use domicile_model::token::Lsn;
use sqlx::PgConnection;

use super::local::{execute, row, value};
use crate::config::AgentConfig;
use crate::failure::Failure;

/// The logical slot that keeps the transactions which the standby has not replayed.
pub const LOSS_SLOT: &str = "domicile_losses";
/// Everything that is published to it.
pub const PUBLICATION: &str = "domicile_all";

const PATIENCE: Duration = Duration::from_secs(3);

/// Makes what is missing; writes nothing when all is there.
pub(crate) async fn furnish(connection: &mut PgConnection, config: &AgentConfig) -> Result<(), Failure> {
    let complete = format!(
        "SELECT (to_regclass('domicile.canary') IS NOT NULL
 AND EXISTS (SELECT FROM pg_publication WHERE pubname = '{PUBLICATION}'))::text"
    );
    if value(connection, complete, PATIENCE).await?.as_deref() != Some("true") {
        let (look, stream) = (&config.look_role, &config.replication.user);
        let sql = format!(
            "BEGIN;
CREATE SCHEMA IF NOT EXISTS domicile;
CREATE TABLE IF NOT EXISTS domicile.heartbeat (server text PRIMARY KEY, at timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS domicile.canary (move text PRIMARY KEY, at timestamptz NOT NULL, step text NOT NULL);
DO $$BEGIN
 IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{look}') THEN
  GRANT USAGE ON SCHEMA domicile TO {look};
  GRANT SELECT, INSERT, UPDATE ON domicile.heartbeat, domicile.canary TO {look};
 END IF;
 IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{stream}') THEN
  GRANT pg_checkpoint TO {stream};
  GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean),
   pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text),
   pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO {stream};
 END IF;
 IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = '{PUBLICATION}') THEN
  CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES;
 END IF;
END$$;
COMMIT"
        );
        execute(connection, sql, PATIENCE).await?;
    }
    name_rows(connection).await?;
    slots(connection, &config.slot).await.map(drop)
}

/// Makes the physical slot of the other side and the logical one for losses. A slot whose log was given up is of no
/// use and made again. Returns the names of those, separated by commas.
pub(crate) async fn slots(connection: &mut PgConnection, physical: &str) -> Result<String, Failure> {
    let drop = format!(
        "SELECT string_agg(slot_name || coalesce(pg_drop_replication_slot(slot_name)::text, ''), ',')
 FROM pg_replication_slots
 WHERE slot_name IN ('{LOSS_SLOT}', '{physical}') AND wal_status = 'lost' AND NOT active"
    );
    let dropped = value(connection, drop, PATIENCE).await?.unwrap_or_default();
    let made = format!(
        "SELECT pg_create_physical_replication_slot('{physical}', true)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{physical}');
SELECT pg_create_logical_replication_slot('{LOSS_SLOT}', 'pgoutput')
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{LOSS_SLOT}')"
    );
    for sql in made.split(';') {
        execute(connection, sql, PATIENCE).await?;
    }
    Ok(dropped)
}

/// Drops the physical slots that had another name in an earlier file of this agent: nobody would ever read from them
/// again, and they would keep log until they are given up. One that is in use stays, and so does every slot that this agent did
/// not make. Returns the names of those that are left.
pub(crate) async fn sweep(
    connection: &mut PgConnection,
    made: &[String],
    present: &str,
) -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    for name in made.iter().filter(|name| *name != present && *name != LOSS_SLOT) {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots
 WHERE slot_name = '{name}' AND slot_type = 'physical' AND NOT active"
        );
        execute(connection, drop, PATIENCE).await?;
        let there = format!("SELECT slot_name::text FROM pg_replication_slots WHERE slot_name = '{name}'");
        left.extend(value(connection, there, PATIENCE).await?);
    }
    Ok(left)
}

/// Gives tables without a key their whole row as replica identity: once all tables are published, PostgreSQL refuses
/// updates and deletes of a table whose rows have no name.
pub(crate) async fn name_rows(connection: &mut PgConnection) -> Result<(), Failure> {
    const NAMELESS: &str =
        "SELECT string_agg(format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', n.nspname, c.relname), '; ')
 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident = 'd'
 AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
 AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)";
    if let Some(sql) = value(connection, NAMELESS, PATIENCE).await? {
        execute(connection, format!("SET lock_timeout = '200ms'; {sql}; RESET lock_timeout"), PATIENCE)
            .await?;
    }
    Ok(())
}

const UNLISTED: &str = "transactions from before that, if the standby lacks them, could not be listed after a forced move; this ends when the standby has replayed them";

/// What is told after a restart.
pub(crate) fn unlisted() -> String {
    format!("the slot {LOSS_SLOT} was made again while this server was the primary: {UNLISTED}")
}

/// How the slots were found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What is wrong with the one for losses.
    pub(crate) losses: Option<String>,
    /// What is wrong with the standby's.
    pub(crate) standby: Option<String>,
    /// The standby streams and has replayed all that the loss slot does not keep.
    pub(crate) covered: bool,
}

/// Moves the loss slot up to what the standby has replayed, never past it. Slots that are missing or were given up are
/// made again, and that is said.
pub(crate) async fn advance(connection: &mut PgConnection, config: &AgentConfig) -> Result<Found, Failure> {
    let physical = &config.slot;
    let sql = format!(
        "SELECT l.confirmed_flush_lsn::text, l.wal_status, r.replay_lsn::text, p.wal_status, (l IS NULL)::text,
 current_setting('max_slot_wal_keep_size')
 FROM (SELECT) AS one
 LEFT JOIN pg_replication_slots l ON l.slot_name = '{LOSS_SLOT}'
 LEFT JOIN pg_replication_slots p ON p.slot_name = '{physical}'
 LEFT JOIN pg_stat_replication r ON r.pid = p.active_pid AND r.state = 'streaming'"
    );
    let row = row(connection, sql, PATIENCE).await?.unwrap_or_default();
    let at = |i: usize| row.get(i).cloned().flatten();
    let missing = at(4).as_deref() == Some("true");
    let mut given_up = Vec::new();
    if missing || [at(1), at(3)].iter().any(|status| status.as_deref() == Some("lost")) {
        // By what was dropped, not by what was seen: the second may have been given up after the look at both.
        given_up = slots(connection, physical).await?.split(',').map(str::to_owned).collect();
    }
    let limit = at(5).unwrap_or_else(|| format!("{} MiB", config.slot_keep_mib));
    let mut found = Found::default();
    if given_up.iter().any(|slot| slot == LOSS_SLOT) {
        found.losses = Some(format!(
            "the slot {LOSS_SLOT} was given up, for it would have kept more than max_slot_wal_keep_size ({limit}); it was made again: {UNLISTED}"
        ));
    } else if missing {
        found.losses = Some(format!("the slot {LOSS_SLOT} was missing and was made again: {UNLISTED}"));
    }
    if given_up.contains(physical) {
        found.standby = Some(format!(
            "the standby's slot {physical} was given up, for the standby was away or slow while more than max_slot_wal_keep_size ({limit}) was written; if it does not stream again, build it anew with `domicile cell reprotect {}`",
            config.cell
        ));
    }
    if found.losses.is_some() || found.standby.is_some() {
        return Ok(found);
    }
    let lsn = |i: usize| at(i).and_then(|t| t.parse::<Lsn>().ok());
    let (Some(confirmed), Some(replayed)) = (lsn(0), lsn(2)) else { return Ok(found) };
    found.covered = replayed >= confirmed;
    if replayed > confirmed {
        let sql = format!("SELECT pg_replication_slot_advance('{LOSS_SLOT}', '{replayed}')");
        execute(connection, sql, PATIENCE).await?;
    }
    Ok(found)
}
