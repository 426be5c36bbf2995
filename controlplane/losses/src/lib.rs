//! The files that hold lost rows: what a forced move lost of one tenant, encrypted for one recipient.
//!
//! A file is in the [age](https://age-encryption.org/v1) format, so that it can be read without this program as well
//! (`age -d -i KEYFILE FILE`). Inside are lines of JSON: a [`Header`], a [`Row`] per changed row in the order of the
//! commits, and an [`End`]. Without its end a file is not whole, and reading it fails.
//!
//! The list of a move holds no content, only digests of keys. They are keyed per tenant ([`DigestKey`]), and that key
//! stands in the header: who may read a tenant's rows can also find them in the list, and nobody else can guess.

mod digest;
mod file;
mod key;

pub use digest::DigestKey;
pub use file::{Columns, End, Header, Operation, Reader, Row, VERSION, Writer};
pub use key::{KeyFile, Recipient};

/// The name of the part that holds rows without a known tenant. No tenant's id has an underscore.
pub const UNASSIGNED: &str = "_unassigned";

/// Why a file can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LossFileError {
    /// Reading or writing.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not made for this key, changed, or no such file.
    #[error("it can't be decrypted: {0}")]
    Decrypt(String),
    /// Not what such a file holds.
    #[error("{0}")]
    Content(String),
    /// A key that is none. The text is not repeated.
    #[error("{0}")]
    Key(&'static str),
    /// No randomness to be had.
    #[error("the system gives no random numbers")]
    Random,
}
