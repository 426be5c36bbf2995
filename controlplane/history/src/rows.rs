//! What is asked of the history. Every answer has an order that does not depend on when a batch came: two copies that hold the same
//! batches answer the same.

use std::collections::BTreeMap;

use domicile_facts::{ClockBound, Fact, Head, Minute};
use domicile_model::{RegionId, Role, RouterId, TenantId};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use crate::batches::whole;
use crate::{History, HistoryError};

/// What one router saw of one tenant in one region in one minute. A minute may have several: late ends, and lives of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Who saw it.
    pub router: RouterId,
    /// As what.
    pub role: Role,
    /// Where that one stands; there TLS ended of what it has decrypted.
    pub at: RegionId,
    /// When.
    pub minute: Minute,
    /// How far its clock was off when it was last compared; none: it never was.
    pub clock: Option<ClockBound>,
    /// What.
    pub fact: Fact,
}

/// In which minutes anybody has told anything, and who.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// By router, its minutes.
    pub routers: BTreeMap<RouterId, Vec<Minute>>,
}

/// How much there is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Batches.
    pub batches: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The oldest minute.
    pub oldest: Option<Minute>,
    /// The newest one.
    pub newest: Option<Minute>,
}

impl History {
    /// What a tenant saw from a minute on and before another one; without a tenant, what found no room of its own.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn rows(
        &self,
        tenant: Option<&TenantId>,
        from: Minute,
        to: Minute,
    ) -> Result<Vec<Row>, HistoryError> {
        let found = sqlx::query(
            "SELECT b.head, f.fact FROM facts f JOIN batches b ON b.seq = f.batch \
             WHERE f.tenant IS ? AND f.minute >= ? AND f.minute < ? \
             ORDER BY f.minute, b.router, b.boot, b.number, f.n",
        )
        .bind(tenant.map(ToString::to_string))
        .bind(whole(from.0))
        .bind(whole(to.0))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.failed(e))?;
        let row = |row: &sqlx::sqlite::SqliteRow| {
            let head: Head = self.read_json(row.get(0))?;
            let fact = self.read_json(row.get(1))?;
            let Head { id, role, region: at, minute, clock, .. } = head;
            Ok(Row { router: id.router, role, at, minute, clock, fact })
        };
        found.iter().map(row).collect()
    }

    /// Who has told anything from a minute on and before another one.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn coverage(&self, from: Minute, to: Minute) -> Result<Coverage, HistoryError> {
        let found = sqlx::query(
            "SELECT DISTINCT router, minute FROM batches WHERE minute >= ? AND minute < ? ORDER BY router, minute",
        )
        .bind(whole(from.0))
        .bind(whole(to.0))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.failed(e))?;
        let mut coverage = Coverage::default();
        for row in found {
            let (router, minute): (String, i64) = (row.get(0), row.get(1));
            let router = self.read_json(&serde_json::Value::String(router).to_string())?;
            coverage.routers.entry(router).or_default().push(Minute(minute.unsigned_abs()));
        }
        Ok(coverage)
    }

    /// How much there is.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn size(&self) -> Result<Size, HistoryError> {
        let row = sqlx::query("SELECT count(*), min(minute), max(minute) FROM batches")
            .fetch_one(&self.readers)
            .await
            .map_err(|e| self.failed(e))?;
        let minute = |minute: Option<i64>| minute.map(|m| Minute(m.unsigned_abs()));
        let bytes = std::fs::metadata(&self.path).map_or(0, |about| about.len());
        Ok(Size {
            batches: row.get::<i64, _>(0).unsigned_abs(),
            bytes,
            oldest: minute(row.get(1)),
            newest: minute(row.get(2)),
        })
    }
}
