//! Batches: taken once each, given back as they were told, forgotten when they are old.

use domicile_facts::{Batch, BatchId, Fact, Head, Minute};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::Row as _;

use crate::{History, HistoryError};

/// Batches that are forgotten in one transaction: whoever writes meanwhile waits that long.
const AT_ONCE: i64 = 200;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// It is kept from now on.
    New,
    /// It was here already.
    Already,
    /// Another one of its name was here, and stays.
    Differs,
}

/// How far somebody has read, in the order in which this copy took batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub i64);

impl History {
    /// Takes a batch, whole or not at all. When this returns it is on the disk.
    ///
    /// # Errors
    /// When the database refuses; nothing of it is kept then.
    pub async fn store(&self, batch: &Batch) -> Result<Stored, HistoryError> {
        let digest = Sha256::digest(batch.encode()).to_vec();
        let id = &batch.head.id;
        let (router, boot, number) = key(id);
        let failed = |source| self.failed(source);
        let mut txn = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let known: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT digest FROM batches WHERE router = ? AND boot = ? AND number = ?")
                .bind(&router)
                .bind(&boot)
                .bind(number)
                .fetch_optional(&mut *txn)
                .await
                .map_err(failed)?;
        if let Some(known) = known {
            return Ok(if known == digest { Stored::Already } else { Stored::Differs });
        }
        let minute = whole(batch.head.minute.0);
        let seq = sqlx::query(
            "INSERT INTO batches (router, boot, number, minute, head, digest) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(router)
        .bind(boot)
        .bind(number)
        .bind(minute)
        .bind(self.json(&batch.head)?)
        .bind(digest)
        .execute(&mut *txn)
        .await
        .map_err(failed)?
        .last_insert_rowid();
        for (n, fact) in batch.facts.iter().enumerate() {
            sqlx::query("INSERT INTO facts (batch, n, tenant, minute, fact) VALUES (?, ?, ?, ?, ?)")
                .bind(seq)
                .bind(whole(n as u64))
                .bind(fact.tenant.as_ref().map(ToString::to_string))
                .bind(minute)
                .bind(self.json(fact)?)
                .execute(&mut *txn)
                .await
                .map_err(failed)?;
        }
        txn.commit().await.map_err(failed)?;
        Ok(Stored::New)
    }

    /// A batch, as it was told.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn batch(&self, id: &BatchId) -> Result<Option<Batch>, HistoryError> {
        let failed = |source| self.failed(source);
        let (router, boot, number) = key(id);
        let mut txn = self.readers.begin().await.map_err(failed)?;
        let found = sqlx::query("SELECT seq, head FROM batches WHERE router = ? AND boot = ? AND number = ?")
            .bind(router)
            .bind(boot)
            .bind(number)
            .fetch_optional(&mut *txn)
            .await
            .map_err(failed)?;
        let Some(found) = found else { return Ok(None) };
        let (seq, head): (i64, String) = (found.get(0), found.get(1));
        let facts: Vec<String> = sqlx::query_scalar("SELECT fact FROM facts WHERE batch = ? ORDER BY n")
            .bind(seq)
            .fetch_all(&mut *txn)
            .await
            .map_err(failed)?;
        let head: Head = self.read_json(&head)?;
        let facts = facts.iter().map(|fact| self.read_json::<Fact>(fact)).collect::<Result<_, _>>()?;
        Ok(Some(Batch { head, facts }))
    }

    /// The names of what this copy took after that, in its order, at most so many, and how far that reaches.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn taken_after(
        &self,
        after: Cursor,
        most: u32,
    ) -> Result<(Vec<BatchId>, Cursor), HistoryError> {
        let rows = sqlx::query("SELECT seq, head FROM batches WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(after.0)
            .bind(i64::from(most))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.failed(e))?;
        let end = rows.last().map_or(after, |row| Cursor(row.get(0)));
        let ids = rows.iter().map(|row| Ok(self.read_json::<Head>(row.get(1))?.id));
        Ok((ids.collect::<Result<_, HistoryError>>()?, end))
    }

    /// Which of these are not here, in their order.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn lacks(&self, ids: &[BatchId]) -> Result<Vec<BatchId>, HistoryError> {
        let mut lacks = Vec::new();
        for id in ids {
            let (router, boot, number) = key(id);
            let found: Option<i64> =
                sqlx::query_scalar("SELECT seq FROM batches WHERE router = ? AND boot = ? AND number = ?")
                    .bind(router)
                    .bind(boot)
                    .bind(number)
                    .fetch_optional(&self.readers)
                    .await
                    .map_err(|e| self.failed(e))?;
            if found.is_none() {
                lacks.push(id.clone());
            }
        }
        Ok(lacks)
    }

    /// Forgets the minutes before this one. Returns how many batches that were.
    ///
    /// # Errors
    /// When the database refuses; some may be forgotten then.
    pub async fn forget(&self, before: Minute) -> Result<u64, HistoryError> {
        let mut forgotten = 0;
        loop {
            let gone = sqlx::query(
                "DELETE FROM batches WHERE seq IN (SELECT seq FROM batches WHERE minute < ? ORDER BY minute LIMIT ?)",
            )
            .bind(whole(before.0))
            .bind(AT_ONCE)
            .execute(&self.writer)
            .await
            .map_err(|e| self.failed(e))?
            .rows_affected();
            if gone == 0 {
                return Ok(forgotten);
            }
            forgotten += gone;
        }
    }

    fn json(&self, value: &impl Serialize) -> Result<String, HistoryError> {
        serde_json::to_string(value).map_err(|e| self.content(e.to_string()))
    }

    pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(&self, text: &str) -> Result<T, HistoryError> {
        serde_json::from_str(text).map_err(|e| self.content(e.to_string()))
    }

    fn content(&self, what: String) -> HistoryError {
        HistoryError::Content { path: self.path.clone(), what }
    }
}

fn key(id: &BatchId) -> (String, String, i64) {
    (id.router.to_string(), id.boot.to_string(), whole(id.number))
}

/// SQLite's integers have a sign.
pub(crate) fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
