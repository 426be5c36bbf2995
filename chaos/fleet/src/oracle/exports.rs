//! What was exported of a loss: decrypted with the fleet's key and compared with what the users know.

use std::path::Path;

use anyhow::Context;
use domicile_api::agent::LossReport;
use domicile_losses::{Header, KeyFile, Operation, Reader, Row};
use sha2::{Digest, Sha256};

use crate::load::record::Record;

/// The exported rows of one tenant.
#[derive(Debug, Clone)]
pub struct Export {
    /// Whose, and of what.
    pub header: Header,
    /// In the order of their commits.
    pub rows: Vec<Row>,
}

/// Decrypts everything that a move exported to this directory.
///
/// # Errors
/// When a file is missing, is not the one that the report names, is not whole, or is of another move.
pub fn exported(report: &LossReport, directory: &Path, key: &KeyFile) -> anyhow::Result<Vec<Export>> {
    let one = |part: &domicile_api::agent::LossPart| {
        let path = directory.join(&part.file);
        let bytes = std::fs::read(&path).with_context(|| format!("{} can't be read", path.display()))?;
        anyhow::ensure!(hex::encode(Sha256::digest(&bytes)) == part.sha256, "{} was changed", path.display());
        let reader = Reader::open(&bytes[..], key)?;
        let header = reader.header().clone();
        anyhow::ensure!(header.moving == report.moving, "{} is of another move", path.display());
        let rows = reader.collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(rows.len() as u64 == part.rows, "{} has other rows", path.display());
        Ok(Export { header, rows })
    };
    report.parts.iter().map(one).collect()
}

/// Of these writes those that are not among the exported rows, key and content.
#[must_use]
pub fn not_exported<'a>(lost: &[&'a Record], exports: &[Export]) -> Vec<&'a Record> {
    let written = |row: &Row, record: &Record| {
        let column = |name: &str| row.new.as_ref().and_then(|new| new.get(name)?.as_deref());
        row.operation != Operation::Delete
            && column("key") == Some(&record.key)
            && column("content") == Some(&record.content)
    };
    let there = |record: &Record| {
        let mine = exports.iter().filter(|export| export.header.part == record.tenant);
        mine.flat_map(|export| &export.rows).any(|row| written(row, record))
    };
    lost.iter().copied().filter(|record| !there(record)).collect()
}

/// The digest under which the list names a row of ours; none if nothing was exported of its tenant.
pub(super) fn digest(exports: &[Export], record: &Record) -> Option<String> {
    let export = exports.iter().find(|export| export.header.part == record.tenant)?;
    let columns = [("key", &record.key), ("tenant_id", &record.tenant)];
    let columns = columns.map(|(name, value)| (name.to_owned(), value.clone())).into();
    Some(export.header.key()?.digest("public.encounters", &columns))
}
