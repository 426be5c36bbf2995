//! Facts of minutes that are over, on disk until the control planes have them. Bounded: beyond that the oldest are dropped, and
//! counted.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use domicile_facts::Batch;

/// Ends the name of a whole batch.
const SUFFIX: &str = ".jsonl";
/// Ends the name of one that is being written.
const PART: &str = ".part";

/// A folder of batches.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    dir: PathBuf,
    most: u64,
}

/// What lies in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lies {
    /// The names of the batches, the oldest first, with their sizes in bytes.
    pub(super) batches: Vec<(String, u64)>,
    /// Batches that were dropped for want of room just now.
    pub(super) dropped: u64,
}

impl Lies {
    pub(super) fn bytes(&self) -> u64 {
        self.batches.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Spool {
    /// A spool in this folder, of at most so many bytes. The folder is made where it is missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn open(dir: &Path, most: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), most })
    }

    /// Writes a batch down, whole or not at all.
    ///
    /// # Errors
    /// When it can't be written; nothing of it counts then.
    pub(super) fn keep(&self, batch: &Batch) -> std::io::Result<()> {
        let id = &batch.head.id;
        // In the order of minutes; a name is that of one batch for ever.
        let name = format!("{:012}-{}-{:08}", batch.head.minute.0, id.boot, id.number);
        let part = self.dir.join(format!("{name}{PART}"));
        let mut file = File::create(&part)?;
        let written = file.write_all(&batch.encode()).and_then(|()| file.sync_all());
        let moved = written.and_then(|()| std::fs::rename(&part, self.dir.join(format!("{name}{SUFFIX}"))));
        if moved.is_err() {
            // It takes room from those that are whole.
            let _ = std::fs::remove_file(&part);
        }
        moved
    }

    /// What lies there, once the oldest beyond the bound are dropped.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(super) fn bound(&self) -> std::io::Result<Lies> {
        let mut lies = Lies { batches: self.list()?, dropped: 0 };
        let mut bytes = lies.bytes();
        let first = lies.batches.iter().position(|(_, size)| {
            let fits = bytes <= self.most;
            if !fits {
                bytes -= size;
            }
            fits
        });
        for (name, _) in lies.batches.drain(..first.unwrap_or(lies.batches.len())) {
            self.drop(&name)?;
            lies.dropped += 1;
        }
        Ok(lies)
    }

    /// The bytes of a batch; none if it is not there any more.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes a batch away. Another process of this router may have done so.
    ///
    /// # Errors
    /// When it can't be taken away.
    pub(super) fn drop(&self, name: &str) -> std::io::Result<()> {
        match std::fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn list(&self) -> std::io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.ends_with(SUFFIX)
                && let Ok(about) = entry.metadata()
            {
                found.push((name, about.len()));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use domicile_facts::{BatchId, Head, Minute, VERSION};
    use domicile_model::{BootId, RegionId, Role, RouterId};

    use super::*;

    fn batch(minute: u64, number: u64) -> Batch {
        let id = BatchId { router: RouterId::new("edge-1").unwrap(), boot: BootId::from_u128(7), number };
        let region = RegionId::new("us-east-1").unwrap();
        let minute = Minute(minute);
        let head = Head { version: VERSION, id, role: Role::Edge, region, minute, facts: 0, clock: None };
        Batch { head, facts: Vec::new() }
    }

    #[test]
    fn what_was_kept_comes_back_in_the_order_of_minutes() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("facts"), 1 << 20).unwrap();
        for (minute, number) in [(12, 3), (9, 0), (12, 2)] {
            spool.keep(&batch(minute, number)).unwrap();
        }
        // Another process is writing.
        std::fs::write(dir.path().join("facts").join("000000000001-x-0.part"), b"half").unwrap();
        let lies = spool.bound().unwrap();
        let read: Vec<_> = lies
            .batches
            .iter()
            .map(|(name, _)| Batch::decode(&spool.read(name).unwrap().unwrap()).unwrap().head)
            .map(|head| (head.minute.0, head.id.number))
            .collect();
        assert_eq!(read, [(9, 0), (12, 2), (12, 3)]);
        spool.drop(&lies.batches[0].0).unwrap();
        spool.drop(&lies.batches[0].0).unwrap();
        assert_eq!(spool.read(&lies.batches[0].0).unwrap(), None);
        assert_eq!(spool.bound().unwrap().batches.len(), 2);
    }

    #[test]
    fn beyond_its_bound_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let one = batch(1_000, 0).encode().len() as u64;
        let spool = Spool::open(dir.path(), one * 3 + 1).unwrap();
        for n in 0..5 {
            spool.keep(&batch(1_000 + n, 0)).unwrap();
        }
        let lies = spool.bound().unwrap();
        assert_eq!((lies.batches.len(), lies.dropped, lies.bytes()), (3, 2, one * 3));
        assert!(lies.batches[0].0.starts_with("000000001002-"), "{lies:?}");
        assert_eq!(spool.bound().unwrap().dropped, 0);
    }

    #[test]
    fn a_full_disk_keeps_nothing_of_it_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("facts"), 1 << 20).unwrap();
        std::fs::remove_dir(dir.path().join("facts")).unwrap();
        assert!(spool.keep(&batch(1, 0)).is_err() && spool.bound().is_err());
    }
}
