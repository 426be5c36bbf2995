//! A private key: read when it is needed, gone from memory afterwards, never printed.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use domicile_model::{SecretError, SecretRef};
use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use super::public::{PublicKey, SignatureText};
use crate::digest::unhex;

/// What the text of a private key begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "domicile-ed25519-private-1:";

/// More than such a text is long.
const MOST_BYTES: u16 = 4096;

/// A private key. Its memory is overwritten when it is dropped; printed it shows its id only.
pub struct PrivateKey(ed25519_dalek::SigningKey);

/// Why there is no private key. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum PrivateKeyError {
    /// The reference leads nowhere.
    #[error("the private key can't be read")]
    Secret(#[from] SecretError),
    /// Everybody may read it.
    #[error(
        "the private key at {place} may be read by everyone (mode {mode:o}): `chmod 600` it, and make a new one if others had access"
    )]
    Open {
        /// The reference.
        place: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else is there.
    #[error(
        "what {place} holds is no private key of this program (`{PREFIX}` and 64 lower-case hexadecimal digits)"
    )]
    Form {
        /// The reference.
        place: String,
    },
    /// The operating system gives no randomness.
    #[error("the operating system gave no random bytes for a new key ({0}): try again once it is up")]
    Randomness(String),
}

impl PrivateKey {
    /// A new key, from the operating system's randomness.
    ///
    /// # Errors
    /// When there is none.
    pub fn generate() -> Result<Self, PrivateKeyError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|e| PrivateKeyError::Randomness(e.to_string()))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// Reads a key from where it lies. A file that everyone may read is refused.
    ///
    /// # Errors
    /// When it is not there, open to everyone, or something else.
    pub fn read(secret: &SecretRef) -> Result<Self, PrivateKeyError> {
        let text = match secret {
            SecretRef::File(path) => file(path, secret)?,
            SecretRef::Env(_) => Zeroizing::new(secret.read()?),
        };
        Self::parse(&text).ok_or_else(|| PrivateKeyError::Form { place: secret.to_string() })
    }

    fn parse(text: &str) -> Option<Self> {
        let seed = Zeroizing::new(unhex::<32>(text.trim_end_matches(['\n', '\r']).strip_prefix(PREFIX)?)?);
        Some(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// What [`PrivateKey::read`] reads, for writing it to a file of mode 0600 and to nowhere else.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(self.0.to_bytes());
        // Sized beforehand: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 65));
        text.push_str(PREFIX);
        for byte in seed.iter() {
            for half in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
            }
        }
        text.push('\n');
        text
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::of(self.0.verifying_key())
    }

    pub(super) fn sign_bytes(&self, bytes: &[u8]) -> SignatureText {
        SignatureText::of(&self.0.sign(bytes))
    }
}

fn file(path: &str, secret: &SecretRef) -> Result<Zeroizing<String>, PrivateKeyError> {
    let unreadable = |source| SecretError::File { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(PrivateKeyError::Open { place: secret.to_string(), mode: mode & 0o777 });
    }
    // One allocation, for the same reason as above.
    let mut text = Zeroizing::new(String::with_capacity(MOST_BYTES.into()));
    file.take(MOST_BYTES.into()).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}
