//! What an auditor can check without us: canonical JSON (RFC 8785), hash chains, and Ed25519 signatures.
//!
//! - [`canonical`]: one spelling for each JSON value, so that a digest or a signature is of what is *said*, not of how
//!   somebody's writer happened to put it down.
//! - [`chain`]: links of `{prev, n, body}`, each naming the digest of the one before, and segments of a chain that close
//!   with a signed [`chain::SegmentSeal`].
//! - [`keys`]: key ids, private keys, a keyring with rotation and revocation, and [`keys::Signed`].
//! - [`handover`]: the first user: the old primary's signed word that it has stopped.
//!
//! Everything here is bounded and pure but for reading a private key from where its reference points. No other crate
//! calls the signature crate: `deny.toml` keeps that.

pub mod canonical;
pub mod chain;
pub mod digest;
pub mod handover;
pub mod keys;

pub use canonical::{JsonError, canonical, canonical_of, parse};
pub use digest::Digest;
