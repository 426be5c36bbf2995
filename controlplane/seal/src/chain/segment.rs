//! Segments: a stretch of a chain that is closed with a signed seal, and can be put away and checked alone.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::link::{Broken, Head, Link, verify};
use crate::canonical::{JsonError, canonical_of, parse};
use crate::digest::Digest;
use crate::keys::{Keyring, PrivateKey, Purpose, Signed, VerifyError, When};

const PURPOSE: Purpose = Purpose("domicile/segment/1");

/// Longest segment that is read: 256 MiB.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// What closes a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSeal {
    /// The chain's name.
    pub chain: String,
    /// The number of the first link.
    pub first: u64,
    /// The number of the last link.
    pub last: u64,
    /// How many there are.
    pub count: u64,
    /// The digest that the first link follows.
    pub prev: Digest,
    /// The digest of the last link.
    pub head: Digest,
}

/// A closed segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Its links, in order.
    pub links: Vec<Link>,
    /// The seal.
    pub seal: Signed<SegmentSeal>,
}

/// Why a segment does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Nothing to seal.
    #[error("a segment needs at least one link")]
    Empty,
    /// Too long to be read.
    #[error("longer than {MOST_BYTES} bytes: no segment of this program")]
    Long,
    /// A line is not what it should be.
    #[error("line {line} of the segment is not one of this program's: {why}")]
    Line {
        /// From 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// The links do not hold together.
    #[error("segment {first} to {last} of chain {chain}: {source}")]
    Broken {
        /// The chain.
        chain: String,
        /// By its seal.
        first: u64,
        /// By its seal.
        last: u64,
        /// Where.
        source: Box<Broken>,
    },
    /// The seal contradicts itself, or the place where the segment should stand.
    #[error("the seal of segment {first} to {last} of chain {chain} does not fit: {why}")]
    Misfit {
        /// The chain.
        chain: String,
        /// By its seal.
        first: u64,
        /// By its seal.
        last: u64,
        /// In what.
        why: String,
    },
    /// The signature does not count.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// No canonical form.
    #[error("the segment can't be written: {0}")]
    Form(#[from] JsonError),
}

impl Segment {
    /// Closes a stretch of a chain that follows `start`.
    ///
    /// # Errors
    /// When there is no link, or they do not follow `start` and each other: nothing broken is ever sealed.
    pub fn close(chain: &str, start: Head, links: Vec<Link>, key: &PrivateKey) -> Result<Self, SegmentError> {
        let first = links.first().ok_or(SegmentError::Empty)?.n;
        let last = links.last().ok_or(SegmentError::Empty)?.n;
        let end = super::link::walk(start, &links).map_err(|source| SegmentError::Broken {
            chain: chain.to_owned(),
            first,
            last,
            source: Box::new(source),
        })?;
        let count = u64::try_from(links.len()).unwrap_or(u64::MAX);
        let body =
            SegmentSeal { chain: chain.to_owned(), first, last, count, prev: start.digest, head: end.digest };
        let signature = key.sign(PURPOSE, &body)?;
        Ok(Self { links, seal: Signed { body, signature } })
    }

    /// Checks seal, signature and every link, and that the segment follows `start`; gives the head that the next one must
    /// follow. The first segment of a chain follows [`Head::genesis`].
    ///
    /// The key must have counted at the position of the last link. A stolen key can sign any position, so a segment
    /// stands only together with what follows it: its successor must follow its head.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn verify(&self, chain: &str, start: Head, keys: &Keyring) -> Result<Head, SegmentError> {
        let seal = &self.seal.body;
        let what = format!("the seal of segment {} to {} of chain {}", seal.first, seal.last, seal.chain);
        keys.verify(PURPOSE, seal, &self.seal.signature, When::position(seal.last), &what)?;
        let misfit = |why: String| SegmentError::Misfit {
            chain: seal.chain.clone(),
            first: seal.first,
            last: seal.last,
            why,
        };
        if seal.chain != chain {
            return Err(misfit(format!("it is of another chain than {chain}")));
        }
        if Some(seal.first) != start.n.checked_add(1) || seal.prev != start.digest {
            return Err(misfit(format!(
                "it follows link {} ({}), but it should follow link {} ({}): a segment is missing or was replaced",
                seal.first.saturating_sub(1),
                seal.prev,
                start.n,
                start.digest
            )));
        }
        if seal.last.checked_sub(seal.first).and_then(|n| n.checked_add(1)) != Some(seal.count) {
            return Err(misfit(format!("it counts {} links", seal.count)));
        }
        let end = Head { n: seal.last, digest: seal.head };
        verify(start, &self.links, end).map_err(|source| SegmentError::Broken {
            chain: seal.chain.clone(),
            first: seal.first,
            last: seal.last,
            source: Box::new(source),
        })?;
        Ok(end)
    }

    /// One canonical line for each link, then one for the seal.
    ///
    /// # Errors
    /// When a body has no canonical form.
    pub fn to_lines(&self) -> Result<Vec<u8>, SegmentError> {
        let mut out = Vec::new();
        for link in &self.links {
            out.extend(link.bytes()?);
            out.push(b'\n');
        }
        out.extend(canonical_of(&self.seal)?);
        out.push(b'\n');
        Ok(out)
    }

    /// Reads what [`Segment::to_lines`] wrote. Every line must be canonical, so that one segment has one spelling.
    ///
    /// # Errors
    /// The first line that is not one of ours.
    pub fn from_lines(bytes: &[u8]) -> Result<Self, SegmentError> {
        if bytes.len() > MOST_BYTES {
            return Err(SegmentError::Long);
        }
        let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        let count = lines.len();
        let wrong = |line: usize, why: &str| SegmentError::Line { line, why: why.to_owned() };
        if lines.pop() != Some(b"") {
            return Err(wrong(count, "it does not end with a line end: the segment is cut short"));
        }
        let seal = lines.pop().ok_or_else(|| wrong(1, "there is none"))?;
        let links =
            lines.iter().enumerate().map(|(i, line)| read(i + 1, line)).collect::<Result<Vec<Link>, _>>()?;
        Ok(Self { links, seal: read(count - 1, seal)? })
    }
}

fn read<T: serde::de::DeserializeOwned>(line: usize, bytes: &[u8]) -> Result<T, SegmentError> {
    let wrong = |why: String| SegmentError::Line { line, why };
    let value: Value = parse(bytes).map_err(|e| wrong(e.to_string()))?;
    if crate::canonical(&value).as_deref() != Ok(bytes) {
        return Err(wrong("it is not in canonical form, so it was changed".to_owned()));
    }
    serde_json::from_value(value).map_err(|e| wrong(e.to_string()))
}
