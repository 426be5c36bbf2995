//! The directory of one copy of the archive. What is written is on disk, whole and under its name, or not there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use domicile_model::SecretRef;
use domicile_seal::Digest;
use domicile_seal::keys::{Keyring, KeyringError, PrivateKey, PrivateKeyError};

/// Longest segment that is read: a hundred keys of the registry's longest values are less.
const MOST_BYTES: u64 = 256 << 20;

const SEGMENTS: &str = "segments";
const KEYS: &str = "keys.toml";
const SIGNING: &str = "signing.key";

/// Why a file of the archive was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The operating system.
    #[error("the archive's {path} can't be {what}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Read, written, …
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no segment of ours.
    #[error("the archive's {0} is longer than any segment")]
    Long(PathBuf),
    /// The key that segments are sealed with.
    #[error("the key that the archive is sealed with, {path}: {source}")]
    Key {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: PrivateKeyError,
    },
    /// The public keys.
    #[error("the archive's {path}: {source}")]
    Keys {
        /// Where they are.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyringError,
    },
}

/// A copy of the archive.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The archive in this directory, which is made, for its owner alone, if it is not there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create(root: &Path) -> Result<Self, ArchiveError> {
        let segments = root.join(SEGMENTS);
        DirBuilder::new().recursive(true).mode(0o700).create(&segments).map_err(at(&segments, "made"))?;
        let archive = Self { root: root.to_owned() };
        archive.sync(root)?;
        Ok(archive)
    }

    /// The archive in this directory, to be read.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The file of a segment.
    #[must_use]
    pub fn path(&self, segment: u64) -> PathBuf {
        self.root.join(SEGMENTS).join(format!("segment-{segment:012}.jsonl"))
    }

    /// The numbers of the segments that are there, in order.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn list(&self) -> Result<Vec<u64>, ArchiveError> {
        let dir = self.root.join(SEGMENTS);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(at(&dir, "read"))? {
            let name = entry.map_err(at(&dir, "read"))?.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix("segment-")?.strip_suffix(".jsonl"));
            // Only the spelling that we write: another one would be a second file of the same number.
            if let Some(n) = number.and_then(|n| n.parse().ok())
                && self.path(n).file_name() == Some(&name)
            {
                found.push(n);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The bytes of a segment; none if it is not there.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self, segment: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let path = self.path(segment);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, "read")(error)),
        };
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(at(&path, "read"))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(ArchiveError::Long(path));
        }
        Ok(Some(bytes))
    }

    /// Writes a segment: it survives a crash when this returns.
    ///
    /// # Errors
    /// When it can't be written; nothing stands under its name then that did not before.
    pub fn write(&self, segment: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.replace(&self.path(segment), bytes)
    }

    /// Takes a segment out of the chain under another name; nothing is ever deleted.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn set_aside(&self, segment: u64) -> Result<PathBuf, ArchiveError> {
        let path = self.path(segment);
        let bytes = self.read(segment)?.unwrap_or_default();
        let digest = Digest::of(&bytes).to_string();
        let aside = self
            .root
            .join(SEGMENTS)
            .join(format!("set-aside-{segment:012}-{}.jsonl", digest.get(..16).unwrap_or_default()));
        std::fs::rename(&path, &aside).map_err(at(&path, "set aside"))?;
        self.sync(&self.root.join(SEGMENTS))?;
        Ok(aside)
    }

    /// The key of this copy's owner, made if there is none. Never replaced by itself.
    ///
    /// # Errors
    /// When there is one that can't be used, or none can be made.
    pub fn signing_key(&self) -> Result<PrivateKey, ArchiveError> {
        let path = self.root.join(SIGNING);
        let wrong = |source| ArchiveError::Key { path: path.clone(), source };
        if path.try_exists().map_err(at(&path, "looked for"))? {
            return PrivateKey::read(&SecretRef::File(path.display().to_string())).map_err(wrong);
        }
        let key = PrivateKey::generate().map_err(wrong)?;
        self.replace(&path, key.to_text().as_bytes())?;
        Ok(key)
    }

    /// Puts the public keys beside the segments, so that a copy can be checked where no registry is.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write_keys(&self, ring: &Keyring) -> Result<(), ArchiveError> {
        let path = self.root.join(KEYS);
        let text = ring.to_text().map_err(|source| ArchiveError::Keys { path: path.clone(), source })?;
        let same = std::fs::read(&path).is_ok_and(|old| old == text.as_bytes());
        if same { Ok(()) } else { self.replace(&path, text.as_bytes()) }
    }

    /// The public keys beside the segments.
    ///
    /// # Errors
    /// When they are not there, or unreadable.
    pub fn keys(&self) -> Result<Keyring, ArchiveError> {
        let path = self.root.join(KEYS);
        let text = std::fs::read_to_string(&path).map_err(at(&path, "read"))?;
        Keyring::parse(&text).map_err(|source| ArchiveError::Keys { path, source })
    }

    /// A new file beside it, on disk, then the name: never half of it.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        let dir = path.parent().unwrap_or(&self.root);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = dir.join(name);
        let write = || {
            // What a crash has left behind may have another mode.
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, path)
        };
        write().map_err(at(path, "written"))?;
        self.sync(dir)
    }

    fn sync(&self, dir: &Path) -> Result<(), ArchiveError> {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir, "synced"))
    }
}

fn at<'p>(path: &'p Path, what: &'static str) -> impl Fn(std::io::Error) -> ArchiveError + 'p {
    move |source| ArchiveError::File { path: path.to_owned(), what, source }
}
