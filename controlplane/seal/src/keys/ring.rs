//! The keyring: several keys, one of which signs, each with the stretch for which its signatures count.
//!
//! The stretch is counted in positions of a chain, or in issue times *that the checker knows of its own* (from the
//! chain, or a record that it trusts): what a signature says of its own time counts for nothing, since whoever holds a
//! stolen key writes any time.

use std::fmt;

use domicile_model::SecretRef;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::private::{PrivateKey, PrivateKeyError};
use super::public::{KeyId, PublicKey};
use super::signed::{Purpose, Signature, VerifyError};

/// Longest file that is read.
const MOST_BYTES: usize = 1024 * 1024;
/// Most keys in a ring.
const MOST_KEYS: usize = 1024;
/// Longest name of an owner, and longest reason.
const MOST_CHARS: usize = 500;

/// A point in the life of a chain, or of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The number of a link.
    Position(u64),
    /// An issue time.
    Time(Timestamp),
}

/// When a signature was made, as far as the checker knows. Unknown is a value: a key that is bounded by what is unknown
/// does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct When {
    /// The number of the link that was signed, or that holds what was signed.
    pub position: Option<u64>,
    /// The recorded issue time.
    pub time: Option<Timestamp>,
}

/// From when on a key's signatures are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The first moment that is refused.
    pub at: Moment,
    /// Why, for whoever meets a refused signature.
    pub why: String,
}

/// A key of the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The fingerprint of `public`; stands beside it so that people can find it, and is checked.
    pub id: KeyId,
    /// The public key.
    pub public: PublicKey,
    /// Whose it is.
    pub owner: String,
    /// Where the private half lies, on the machine that signs. A reference, never the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<SecretRef>,
    /// The first moment that counts; none: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Moment>,
    /// The first moment that no longer counts; none: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
    /// Given up, because somebody else may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

/// The ring, as its TOML file holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    version: u32,
    /// The key that signs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signs: Option<KeyId>,
    #[serde(default)]
    keys: Vec<KeyEntry>,
}

/// What is wrong with a keyring, or with what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Too long to be one.
    #[error("the keyring is longer than {MOST_BYTES} bytes")]
    Long,
    /// Not a keyring's TOML.
    #[error("not a keyring: {0}")]
    Form(String),
    /// Written by a newer program.
    #[error("the keyring is of version {0}, this program knows version 1: use the newer program")]
    Version(u32),
    /// A rule is broken.
    #[error("the keyring can't be used: {0}")]
    Rule(String),
    /// Nothing signs.
    #[error("no key of the ring signs: rotate to a new one")]
    Silent,
    /// The private half can't be had.
    #[error("the private half of key {key}: {source}")]
    Private {
        /// The key.
        key: KeyId,
        /// Why.
        source: PrivateKeyError,
    },
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(n) => write!(f, "at position {n}"),
            Self::Time(at) => write!(f, "at {at}"),
        }
    }
}

impl Moment {
    const fn asked(self) -> &'static str {
        match self {
            Self::Position(_) => "at which position",
            Self::Time(_) => "at what time",
        }
    }

    /// Whether `other` is at or after this; none if they are of different kinds.
    fn reached(self, other: Self) -> Option<bool> {
        match (self, other) {
            (Self::Position(bound), Self::Position(at)) => Some(at >= bound),
            (Self::Time(bound), Self::Time(at)) => Some(at >= bound),
            _ => None,
        }
    }
}

impl When {
    /// In the chain, at this link.
    #[must_use]
    pub const fn position(n: u64) -> Self {
        Self { position: Some(n), time: None }
    }

    /// Issued at this time, by a record that the checker trusts.
    #[must_use]
    pub const fn time(at: Timestamp) -> Self {
        Self { position: None, time: Some(at) }
    }

    /// What is known that can be compared with a bound.
    fn like(self, bound: Moment) -> Option<Moment> {
        match bound {
            Moment::Position(_) => self.position.map(Moment::Position),
            Moment::Time(_) => self.time.map(Moment::Time),
        }
    }
}

impl KeyEntry {
    /// A key that signs from now on, without an end.
    #[must_use]
    pub fn new(public: PublicKey, owner: impl Into<String>) -> Self {
        Self {
            id: public.id(),
            public,
            owner: owner.into(),
            private: None,
            from: None,
            until: None,
            revoked: None,
        }
    }

    fn check(&self) -> Result<(), String> {
        let id = self.id;
        if self.public.id() != id {
            return Err(format!("key {id} has another key's public half, whose id is {}", self.public.id()));
        }
        let reason = self.revoked.as_ref().map_or("", |r| &r.why);
        if self.owner.chars().count() > MOST_CHARS || reason.chars().count() > MOST_CHARS {
            return Err(format!("owner and reason of key {id} may have {MOST_CHARS} characters at most"));
        }
        if let (Some(from), Some(until)) = (self.from, self.until)
            && until.reached(from) != Some(false)
        {
            return Err(format!(
                "key {id} counts from {from} and until {until}: the end must come later, and count alike"
            ));
        }
        Ok(())
    }

    fn counts(&self, when: When, what: &str) -> Result<(), VerifyError> {
        let (what, key) = (|| what.to_owned(), self.id);
        // Whether the bound was reached, and the moment that was compared with it.
        let reached = |bound: Moment, said: String| {
            let at = when.like(bound);
            at.and_then(|at| bound.reached(at).map(|reached| (reached, at)))
                .ok_or_else(|| VerifyError::Unplaced { what: what(), key, bound: said, asked: bound.asked() })
        };
        if let Some(revoked) = &self.revoked
            && let (true, at) = reached(revoked.at, format!("before it was revoked {}", revoked.at))?
        {
            return Err(VerifyError::Revoked {
                what: what(),
                key,
                when: at,
                revoked: Box::new(revoked.clone()),
            });
        }
        if let Some(from) = self.from
            && let (false, at) = reached(from, format!("from {from} on"))?
        {
            return Err(VerifyError::OutOfTurn {
                what: what(),
                key,
                when: at,
                bound: format!("only from {from} on"),
            });
        }
        if let Some(until) = self.until
            && let (true, at) = reached(until, format!("until {until}"))?
        {
            return Err(VerifyError::OutOfTurn {
                what: what(),
                key,
                when: at,
                bound: format!("only until {until}"),
            });
        }
        Ok(())
    }
}

impl Default for Keyring {
    fn default() -> Self {
        Self { version: 1, signs: None, keys: Vec::new() }
    }
}

impl Keyring {
    /// Reads the text of a keyring's file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        if text.len() > MOST_BYTES {
            return Err(KeyringError::Long);
        }
        // A newer file is told by its version, not by the first field that this program does not know.
        let head: Head = toml::from_str(text).map_err(|e| KeyringError::Form(e.to_string()))?;
        if head.version != 1 {
            return Err(KeyringError::Version(head.version));
        }
        let ring: Self = toml::from_str(text).map_err(|e| KeyringError::Form(e.to_string()))?;
        ring.check()?;
        Ok(ring)
    }

    /// The text of its file.
    ///
    /// # Errors
    /// When a number in it is too large for TOML.
    pub fn to_text(&self) -> Result<String, KeyringError> {
        toml::to_string(self).map_err(|e| KeyringError::Form(e.to_string()))
    }

    fn check(&self) -> Result<(), KeyringError> {
        let wrong = |why: String| Err(KeyringError::Rule(why));
        if self.keys.len() > MOST_KEYS {
            return wrong(format!("it holds more than {MOST_KEYS} keys"));
        }
        let mut seen = std::collections::BTreeSet::new();
        for key in &self.keys {
            key.check().map_err(KeyringError::Rule)?;
            if !seen.insert(key.id) {
                return wrong(format!("key {} stands in it twice", key.id));
            }
        }
        match self.signs.map(|id| (id, self.get(&id))) {
            Some((id, None)) => wrong(format!("key {id} shall sign but is not in it")),
            Some((id, Some(key))) if key.revoked.is_some() || key.until.is_some() => {
                wrong(format!("key {id} shall sign but was revoked or has ended: rotate to a new one"))
            }
            _ => Ok(()),
        }
    }

    /// Does the change as a whole or not at all.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), KeyringError>,
    ) -> Result<(), KeyringError> {
        let mut new = self.clone();
        change(&mut new)?;
        new.check()?;
        *self = new;
        Ok(())
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&KeyEntry> {
        self.keys.iter().find(|key| key.id == *id)
    }

    /// All keys, in the order in which they came.
    #[must_use]
    pub fn keys(&self) -> &[KeyEntry] {
        &self.keys
    }

    /// The key that signs now.
    #[must_use]
    pub const fn signs(&self) -> Option<KeyId> {
        self.signs
    }

    /// Adds somebody's key, to check by.
    ///
    /// # Errors
    /// When it is there already or breaks a rule.
    pub fn add(&mut self, key: KeyEntry) -> Result<(), KeyringError> {
        self.change(|ring| {
            ring.keys.push(key);
            Ok(())
        })
    }

    /// From `at` on another key signs; the one that signed counts until then. The first key may be added by this too.
    ///
    /// # Errors
    /// When the new key is there already, or `at` comes before the present key began.
    pub fn rotate(&mut self, mut new: KeyEntry, at: Moment) -> Result<(), KeyringError> {
        self.change(|ring| {
            let signs = ring.signs;
            if let Some(old) = ring.keys.iter_mut().find(|key| Some(key.id) == signs) {
                old.until = Some(at);
                new.from = Some(at);
            }
            ring.signs = Some(new.id);
            ring.keys.push(new);
            Ok(())
        })
    }

    /// Refuses what this key signed from `at` on. Never turned back and never moved to later: an earlier finding may only
    /// be found to reach further back.
    ///
    /// # Errors
    /// When the key is not in the ring, or was revoked from an earlier moment on, or by another measure.
    pub fn revoke(&mut self, id: &KeyId, at: Moment, why: &str) -> Result<(), KeyringError> {
        self.change(|ring| {
            let Some(key) = ring.keys.iter_mut().find(|key| key.id == *id) else {
                return Err(KeyringError::Rule(format!("key {id} is not in it")));
            };
            if let Some(old) = &key.revoked
                && at.reached(old.at) != Some(true)
            {
                return Err(KeyringError::Rule(format!(
                    "key {id} is revoked already, {}: that can only become earlier",
                    old.at
                )));
            }
            key.revoked = Some(Revocation { at, why: why.to_owned() });
            if ring.signs == Some(*id) {
                ring.signs = None;
            }
            Ok(())
        })
    }

    /// The private key that signs now, read from where it lies.
    ///
    /// # Errors
    /// When none signs, or its private half can't be read or is another key's.
    pub fn signer(&self) -> Result<PrivateKey, KeyringError> {
        let key = self.signs.and_then(|id| self.get(&id)).ok_or(KeyringError::Silent)?;
        let Some(secret) = &key.private else {
            return Err(KeyringError::Rule(format!(
                "key {} shall sign, but where its private half lies is not said: name it as `private`",
                key.id
            )));
        };
        let private =
            PrivateKey::read(secret).map_err(|source| KeyringError::Private { key: key.id, source })?;
        if private.public() != key.public {
            return Err(KeyringError::Rule(format!(
                "what {secret} holds is key {}, not {}",
                private.public().id(),
                key.id
            )));
        }
        Ok(private)
    }

    /// Checks a signature: a key of the ring, which counted when it was made, signed this body for this purpose.
    ///
    /// `when` is what the checker knows of its own, see the module's text. `what` names it in the error.
    ///
    /// # Errors
    /// Which key, why it does not count, and what to do.
    pub fn verify<T: Serialize + ?Sized>(
        &self,
        purpose: Purpose,
        body: &T,
        signature: &Signature,
        when: When,
        what: &str,
    ) -> Result<&KeyEntry, VerifyError> {
        let entry = self
            .get(&signature.key)
            .ok_or_else(|| VerifyError::UnknownKey { what: what.to_owned(), key: signature.key })?;
        entry.public.verify(purpose, body, signature, what)?;
        entry.counts(when, what)?;
        Ok(entry)
    }
}
