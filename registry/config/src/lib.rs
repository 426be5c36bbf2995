//! regions.toml: read in its short and long form, with every mistake reported at once.

mod mistake;

pub use mistake::{Mistake, Mistakes};
