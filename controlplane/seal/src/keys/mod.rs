//! Ed25519 keys, what they sign, and the keyring that says which of them counts when.
//!
//! A signature is over the canonical bytes of `{"purpose":…,"body":…}`. The purpose is a constant of whoever checks, so
//! that no signature made for one thing passes for another.

mod private;
mod public;
mod ring;
mod signed;

pub use private::{PrivateKey, PrivateKeyError};
pub use public::{KeyId, KeyTextError, PublicKey, SignatureText};
pub use ring::{KeyEntry, Keyring, KeyringError, Moment, Revocation, When};
pub use signed::{Purpose, Signature, Signed, VerifyError};

#[cfg(test)]
mod tests;
