//! Checking a copy of the archive offline: every byte of every segment, and that none is missing.

use std::path::PathBuf;

use domicile_seal::Digest;
use domicile_seal::chain::{Head, Segment, SegmentError};
use domicile_seal::keys::Keyring;

use crate::directory::{ArchiveError, Directory};

/// How far an archive reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The number of the last segment.
    pub segment: u64,
    /// Number and digest of the last link.
    pub head: Head,
}

/// A sound archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The chain's name; none where there is no segment.
    pub chain: Option<String>,
    /// Where it ends; none where there is no segment.
    pub end: Option<End>,
    /// Segments beyond the end that is known: sealed, and not counted by the registry yet.
    pub beyond: Vec<u64>,
}

/// The first thing that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    /// A file can't be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A segment is not there.
    #[error("segment {0} is missing: fetch {1} from another copy")]
    Missing(u64, PathBuf),
    /// A segment does not count.
    #[error("segment {segment} ({path}): {source}")]
    Segment {
        /// Its number.
        segment: u64,
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<SegmentError>,
    },
    /// It ends elsewhere than the registry says.
    #[error(
        "the archive ends with segment {} at link {} ({}), but the registry's head is segment {} at link {} ({}): \
         segments are missing at the end, or this is a copy of another archive",
        found.segment, found.head.n, found.head.digest, expected.segment, expected.head.n, expected.head.digest
    )]
    End {
        /// What the registry says.
        expected: Box<End>,
        /// What is there.
        found: Box<End>,
    },
}

/// Checks the whole of it: no segment missing, each readable in its one spelling, each following the one before, every
/// digest, every signature by a key of the ring; and that it reaches the registry's head, if that is given.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(archive: &Directory, keys: &Keyring, expected: Option<End>) -> Result<Report, Finding> {
    let numbers = archive.list()?;
    let last = numbers.last().copied().unwrap_or(0).max(expected.map_or(0, |end| end.segment));
    // By the first seal. The first link names it too, so a known head is of one chain only.
    let mut chain: Option<String> = None;
    let mut report = Report { chain: None, end: None, beyond: Vec::new() };
    for n in 1..=last {
        let path = archive.path(n);
        let Some(bytes) = archive.read(n)? else { return Err(Finding::Missing(n, path)) };
        let wrong = |source| Finding::Segment { segment: n, path: path.clone(), source: Box::new(source) };
        let segment = Segment::from_lines(&bytes).map_err(wrong)?;
        let chain = chain.get_or_insert_with(|| segment.seal.body.chain.clone());
        let start = report.end.map_or_else(|| Head::genesis(chain), |end| end.head);
        let head = segment.verify(chain, start, keys).map_err(wrong)?;
        report.end = Some(End { segment: n, head });
        report.chain = Some(chain.clone());
        match expected {
            Some(expected) if n > expected.segment => report.beyond.push(n),
            Some(expected) if n == expected.segment && expected.head != head => {
                let found = Box::new(End { segment: n, head });
                return Err(Finding::End { expected: Box::new(expected), found });
            }
            _ => {}
        }
    }
    Ok(report)
}

/// Reads `SEGMENT:LINK:DIGEST`, as `domicile archive status` shows the registry's head.
#[must_use]
pub fn read_end(text: &str) -> Option<End> {
    let mut parts = text.split(':');
    let (segment, n, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let digest: Digest = digest.parse().ok()?;
    let end = End { segment: segment.parse().ok()?, head: Head { n: n.parse().ok()?, digest } };
    parts.next().is_none().then_some(end)
}
