//! The backup file: lines of canonical JSON, a head, one line for each key, and a digest over all of it.
//!
//! Values are kept as the text that stood in the registry, so that what comes back is byte for byte what was there.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use domicile_model::WorldId;
use domicile_seal::canonical::canonical_of;
use domicile_seal::digest::Digest;
use domicile_store::{Key, Listing};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the format that this program writes, and the highest that it reads.
const FORMAT: u32 = 1;
/// Largest file that is read, in bytes. A registry is far smaller.
const LARGEST: u64 = 1 << 30;
/// Only its owner reads it: it names every tenant.
const MODE: u32 = 0o600;

/// The first line: what the file is a copy of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the format.
    pub format: u32,
    /// The world that it is a copy of.
    pub world: WorldId,
    /// The revision that it shows, all of it.
    pub revision: i64,
    /// When it was taken, by the wall clock: for people.
    pub at: Timestamp,
    /// How many keys.
    pub entries: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    sha256: Digest,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What it is a copy of.
    pub head: Head,
    /// Keys and values, in the order of the keys' texts.
    pub entries: Vec<(Key, Vec<u8>)>,
}

/// Why a file is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system says no.
    #[error("{path} can't be {what}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Read, written…
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what was written.
    #[error("{path} is no intact backup: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        what: String,
    },
    /// A newer program wrote it.
    #[error("{path} has format {found}, this program reads up to {FORMAT}: upgrade it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Something in the registry is no text.
    #[error(
        "the registry's key `{0}` holds something that is no text: it was damaged, or another program wrote it"
    )]
    NoText(Key),
    /// Something in the registry can't be written.
    #[error("the registry's content can't be written down: {0}")]
    Form(#[from] domicile_seal::canonical::JsonError),
}

/// Whether a key is part of a backup. Leadership and what routers say under a lease end with the processes that said
/// it.
#[must_use]
pub const fn is_kept(key: &Key) -> bool {
    !matches!(key, Key::Leader | Key::Router(_))
}

/// The text of a backup.
///
/// # Errors
/// When something has no form as text.
pub fn text(world: WorldId, listing: &Listing, at: Timestamp) -> Result<(Head, String), FileError> {
    let mut kept: Vec<_> = listing.entries.iter().filter(|e| is_kept(&e.key)).collect();
    kept.sort_by_key(|e| e.key.to_string());
    let entries = kept.len() as u64;
    let head = Head { format: FORMAT, world, revision: listing.header.revision.0, at, entries };
    let mut text = line(&head)?;
    for entry in kept {
        let value =
            String::from_utf8(entry.value.clone()).map_err(|_| FileError::NoText(entry.key.clone()))?;
        text.push_str(&line(&Line { key: entry.key.to_string(), value })?);
    }
    let tail = Tail { sha256: Digest::of(text.as_bytes()) };
    text.push_str(&line(&tail)?);
    Ok((head, text))
}

fn line<T: Serialize>(value: &T) -> Result<String, FileError> {
    let mut text = String::from_utf8_lossy(&canonical_of(value)?).into_owned();
    text.push('\n');
    Ok(text)
}

/// Writes the file in one step: whoever looks sees the old one or all of the new one.
///
/// # Errors
/// When the disk does not take it.
pub fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let error = |what| move |source| FileError::Io { path: path.to_owned(), what, source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".domicile-backup-")
        .permissions(std::fs::Permissions::from_mode(MODE))
        .tempfile_in(folder)
        .map_err(error("written"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(error("written"))?;
    file.persist(path).map_err(|e| error("written")(e.error))?;
    std::fs::File::open(folder).and_then(|d| d.sync_all()).map_err(error("synced"))
}

/// Reads a file and finds every change to it: the digest covers each byte before it, and nothing may stand behind.
///
/// # Errors
/// When it can't be read or is not what was written.
pub fn read(path: &Path) -> Result<Backup, FileError> {
    let error = |source| FileError::Io { path: path.to_owned(), what: "read", source };
    let mut text = String::new();
    // Bounded by what is read: it may be a device.
    let read = std::fs::File::open(path).and_then(|f| f.take(LARGEST + 1).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            return Err(FileError::Damaged { path: path.to_owned(), what: "it is no text in UTF-8".into() });
        }
        Err(e) => return Err(error(e)),
    }
    if text.len() as u64 > LARGEST {
        return Err(FileError::Damaged { path: path.to_owned(), what: "it is larger than 1 GiB".into() });
    }
    parse(&text).map_err(|wrong| match wrong {
        Wrong::What(what) => FileError::Damaged { path: path.to_owned(), what },
        Wrong::Newer(found) => FileError::Newer { path: path.to_owned(), found },
    })
}

enum Wrong {
    What(String),
    Newer(u32),
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::What(what)
    }
}

fn parse(text: &str) -> Result<Backup, Wrong> {
    let unreadable = |n: usize, e: &dyn std::fmt::Display| {
        let mut what = format!("line {n} can't be read");
        let _ = write!(what, " ({e})");
        what
    };
    let whole = text.strip_suffix('\n').ok_or_else(|| "its end is missing".to_owned())?;
    let (body, tail) = whole.rsplit_once('\n').ok_or_else(|| "it has one line only".to_owned())?;
    let count = body.lines().count();
    let tail: Tail = serde_json::from_str(tail)
        .map_err(|_| format!("line {} is no digest: the end of the file is missing", count + 1))?;
    let body = &text[..=body.len()];
    if Digest::of(body.as_bytes()) != tail.sha256 {
        return Err("its digest is another one: it was changed or damaged since it was written"
            .to_owned()
            .into());
    }
    let mut lines = body.lines();
    let head = lines.next().unwrap_or_default();
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format = serde_json::from_str(head).map_err(|e| unreadable(1, &e))?;
    if format.format > FORMAT {
        return Err(Wrong::Newer(format.format));
    }
    let head: Head = serde_json::from_str(head).map_err(|e| unreadable(1, &e))?;
    let mut entries: Vec<(Key, Vec<u8>)> = Vec::new();
    let mut before: Option<String> = None;
    for (i, line) in lines.enumerate() {
        let n = i + 2;
        let line: Line = serde_json::from_str(line).map_err(|e| unreadable(n, &e))?;
        let key: Key = line.key.parse().map_err(|e| unreadable(n, &e))?;
        if before.as_ref().is_some_and(|b| *b >= line.key) {
            return Err(format!("line {n}: the key `{}` is out of order or there twice", line.key).into());
        }
        before = Some(line.key);
        entries.push((key, line.value.into_bytes()));
    }
    if entries.len() as u64 != head.entries {
        return Err(format!("it has {} keys, its first line says {}", entries.len(), head.entries).into());
    }
    Ok(Backup { head, entries })
}

#[cfg(test)]
mod tests {

    use domicile_model::Revision;
    use domicile_store::{Entry, Header};

    use super::*;

    fn listing() -> Listing {
        let entry = |key: &str, value: &str| Entry {
            key: key.parse().unwrap(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(2),
        };
        let entries = vec![
            entry("schema", r#"{"v":1,"data":{"layout":1}}"#),
            entry("leader", "gone"),
            entry("cells/c", "{\"v\": 1, \"data\": \"as it stood\"}"),
            entry("routers/r", "gone"),
        ];
        Listing { header: Header { cluster: 7, revision: Revision(9) }, entries }
    }

    fn written() -> (tempfile::TempDir, PathBuf, Head) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.jsonl");
        let (head, text) =
            text(WorldId::from_u128(3), &listing(), "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
        write(&path, &text).unwrap();
        (dir, path, head)
    }

    #[test]
    fn what_was_there_comes_back_byte_for_byte_and_only_its_owner_reads_it() {
        let (_dir, path, head) = written();
        let found = read(&path).unwrap();
        assert_eq!((found.head, head.entries), (head, 2));
        assert_eq!(found.entries[0].1, b"{\"v\": 1, \"data\": \"as it stood\"}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let (_dir, path, _) = written();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(read(&path).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at}");
        }
        let mut longer = whole.clone();
        longer.extend_from_slice(b"{}\n");
        std::fs::write(&path, longer).unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn a_newer_format_is_said_to_be_one() {
        let (_dir, path, _) = written();
        let text = std::fs::read_to_string(&path).unwrap();
        let body =
            text.lines().take(3).collect::<Vec<_>>().join("\n").replace("\"format\":1", "\"format\":2")
                + "\n";
        let tail = line(&Tail { sha256: Digest::of(body.as_bytes()) }).unwrap();
        std::fs::write(&path, body + &tail).unwrap();
        assert!(matches!(read(&path), Err(FileError::Newer { found: 2, .. })));
    }
}
