//! The directory that lost rows are exported to: a directory for each move, in it a file for each tenant and the list.
//! It comes into being in one step, complete and synced, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use domicile_api::agent::{ExportPlace, Fork, LossPart, LossReport};
use domicile_losses::{DigestKey, Header, LossFileError, Row, VERSION, Writer};
use domicile_model::{CellId, MoveId};
use sha2::{Digest, Sha256};

use super::collector::{Part, part_name};
use crate::config::LossExport;
use crate::failure::Failure;
use crate::os::{Owner, sync_dir};

/// Files written at the same time; more tenants than this take further passes over the log. Each holds some 130 KiB.
const MOST_OPEN: usize = 128;
/// The list beside the files, without rows.
const LIST: &str = "list.json";

/// A file and the hash of what was written to it.
struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What an export is of.
#[derive(Debug, Clone)]
pub(super) struct Of {
    pub(super) cell: CellId,
    pub(super) moving: MoveId,
    pub(super) fork: Fork,
}

/// An export that is being written.
pub(super) struct Export<'a> {
    config: &'a LossExport,
    owner: &'a Owner,
    of: Of,
    keys: DigestKey,
    open: BTreeMap<Part, Writer<Hashed>>,
    done: BTreeMap<Part, LossPart>,
    /// Parts that found no room in this pass.
    deferred: BTreeSet<Part>,
}

/// The directory of a move's export.
pub(super) fn directory(config: &LossExport, cell: &CellId, moving: MoveId) -> PathBuf {
    config.directory.join(cell.as_str()).join(moving.to_string())
}

/// What the control plane is told of the place.
pub(crate) fn told(config: &LossExport) -> ExportPlace {
    let problem = (!config.directory.is_dir()).then(|| missing(&config.directory));
    ExportPlace { country: config.country, recipient: config.recipient.to_string(), problem }
}

fn missing(directory: &Path) -> String {
    format!(
        "the directory for lost rows, {}, is not there: mount or make it (it is never made, so that nothing lands beside a mount)",
        directory.display()
    )
}

/// The list of an export that is complete, from a run before.
pub(super) fn finished(config: &LossExport, of: &Of) -> Result<Option<LossReport>, Failure> {
    let path = directory(config, &of.cell, of.moving).join(LIST);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::machine(format!("{} can't be read: {e}", path.display()))),
    };
    let report: LossReport = serde_json::from_slice(&bytes)
        .map_err(|e| Failure::machine(format!("{} is damaged: {e}", path.display())))?;
    if report.fork != of.fork || report.moving != of.moving {
        return Err(Failure::refused(
            "other-export",
            format!("{} is of another fork than the order's", path.display()),
        )
        .hint("it is kept: move it away if it is not of this cell's servers, then retry"));
    }
    Ok(Some(report))
}

impl<'a> Export<'a> {
    /// Begins anew: what an earlier run left unfinished goes.
    pub(super) fn begin(config: &'a LossExport, owner: &'a Owner, of: Of) -> Result<Self, Failure> {
        if !config.directory.is_dir() {
            return Err(Failure::refused("no-loss-store", missing(&config.directory)));
        }
        let keys = DigestKey::random().map_err(|e| Failure::machine(e.to_string()))?;
        let export = Self {
            config,
            owner,
            of,
            keys,
            open: BTreeMap::new(),
            done: BTreeMap::new(),
            deferred: BTreeSet::new(),
        };
        let staging = export.staging();
        match std::fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::machine(format!("{} can't be removed: {e}", staging.display())));
            }
            _ => {}
        }
        export.owner.dir(&export.config.directory.join(export.of.cell.as_str()))?;
        export.owner.dir(&staging)?;
        Ok(export)
    }

    fn staging(&self) -> PathBuf {
        self.config.directory.join(self.of.cell.as_str()).join(format!(".{}.part", self.of.moving))
    }

    /// The key of the digests of a part.
    pub(super) fn digests(&self, part: &Part) -> DigestKey {
        self.keys.of_part(part_name(part))
    }

    /// Writes a row to its part, unless that is complete or waits for another pass.
    pub(super) fn row(&mut self, part: &Part, row: &Row) -> Result<(), Failure> {
        if self.done.contains_key(part) || self.deferred.contains(part) {
            return Ok(());
        }
        if !self.open.contains_key(part) {
            if self.open.len() >= MOST_OPEN {
                self.deferred.insert(part.clone());
                return Ok(());
            }
            let writer = self.create(part)?;
            self.open.insert(part.clone(), writer);
        }
        match self.open.get_mut(part).map(|writer| writer.row(row)) {
            Some(Err(e)) => Err(self.failed(part, &e)),
            _ => Ok(()),
        }
    }

    fn path(&self, part: &Part) -> PathBuf {
        self.staging().join(file_name(part))
    }

    fn failed(&self, part: &Part, error: &LossFileError) -> Failure {
        let failure = Failure::machine(format!("{} can't be written: {error}", self.path(part).display()));
        match error {
            LossFileError::Io(e) if e.kind() == io::ErrorKind::StorageFull => {
                failure.hint("the disk for lost rows is full: make room there, then retry")
            }
            _ => failure,
        }
    }

    fn create(&self, part: &Part) -> Result<Writer<Hashed>, Failure> {
        let path = self.path(part);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| self.failed(part, &e.into()))?;
        self.owner.own(&path)?;
        let out = Hashed { file: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
        let header = Header {
            domicile_losses: VERSION,
            moving: self.of.moving,
            cell: self.of.cell.clone(),
            part: part_name(part).to_owned(),
            timeline: self.of.fork.parent,
            fork: self.of.fork.at,
            digest_key: self.digests(part).to_hex(),
        };
        Writer::new(out, &self.config.recipient, &header).map_err(|e| self.failed(part, &e))
    }

    /// Ends the files of this pass, on disk; whether another one is needed.
    pub(super) fn end_pass(&mut self) -> Result<bool, Failure> {
        for (part, writer) in std::mem::take(&mut self.open) {
            let (out, rows) = writer.finish().map_err(|e| self.failed(&part, &e))?;
            out.file
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .map_err(|e| self.failed(&part, &e.into()))?;
            let done = LossPart {
                tenant: part.clone(),
                file: file_name(&part),
                rows,
                bytes: out.bytes,
                sha256: hex::encode(out.hash.finalize()),
            };
            self.done.insert(part, done);
        }
        Ok(!std::mem::take(&mut self.deferred).is_empty())
    }

    /// The files that are complete.
    pub(super) fn parts(&self) -> Vec<LossPart> {
        self.done.values().cloned().collect()
    }

    /// Puts the export in place with its list, in one step.
    pub(super) fn commit(self, report: &LossReport) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(report).map_err(|e| Failure::machine(e.to_string()))?;
        let staging = self.staging();
        self.owner.write(&staging.join(LIST), &bytes)?;
        sync_dir(&staging)?;
        let place = directory(self.config, &self.of.cell, self.of.moving);
        std::fs::rename(&staging, &place)
            .map_err(|e| Failure::machine(format!("{} can't be put in place: {e}", place.display())))?;
        if let Some(parent) = place.parent() {
            sync_dir(parent)?;
        }
        sync_dir(&self.config.directory)?;
        Ok(())
    }
}

fn file_name(part: &Part) -> String {
    format!("{}.jsonl.age", part_name(part))
}
