//! What can go wrong with a copy of the history.

use std::path::{Path, PathBuf};

/// Why the history can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Its directory can't be used.
    #[error("the directory {path} can't be used for the history")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its file is no database, or damaged.
    #[error(
        "{path} is damaged or no history: move it away and start again; what it held is copied from another control plane"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: sqlx::Error,
    },
    /// A newer program has written it.
    #[error("{path} was written by a newer program (schema {found}, this one knows {known}): start that one")]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// The database refuses.
    #[error("the history {path} can't be read or written")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Something stands in it that was never written by this program.
    #[error("the history {path} holds what it should not: {what}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What.
        what: String,
    },
}

impl HistoryError {
    pub(crate) fn of(path: &Path, source: sqlx::Error) -> Self {
        // SQLITE_CORRUPT and SQLITE_NOTADB, with their extended codes.
        let code = source
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .and_then(|code| code.parse::<u32>().ok());
        if matches!(code.map(|code| code & 0xff), Some(11 | 26)) {
            return Self::Damaged { path: path.to_owned(), source };
        }
        Self::Database { path: path.to_owned(), source }
    }
}
