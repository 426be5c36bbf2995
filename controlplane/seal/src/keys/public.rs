//! What everybody may know of a key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, unhex};

/// A text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not a key's id.
    #[error(
        "`{0}` is no key id: 64 lower-case hexadecimal digits, the SHA-256 of the public key, are needed"
    )]
    Id(String),
    /// Not a public key.
    #[error(
        "`{0}` is no Ed25519 public key: 64 lower-case hexadecimal digits of a point of full order are needed"
    )]
    Public(String),
    /// Not a signature.
    #[error("not an Ed25519 signature: 128 lower-case hexadecimal digits are needed")]
    Signature,
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Which key: the fingerprint of its public half, SHA-256 of the 32 bytes, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Digest);

/// A public key, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// The 64 bytes of a signature, in hexadecimal. Whether it fits is another question.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignatureText([u8; 64]);

impl PublicKey {
    pub(super) const fn of(key: ed25519_dalek::VerifyingKey) -> Self {
        Self(key)
    }

    /// Its fingerprint.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(Digest::of(self.0.as_bytes()))
    }

    /// Whether this key signed these bytes. Strict: a signature has one form only, and weak keys sign nothing.
    pub(super) fn signed(&self, bytes: &[u8], signature: &SignatureText) -> bool {
        self.0.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

impl SignatureText {
    pub(super) fn of(signature: &ed25519_dalek::Signature) -> Self {
        Self(signature.to_bytes())
    }
}

impl FromStr for KeyId {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        text.parse().map(Self).map_err(|_| KeyTextError::Id(short(text)))
    }
}

impl FromStr for PublicKey {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        unhex::<32>(text)
            .and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok())
            // Under a key of small order one signature fits many messages; and a key has one spelling, or one key would
            // have two ids.
            .filter(|key| !key.is_weak() && key.to_edwards().compress().to_bytes() == *key.as_bytes())
            .map(Self)
            .ok_or_else(|| KeyTextError::Public(short(text)))
    }
}

impl FromStr for SignatureText {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        unhex(text).map(Self).ok_or(KeyTextError::Signature)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl fmt::Display for SignatureText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

macro_rules! as_text {
    ($($what:ty),*) => {$(
        impl fmt::Debug for $what {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl TryFrom<String> for $what {
            type Error = KeyTextError;
            fn try_from(text: String) -> Result<Self, KeyTextError> {
                text.parse()
            }
        }
        impl From<$what> for String {
            fn from(it: $what) -> Self {
                it.to_string()
            }
        }
    )*};
}

as_text!(KeyId, PublicKey, SignatureText);
