//! Hash chains: who changes, drops, swaps or inserts a link is found, and where.
//!
//! A link's digest is SHA-256 of the canonical bytes of `{prev, n, body}`. The first link follows the chain's genesis,
//! which is made from the chain's name, so that links of one chain fit into no other.
//!
//! A chain alone does not show that its *end* is missing, nor that all of it was written anew: that takes a head known
//! from elsewhere, or the signed seal of a segment.

mod link;
mod segment;

pub use link::{Broken, Chain, Head, Link, verify, walk};
pub use segment::{Segment, SegmentError, SegmentSeal};

#[cfg(test)]
mod tests;
