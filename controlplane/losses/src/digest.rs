//! Digests of primary keys that nobody without the key can guess.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::LossFileError;

/// The key under which rows of one part are named in the list of a move.
#[derive(Clone)]
pub struct DigestKey(Zeroizing<[u8; 32]>);

impl DigestKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn random() -> Result<Self, LossFileError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..]).map_err(|_| LossFileError::Random)?;
        Ok(Self(bytes))
    }

    /// The key of one part, made from that of the whole export: it tells nothing of the keys of others.
    #[must_use]
    pub fn of_part(&self, part: &str) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(&self.mac(&[b"domicile losses part\0", part.as_bytes()]));
        Self(bytes)
    }

    /// HMAC-SHA256, in hexadecimal, of the table (`schema.name`), a zero byte, and the key columns as a JSON object with
    /// sorted names and text values.
    #[must_use]
    pub fn digest(&self, table: &str, key: &BTreeMap<String, String>) -> String {
        // A map of texts always becomes JSON.
        let json = serde_json::to_vec(key).unwrap_or_default();
        hex::encode(self.mac(&[table.as_bytes(), b"\0", &json]))
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0[..]) else { return [0; 32] };
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// As it stands in a header.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(&self.0[..])
    }

    /// Reads it from a header.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, &mut bytes[..]).ok()?;
        Some(Self(bytes))
    }
}

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_found_by_its_key_alone() {
        let key = |text: &str| BTreeMap::from([("id".to_owned(), text.to_owned())]);
        let whole = DigestKey::random().unwrap();
        let (a, b) = (whole.of_part("a"), whole.of_part("b"));
        let digest = a.digest("public.t", &key("1"));
        assert_eq!(DigestKey::from_hex(&a.to_hex()).unwrap().digest("public.t", &key("1")), digest);
        for other in [
            a.digest("public.t", &key("2")),
            a.digest("public.u", &key("1")),
            b.digest("public.t", &key("1")),
            DigestKey::random().unwrap().of_part("a").digest("public.t", &key("1")),
        ] {
            assert_ne!(other, digest);
        }
        assert!(DigestKey::from_hex("zz").is_none() && DigestKey::from_hex(&"0".repeat(62)).is_none());
        assert!(!format!("{a:?}").contains(&a.to_hex()[..8]));
    }
}
