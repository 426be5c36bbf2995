//! Links and heads.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::canonical::{JsonError, canonical};
use crate::digest::Digest;

/// How far a chain reaches: the number and the digest of its newest link. Before the first link the number is 0 and the
/// digest the chain's genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the newest link.
    pub n: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The digest of the link before.
    pub prev: Digest,
    /// Counts from 1.
    pub n: u64,
    /// What it says.
    pub body: Value,
}

/// The first link at which a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Another number than the next: links are missing, repeated or swapped.
    #[error(
        "the chain breaks where link {expected} should be: link {found} stands there; find the missing or moved links in another copy"
    )]
    Number {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// It follows another link than the one before it.
    #[error(
        "the chain breaks at link {n}: it follows {found}, but the link before it is {expected}; one of the two was changed, compare both with another copy"
    )]
    Prev {
        /// Its number.
        n: u64,
        /// The digest of the link before.
        expected: Digest,
        /// The digest that it names.
        found: Digest,
    },
    /// The end is not the one known from elsewhere.
    #[error("the chain ends with link {found_n} ({found}), but {expected_n} ({expected}) is known to be its end: links are missing at the end or the last one was changed; fetch another copy", found_n = .found.n, found = .found.digest, expected_n = .expected.n, expected = .expected.digest)]
    End {
        /// The head that is known.
        expected: Head,
        /// The head that was reached.
        found: Head,
    },
    /// A body without a canonical form: never appended by us.
    #[error("link {n} can't be read: {source}")]
    Form {
        /// Its number.
        n: u64,
        /// Why.
        source: JsonError,
    },
}

impl Head {
    /// Before the first link of the chain with this name.
    #[must_use]
    pub fn genesis(chain: &str) -> Self {
        // A string of its own kind: no link, which is an object, has these bytes.
        Self { n: 0, digest: Digest::of(format!("domicile chain {chain}").as_bytes()) }
    }
}

impl Link {
    /// The canonical bytes of the link: what its digest is of, and how it is written down.
    ///
    /// # Errors
    /// When the body has no canonical form.
    pub fn bytes(&self) -> Result<Vec<u8>, JsonError> {
        canonical(&json!({ "prev": self.prev, "n": self.n, "body": self.body }))
    }

    /// The head once this is the newest link.
    ///
    /// # Errors
    /// When the body has no canonical form.
    pub fn head(&self) -> Result<Head, JsonError> {
        Ok(Head { n: self.n, digest: Digest::of(&self.bytes()?) })
    }
}

/// The growing end of a chain.
#[derive(Debug, Clone)]
pub struct Chain {
    head: Head,
}

impl Chain {
    /// Goes on after this head.
    #[must_use]
    pub const fn after(head: Head) -> Self {
        Self { head }
    }

    /// How far it reaches.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// The next link. On an error the chain is as before.
    ///
    /// # Errors
    /// When the body has no canonical form.
    pub fn append(&mut self, body: Value) -> Result<Link, JsonError> {
        let link = Link { prev: self.head.digest, n: self.head.n.saturating_add(1), body };
        self.head = link.head()?;
        Ok(link)
    }
}

/// Follows links from a head and tells how far they reach. What is missing at the end does not show: see [`verify`].
///
/// # Errors
/// The first link that does not hold.
pub fn walk<'l>(start: Head, links: impl IntoIterator<Item = &'l Link>) -> Result<Head, Broken> {
    let mut head = start;
    for link in links {
        let expected = head.n.saturating_add(1);
        if link.n != expected {
            return Err(Broken::Number { expected, found: link.n });
        }
        if link.prev != head.digest {
            return Err(Broken::Prev { n: link.n, expected: head.digest, found: link.prev });
        }
        head = link.head().map_err(|source| Broken::Form { n: link.n, source })?;
    }
    Ok(head)
}

/// Follows links from one known head to another.
///
/// # Errors
/// The first link that does not hold, or an end that is not the known one.
pub fn verify<'l>(start: Head, links: impl IntoIterator<Item = &'l Link>, end: Head) -> Result<(), Broken> {
    let found = walk(start, links)?;
    if found == end { Ok(()) } else { Err(Broken::End { expected: end, found }) }
}
