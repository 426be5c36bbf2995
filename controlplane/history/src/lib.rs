//! History: a control plane's own copy of what routers saw (SQLite, one file), and what follows from it. No decision rests on
//! it; a copy that is lost is copied from another control plane.

mod batches;
mod error;
mod rows;
pub mod rto;
mod schema;
pub mod sla;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub use batches::{Cursor, Stored};
pub use error::HistoryError;
pub use rows::{Coverage, Row, Size};

/// The name of the file in its directory.
const FILE: &str = "history.sqlite";
/// How long a statement waits for another one's lock.
const BUSY: Duration = Duration::from_secs(5);
/// Readers at once.
const READERS: u32 = 4;

/// A copy that is open.
#[derive(Debug, Clone)]
pub struct History {
    path: PathBuf,
    /// One connection: SQLite has one writer at a time, and so nobody waits in its busy loop.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl History {
    /// Opens the copy in this directory, or begins one.
    ///
    /// # Errors
    /// When the directory or the file can't be used, is damaged, or was written by a newer program. Nothing is changed then.
    pub async fn open(dir: &Path) -> Result<Self, HistoryError> {
        let path = dir.join(FILE);
        let unusable = |source: std::io::Error| HistoryError::Directory { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What is acknowledged is on the disk: the router takes it away from its own.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .foreign_keys(true);
        let failed = |source: sqlx::Error| HistoryError::of(&path, source);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        schema::migrate(&path, &writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(failed)?;
        Ok(Self { path, writer, readers })
    }

    /// Closes it: what was written is in the one file then.
    pub async fn close(self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    fn failed(&self, source: sqlx::Error) -> HistoryError {
        HistoryError::of(&self.path, source)
    }
}
