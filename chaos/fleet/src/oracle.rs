//! What became of the writes, by the databases' own word; and the numbers of a phase.
//!
//! Pure, but for [`stored`], which reads a database directly, around all routers and applications.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use domicile_api::agent::LossReport;
use domicile_model::invariants::{Acknowledged, Broken, one_writer};
use domicile_model::{CellId, Epoch};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};

use crate::fleet::file::DatabaseAccess;
use crate::load::record::{Outcome, Record};

mod exports;

use exports::digest;
pub use exports::{Export, exported, not_exported};

/// What a database holds: content by (tenant, key).
pub type Stored = BTreeMap<(String, String), String>;

/// Reads every encounter of a database.
///
/// # Errors
/// When it can't be reached.
pub async fn stored(database: &DatabaseAccess) -> anyhow::Result<Stored> {
    let mut connection = connect(database).await?;
    let rows = sqlx::query("SELECT tenant_id, key, content FROM public.encounters")
        .fetch_all(&mut connection)
        .await
        .with_context(|| format!("the database of {} in {} can't be read", database.cell, database.region))?;
    rows.into_iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect()
}

/// The database's `system_identifier` and the timeline that it writes.
///
/// # Errors
/// When it can't be reached, or is no primary.
pub async fn identity(database: &DatabaseAccess) -> anyhow::Result<(String, u32)> {
    let mut connection = connect(database).await?;
    let row = sqlx::query(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()),
         pg_walfile_name(pg_current_wal_insert_lsn())",
    )
    .fetch_one(&mut connection)
    .await
    .with_context(|| format!("the database of {} in {} is no primary", database.cell, database.region))?;
    let segment: String = row.try_get(1)?;
    let timeline = segment.get(..8).and_then(|t| u32::from_str_radix(t, 16).ok()).context("no timeline")?;
    Ok((row.try_get(0)?, timeline))
}

/// A connection around everything of ours, as the application's role.
///
/// # Errors
/// When there is none to be had.
pub async fn connect(database: &DatabaseAccess) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::new()
        .host(&database.address.ip().to_string())
        .port(database.address.port())
        .database(&database.name)
        .username(&database.user)
        .password(&database.password.read()?);
    PgConnection::connect_with(&options)
        .await
        .with_context(|| format!("the database of {} in {} can't be reached", database.cell, database.region))
}

/// The acknowledged writes that are not there, key and content.
#[must_use]
pub fn lost<'a>(records: &'a [Record], stored: &Stored) -> Vec<&'a Record> {
    let there = |r: &Record| stored.get(&(r.tenant.clone(), r.key.clone())) == Some(&r.content);
    records.iter().filter(|r| r.acknowledged() && !there(r)).collect()
}

/// *One writer*, of everything that was acknowledged.
///
/// # Errors
/// The first pair that breaks it.
pub fn check_one_writer(records: &[Record]) -> Result<(), Broken> {
    let log: Vec<Acknowledged> = records
        .iter()
        .filter(|r| r.acknowledged())
        .filter_map(|r| {
            let cell = CellId::new(&r.cell).ok()?;
            Some(Acknowledged { cell, epoch: Epoch(r.answer()?.epoch), sent: r.sent, answered: r.ended })
        })
        .collect();
    one_writer(&log)
}

/// How many rows workers of `cell` have written under this epoch or a newer one, as far as they may say so.
#[must_use]
pub fn jobs(records: &[Record], cell: &str, epoch: u64) -> u64 {
    let jobs = records.iter().filter(|r| r.kind == crate::load::Kind::Job && r.cell == cell);
    jobs.filter_map(Record::answer).filter(|a| a.epoch >= epoch).count() as u64
}

/// How the listed transactions relate to what the users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listed {
    /// Acknowledged, and lost.
    pub acknowledged: u64,
    /// Never answered, or answered in a way that left it open.
    pub unanswered: u64,
    /// Unknown to every user.
    pub unknown: u64,
}

/// Looks every listed transaction up among the writes; the keys for that stand in what was exported.
#[must_use]
pub fn classify(report: &LossReport, exports: &[Export], records: &[Record]) -> Listed {
    let (mut acknowledged, mut open) = (BTreeSet::new(), BTreeSet::new());
    for record in records {
        // Nothing was exported of that tenant: then nothing of it may be listed.
        let Some(digest) = digest(exports, record) else { continue };
        if record.acknowledged() {
            acknowledged.insert(digest);
        } else if record.kind != crate::load::Kind::Read && !record.outcome.surely_not_written() {
            open.insert(digest);
        }
    }
    let mut listed = Listed::default();
    for transaction in &report.transactions {
        let keys: Vec<&String> = transaction.changes.iter().filter_map(|c| c.key_digest.as_ref()).collect();
        if keys.iter().any(|k| acknowledged.contains(*k)) {
            listed.acknowledged += 1;
        } else if keys.iter().any(|k| open.contains(*k)) {
            listed.unanswered += 1;
        } else {
            listed.unknown += 1;
        }
    }
    listed
}

/// The numbers of a phase.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Numbers {
    /// Requests that users sent.
    pub requests: u64,
    /// Of them not answered as expected within 10 s.
    pub requests_failed: u64,
    /// Writes acknowledged, those of workers among them.
    pub writes_acknowledged: u64,
    /// Per writer of the cell, the longest gap between two acknowledgements: the middle one of all writers.
    pub write_pause_ms_p50: f64,
    /// The longest of all.
    pub write_pause_ms_max: f64,
    /// Reads, from their intended start, p99.
    pub read_ms_p99: f64,
}

/// Counts a phase. The pauses are those of `cell`'s writers.
#[must_use]
pub fn numbers(records: &[Record], cell: &str) -> Numbers {
    let mut pauses = pauses(records, cell);
    pauses.sort_by(f64::total_cmp);
    let mut reads: Vec<f64> = records
        .iter()
        .filter(|r| r.kind == crate::load::Kind::Read)
        .map(|r| millis(r.ended.saturating_sub(r.intended)))
        .collect();
    reads.sort_by(f64::total_cmp);
    Numbers {
        requests: records.iter().filter(|r| r.by_user()).count() as u64,
        requests_failed: records.iter().filter(|r| r.by_user() && r.failed()).count() as u64,
        writes_acknowledged: records.iter().filter(|r| r.acknowledged()).count() as u64,
        write_pause_ms_p50: quantile(&pauses, 50),
        write_pause_ms_max: pauses.last().copied().unwrap_or(0.0),
        read_ms_p99: quantile(&reads, 99),
    }
}

/// Per writer of the cell, the longest gap between two acknowledgements, in milliseconds.
#[must_use]
pub fn pauses(records: &[Record], cell: &str) -> Vec<f64> {
    let mut by_writer: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.cell == cell && r.acknowledged()) {
        if let Some(writer) = record.writer {
            by_writer.entry(writer).or_default().push(record.ended);
        }
    }
    let longest = |mut times: Vec<u64>| {
        times.sort_unstable();
        times.windows(2).map(|w| millis(w[1] - w[0])).fold(0.0, f64::max)
    };
    by_writer.into_values().map(longest).collect()
}

/// The smallest value that at least this many percent do not exceed; 0 of nothing.
#[must_use]
pub fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * percent).div_ceil(100)).copied().unwrap_or(0.0)
}

/// Nanoseconds as milliseconds, to the microsecond.
#[must_use]
pub fn millis(nanos: u64) -> f64 {
    (nanos / 1_000) as f64 / 1_000.0
}

/// Data and time lost by a forced move, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// From the last write that was acknowledged before the move and survived, to the last acknowledged before it.
    pub rpo_ms: f64,
    /// From the first request of the cell that failed or waited, to the first write that succeeded afterwards.
    pub rto_ms: Option<f64>,
}

/// What a forced move of `cell` cost. `killed` is when its region was killed.
#[must_use]
pub fn cost(records: &[Record], cell: &str, killed: u64, stored: &Stored) -> Cost {
    let mine: Vec<&Record> = records.iter().filter(|r| r.cell == cell && r.by_user()).collect();
    let first_epoch = mine.iter().filter_map(|r| r.answer()).map(|a| a.epoch).min().unwrap_or(0);
    let before =
        mine.iter().filter(|r| r.acknowledged() && r.answer().is_some_and(|a| a.epoch == first_epoch));
    let (mut last, mut survived) = (0, 0);
    for record in before {
        last = last.max(record.ended);
        if stored.get(&(record.tenant.clone(), record.key.clone())) == Some(&record.content) {
            survived = survived.max(record.ended);
        }
    }
    let trouble =
        mine.iter().filter(|r| r.ended >= killed && (r.failed() || r.ended - r.sent > 1_000_000_000));
    let began = trouble.map(|r| r.sent.max(killed)).min();
    let served = mine
        .iter()
        .filter(|r| r.acknowledged() && r.answer().is_some_and(|a| a.epoch > first_epoch))
        .map(|r| r.ended)
        .min();
    let rto_ms = began.zip(served).map(|(began, served)| millis(served.saturating_sub(began)));
    Cost { rpo_ms: millis(last.saturating_sub(survived)), rto_ms }
}

/// The failures by kind, for people: how many of each, and one of them in full.
#[must_use]
pub fn failures(records: &[Record]) -> Vec<String> {
    let mut kinds: BTreeMap<String, (usize, &Record)> = BTreeMap::new();
    for record in records.iter().filter(|r| r.by_user() && r.failed()) {
        let kind = match &record.outcome {
            Outcome::Refused { status, .. } => format!("status {status}"),
            Outcome::Unanswered { .. } => "no answer".to_owned(),
            Outcome::Fine(_) => continue,
        };
        kinds.entry(format!("{} {kind}", record.cell)).or_insert((0, record)).0 += 1;
    }
    kinds.into_iter().map(|(kind, (n, record))| format!("{n} × {kind}, as {record:?}")).collect()
}

#[cfg(test)]
mod tests;
