//! The last-good file: what a router starts from when the registry does not answer.
//!
//! A snapshot and beside it a journal, so that one change does not rewrite a million tenants:
//!
//! ```text
//! FILE            domicile last-good 1        FILE.journal    domicile last-good journal 1 <id>
//!                 {mark, id, count}                           <length> <sha256>
//!                 <key> <modified> <length>                   {mark}
//!                 <value>                                     + <key> <modified> <length>
//!                 …                                           <value>
//!                 end <sha256>                                - <key>
//!                                                             …
//! ```
//!
//! The snapshot is replaced as a whole (written aside, synced, renamed); the journal is appended to and synced before
//! what it says may be acknowledged. Its last frame may be torn by a crash: it was never acknowledged and is dropped.
//! Anything else that does not add up is refused whole. Values stand there as the registry holds them; those that the
//! table refused are left out, so that after a restart the older value stands as before.

mod format;
mod keeper;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::BootTime;
use domicile_store::{Header, Listing};
use tokio::sync::Notify;

use crate::table::RoutingTable;
pub(crate) use format::Mark;
pub(crate) use keeper::Keeper;
pub(crate) use writer::{Job, Writer, kept};

/// Why a last-good file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file system said no.
    #[error("the last-good file {path} can't be {doing}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("the last-good file {path} is in use by another process: give each router a file of its own")]
    InUse {
        /// The file.
        path: String,
    },
    /// It is something else, and will not be overwritten.
    #[error("{path} is not a last-good file of domicile, and is left alone: name another one")]
    Foreign {
        /// The file.
        path: String,
    },
    /// It is ours, and can't be read.
    #[error("the last-good file {path} is refused: {why}")]
    Refused {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

/// The files of one router, held by this process alone.
#[derive(Debug)]
pub(crate) struct LastGood {
    path: PathBuf,
    _lock: File,
}

/// What was found on disk.
pub(crate) struct Loaded {
    pub(crate) table: RoutingTable,
    /// Since it was last written, by the wall clock: for people.
    pub(crate) age: Duration,
}

pub(crate) fn io<'p>(
    path: &'p Path,
    doing: &'static str,
) -> impl FnOnce(std::io::Error) -> LastGoodError + use<'p> {
    move |source| LastGoodError::Io { path: path.display().to_string(), doing, source }
}

impl LastGood {
    /// Takes the file for this process.
    ///
    /// # Errors
    /// When another process has it, it is something else, or its folder can't be used.
    pub(crate) fn claim(path: PathBuf) -> Result<Self, LastGoodError> {
        let lock_path = beside(&path, "lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&path, "locked"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(LastGoodError::InUse { path: path.display().to_string() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(io(&path, "locked")(source)),
        }
        if !format::is_ours(&path).map_err(io(&path, "read"))? {
            return Err(LastGoodError::Foreign { path: path.display().to_string() });
        }
        Ok(Self { path, _lock: lock })
    }

    /// Starts to keep the files up.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub(crate) fn writer(self: &Arc<Self>, relist: Arc<Notify>) -> Result<Writer, LastGoodError> {
        Writer::start(self.clone(), relist).map_err(io(&self.path, "kept up"))
    }

    fn journal(&self) -> PathBuf {
        beside(&self.path, "journal")
    }

    /// What the last run left; none if there is no file yet.
    ///
    /// # Errors
    /// When it is torn or of another version.
    pub(crate) fn load(&self, now: BootTime) -> Result<Option<Loaded>, LastGoodError> {
        let Some(content) = format::load(&self.path, &self.journal())? else { return Ok(None) };
        let written = [self.path.clone(), self.journal()]
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok()?.modified().ok())
            .max();
        let age = written.and_then(|at| at.elapsed().ok()).unwrap_or_default();
        let header = Header { cluster: content.mark.cluster, revision: content.mark.applied };
        let listing = Listing { header, entries: content.entries.into_values().collect() };
        Ok(Some(Loaded { table: RoutingTable::restored(&listing, content.mark, now), age }))
    }

    /// Moves a file that was refused out of the way, for whoever wants to look at it.
    pub(crate) fn set_aside(&self) {
        for path in [self.path.clone(), self.journal()] {
            match std::fs::rename(&path, beside(&path, "refused")) {
                Err(why) if why.kind() != ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), %why, "a refused file could not be moved aside");
                }
                _ => {}
            }
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}
