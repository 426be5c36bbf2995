//! The laws, through all that was ever kept and through what rustls's client sends; and that they find what breaks them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod broken;
mod corpora;
mod hellos;
mod kept;
