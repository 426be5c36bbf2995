//! Bytes: snapshot and journal, written and read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use domicile_model::{CellId, Epoch, Revision};
use domicile_store::{Change, Entry, Key};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{LastGoodError, beside, io};

const FAMILY: &str = "domicile last-good ";
const SNAPSHOT: &str = "domicile last-good 1";
const JOURNAL: &str = "domicile last-good journal 1 ";

/// What belongs to a table besides its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) cluster: u64,
    pub(crate) applied: Revision,
    pub(crate) diverged: Option<Arc<str>>,
    pub(crate) floors: BTreeMap<CellId, Epoch>,
    pub(crate) doubts: BTreeMap<CellId, Arc<str>>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    mark: Mark,
    /// Ties the journal to this snapshot.
    id: String,
    count: usize,
}

/// Snapshot and journal together.
pub(crate) struct Content {
    pub(crate) mark: Mark,
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// Bytes of the journal.
    pub(crate) journal: u64,
}

/// Whether a path is free or holds a file of this family, of whatever version.
pub(super) fn is_ours(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FAMILY.len() as u64).read_to_end(&mut start)?,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(true),
        Err(why) => return Err(why),
    };
    Ok(start == FAMILY.as_bytes())
}

/// Sums up what goes through.
struct Summed<W> {
    inner: W,
    sum: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Replaces snapshot and journal. Returns the new journal, to be appended to, and the snapshot's size in bytes.
pub(super) fn replace<'e>(
    path: &Path,
    mark: &Mark,
    entries: impl ExactSizeIterator<Item = &'e Entry>,
) -> Result<(File, u64), LastGoodError> {
    let id = format!("{:032x}", rand::random::<u128>());
    let temporary = beside(path, "new");
    let size = write_snapshot(&temporary, &id, mark, entries).map_err(io(path, "written"))?;
    std::fs::rename(&temporary, path).map_err(io(path, "replaced"))?;
    sync_folder(path).map_err(io(path, "synced"))?;
    // A journal of the old snapshot bears another id and is not read any more, wherever this stops.
    let journal_path = beside(path, "journal");
    let fresh = || -> std::io::Result<File> {
        let mut file = File::create(&temporary)?;
        writeln!(file, "{JOURNAL}{id}")?;
        file.sync_all()?;
        std::fs::rename(&temporary, &journal_path)?;
        sync_folder(path)?;
        File::options().append(true).open(&journal_path)
    };
    Ok((fresh().map_err(io(&journal_path, "written"))?, size))
}

fn write_snapshot<'e>(
    path: &Path,
    id: &str,
    mark: &Mark,
    entries: impl ExactSizeIterator<Item = &'e Entry>,
) -> std::io::Result<u64> {
    let file = File::create(path)?;
    let mut out = Summed { inner: BufWriter::with_capacity(1 << 20, &file), sum: Sha256::new() };
    writeln!(out, "{SNAPSHOT}")?;
    let head = Head { mark: mark.clone(), id: id.to_owned(), count: entries.len() };
    serde_json::to_writer(&mut out, &head)?;
    writeln!(out)?;
    for entry in entries {
        writeln!(out, "{} {} {}", entry.key, entry.modified, entry.value.len())?;
        out.write_all(&entry.value)?;
        writeln!(out)?;
    }
    let sum = hex::encode(out.sum.finalize());
    let mut inner = out.inner;
    writeln!(inner, "end {sum}")?;
    inner.flush()?;
    drop(inner);
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// One frame of the journal.
pub(super) fn frame<'c>(mark: &Mark, changes: impl Iterator<Item = &'c Change>) -> Vec<u8> {
    // Plain data: it can't fail. If it did, the frame would be refused on reading, not half-read.
    let mut payload = serde_json::to_vec(mark).unwrap_or_default();
    payload.push(b'\n');
    for change in changes {
        match change {
            Change::Put(entry) => {
                let line = format!("+ {} {} {}\n", entry.key, entry.modified, entry.value.len());
                payload.extend_from_slice(line.as_bytes());
                payload.extend_from_slice(&entry.value);
                payload.push(b'\n');
            }
            Change::Delete(key, _) => payload.extend_from_slice(format!("- {key}\n").as_bytes()),
        }
    }
    let head = format!("{} {}", payload.len(), hex::encode(Sha256::digest(&payload)));
    let mut frame = format!("{head} {}\n", check(&head)).into_bytes();
    frame.extend_from_slice(&payload);
    frame
}

/// Of a frame's own first line: a damaged length must not pass for a frame that a crash cut short.
fn check(head: &str) -> String {
    hex::encode(&Sha256::digest(head.as_bytes())[..8])
}

/// A reader over bytes in memory that refuses instead of panicking.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn line(&mut self) -> Option<&'b str> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&self.0[..end]).ok()?;
        self.0 = &self.0[end + 1..];
        Some(line)
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// `<key> <modified> <length>`, already read, and the value behind it.
    fn entry(&mut self, line: &str) -> Option<Entry> {
        let mut parts = line.split(' ');
        let key: Key = parts.next()?.parse().ok()?;
        let modified = Revision(parts.next()?.parse().ok()?);
        let value = self.take(parts.next()?.parse().ok()?)?.to_vec();
        let ended = self.take(1)? == b"\n" && parts.next().is_none();
        ended.then_some(Entry { key, value, created: modified, modified })
    }
}

/// Reads snapshot and journal; none if there is no snapshot.
pub(super) fn load(path: &Path, journal_path: &Path) -> Result<Option<Content>, LastGoodError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let refused = |path: &Path, why: &str| LastGoodError::Refused {
        path: path.display().to_string(),
        why: why.to_owned(),
    };
    let (head, entries) = snapshot(&bytes).map_err(|why| refused(path, why))?;
    let mut content = Content { mark: head.mark, entries, journal: 0 };
    if let Some(bytes) = read(journal_path)? {
        content.journal = bytes.len() as u64;
        replay(&bytes, &head.id, &mut content).map_err(|why| refused(journal_path, why))?;
    }
    Ok(Some(content))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LastGoodError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(io(path, "read")(why)),
    }
}

fn snapshot(bytes: &[u8]) -> Result<(Head, BTreeMap<Key, Entry>), &'static str> {
    const TORN: &str = "it is torn or damaged";
    let mut rest = Bytes(bytes);
    if rest.line().ok_or(TORN)? != SNAPSHOT {
        return Err("it is of another version");
    }
    // "end ", 64 digits, and the end of the line.
    let body = bytes.len().checked_sub(69).ok_or(TORN)?;
    let end = std::str::from_utf8(&bytes[body..]).map_err(|_| TORN)?;
    let sum = end.strip_prefix("end ").and_then(|sum| sum.strip_suffix('\n')).ok_or(TORN)?;
    if hex::encode(Sha256::digest(&bytes[..body])) != sum {
        return Err(TORN);
    }
    let head: Head = serde_json::from_str(rest.line().ok_or(TORN)?).map_err(|_| TORN)?;
    let mut entries = BTreeMap::new();
    for _ in 0..head.count {
        let line = rest.line().ok_or(TORN)?;
        let entry = rest.entry(line).ok_or(TORN)?;
        entries.insert(entry.key.clone(), entry);
    }
    if rest.0.len() == 69 { Ok((head, entries)) } else { Err(TORN) }
}

fn replay(bytes: &[u8], id: &str, content: &mut Content) -> Result<(), &'static str> {
    const DAMAGED: &str = "it is damaged in the middle";
    let mut rest = Bytes(bytes);
    let Some(first) = rest.line() else {
        // Cut within its first line: nothing was in it yet.
        return Ok(());
    };
    if first.strip_prefix(JOURNAL) != Some(id) {
        // Of an older snapshot: everything in it is in this one.
        return Ok(());
    }
    while !rest.0.is_empty() {
        let Some(line) = rest.line() else {
            // The crash came while the first line was written.
            return if rest.0.contains(&b'\n') { Err(DAMAGED) } else { Ok(()) };
        };
        let head = line.rsplit_once(' ').filter(|(head, sum)| check(head) == *sum).map(|(head, _)| head);
        let (length, sum) = head.and_then(|head| head.split_once(' ')).ok_or(DAMAGED)?;
        let length: usize = length.parse().map_err(|_| DAMAGED)?;
        let Some(payload) = rest.take(length) else {
            // Longer than what is left: the crash came while it was written.
            return Ok(());
        };
        if hex::encode(Sha256::digest(payload)) != sum {
            // At the very end its blocks may have come to the disk in another order than they were written.
            return if rest.0.is_empty() { Ok(()) } else { Err(DAMAGED) };
        }
        apply_frame(payload, content).ok_or(DAMAGED)?;
    }
    Ok(())
}

fn apply_frame(payload: &[u8], content: &mut Content) -> Option<()> {
    let mut rest = Bytes(payload);
    content.mark = serde_json::from_str(rest.line()?).ok()?;
    while !rest.0.is_empty() {
        let line = rest.line()?;
        if let Some(line) = line.strip_prefix("+ ") {
            let entry = rest.entry(line)?;
            content.entries.insert(entry.key.clone(), entry);
        } else {
            content.entries.remove(&line.strip_prefix("- ")?.parse().ok()?);
        }
    }
    Some(())
}
