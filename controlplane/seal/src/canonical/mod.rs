//! JSON in its one canonical spelling (RFC 8785), and a reader that is stricter than most.
//!
//! Two things go further than the RFC asks, because a signature must never cover two meanings:
//! - an integer that a double can't hold, digit by digit, is refused rather than rounded;
//! - a text with the same member name twice is refused, not decided by the last one.

mod number;
mod read;
mod write;

use serde::Serialize;
use serde_json::Value;

pub use read::parse;
pub use write::canonical;

/// Most bytes of a text that is read or written: 4 MiB.
pub const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Deepest nesting of arrays and objects.
pub const MOST_DEPTH: usize = 64;

/// Why there is no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON.
    #[error("not JSON at byte {at}: {what}")]
    Syntax {
        /// Where, in bytes from 0.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// One object names a member twice.
    #[error("not one meaning at byte {at}: the object names `{name}` twice; keep one of them")]
    Twice {
        /// Where the second one begins, in bytes from 0.
        at: usize,
        /// The name, cut short.
        name: String,
    },
    /// Nested too deeply.
    #[error("nested deeper than {MOST_DEPTH} levels: flatten it")]
    Deep,
    /// Too long.
    #[error("longer than {MOST_BYTES} bytes: split it")]
    Long,
    /// A number that JSON's readers would not all see alike.
    #[error("the number {0} is not exact as a double: write it as a string")]
    Inexact(String),
    /// A Rust value that has no JSON form.
    #[error("it has no JSON form: {0}")]
    Form(String),
}

/// The canonical bytes of anything that serializes.
///
/// # Errors
/// When it has no JSON form, holds an inexact integer, or is too deep or too long.
pub fn canonical_of<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JsonError> {
    canonical(&to_value(value)?)
}

/// A value as JSON.
pub(crate) fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, JsonError> {
    serde_json::to_value(value).map_err(|e| JsonError::Form(e.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
