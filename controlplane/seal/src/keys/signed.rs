//! A body and the signature that stands for it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::private::PrivateKey;
use super::public::{KeyId, PublicKey, SignatureText};
use super::ring::{Moment, Revocation};
use crate::canonical::{JsonError, canonical, to_value};

/// What a signature is for, e.g. `domicile/handover/1`. A constant of the program, never read from what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purpose(pub &'static str);

/// Who signed, and the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Which key.
    pub key: KeyId,
    /// Over purpose and body.
    pub value: SignatureText,
}

/// Something signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    /// What is said.
    pub body: T,
    /// Who stands for it.
    pub signature: Signature,
}

/// Why a signature does not count. `what` is what the caller named: `the handover of cell c`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Nobody vouches for the key.
    #[error(
        "{what} is signed with key {key}, which is not among the trusted keys: find out who holds that key; add it if it is theirs to sign with, else {what} is forged"
    )]
    UnknownKey {
        /// What was checked.
        what: String,
        /// Which key it names.
        key: KeyId,
    },
    /// Changed after signing, or signed for something else, or not by this key.
    #[error(
        "{what} is not what key {key} signed: it was changed since, or was signed for another purpose; have it issued again, and keep this one for whoever looks into it"
    )]
    Forged {
        /// What was checked.
        what: String,
        /// Which key it names.
        key: KeyId,
    },
    /// The key was not yet, or no longer, the one that signs.
    #[error(
        "{what} was signed {when} with key {key}, which signs {bound}: have it signed again with the key of that time"
    )]
    OutOfTurn {
        /// What was checked.
        what: String,
        /// Which key it names.
        key: KeyId,
        /// When it was signed.
        when: Moment,
        /// The bound that it lies beyond: `from …` or `until …`.
        bound: String,
    },
    /// The key was revoked before.
    #[error("{what} was signed {when} with key {key}, which was revoked {at} ({why}): do not rely on it; have it issued again under a key that counts", at = .revoked.at, why = .revoked.why)]
    Revoked {
        /// What was checked.
        what: String,
        /// Which key it names.
        key: KeyId,
        /// When it was signed.
        when: Moment,
        /// The revocation.
        revoked: Box<Revocation>,
    },
    /// The key's time is bounded by something that is not known of this signature.
    #[error(
        "{what}: key {key} counts only {bound}, and it is not known {asked} it was signed: check it where that is known"
    )]
    Unplaced {
        /// What was checked.
        what: String,
        /// Which key it names.
        key: KeyId,
        /// The bound that can't be compared.
        bound: String,
        /// `at which position` or `at what time`.
        asked: &'static str,
    },
    /// It has no canonical form, so nothing can have signed it.
    #[error("{what} can't be checked: {source}")]
    Form {
        /// What was checked.
        what: String,
        /// Why.
        source: JsonError,
    },
}

fn bytes<T: Serialize + ?Sized>(purpose: Purpose, body: &T) -> Result<Vec<u8>, JsonError> {
    canonical(&json!({ "purpose": purpose.0, "body": to_value(body)? }))
}

impl PrivateKey {
    /// Signs a body for a purpose.
    ///
    /// # Errors
    /// When the body has no canonical form.
    pub fn sign<T: Serialize + ?Sized>(&self, purpose: Purpose, body: &T) -> Result<Signature, JsonError> {
        Ok(Signature { key: self.public().id(), value: self.sign_bytes(&bytes(purpose, body)?) })
    }
}

impl PublicKey {
    /// Checks that this very key signed this body for this purpose. `what` names it in the error.
    ///
    /// # Errors
    /// When it is another key's, or does not fit.
    pub fn verify<T: Serialize + ?Sized>(
        &self,
        purpose: Purpose,
        body: &T,
        signature: &Signature,
        what: &str,
    ) -> Result<(), VerifyError> {
        let (what, key) = (|| what.to_owned(), signature.key);
        if key != self.id() {
            return Err(VerifyError::UnknownKey { what: what(), key });
        }
        let bytes = bytes(purpose, body).map_err(|source| VerifyError::Form { what: what(), source })?;
        if self.signed(&bytes, &signature.value) {
            Ok(())
        } else {
            Err(VerifyError::Forged { what: what(), key })
        }
    }
}
