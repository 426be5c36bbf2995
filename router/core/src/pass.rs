//! `Domicile-Pass`: an application that calls back through the edge while it answers a request must not be held, or
//! the request that the hold waits for would never end.
//!
//! The gate signs a pass for each request that it admits. It says nothing about who may write: a request with a pass
//! still needs a gate's proof and is counted in flight, so a move waits for it as for the first one.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use domicile_model::CellId;

/// Signs and checks passes. Made from a secret that edges and gates share.
#[derive(Clone)]
pub struct PassKey(Hmac<Sha256>);

impl std::fmt::Debug for PassKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PassKey(…)")
    }
}

/// Seconds that a pass is good for: longer than any hold, short enough that a leaked one is of little use.
pub const LIFE_SECS: u64 = 120;

impl PassKey {
    /// A key from the peer secret. The purpose is mixed in, so that a pass is no answer to anything else.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let mut derive = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        derive.update(b"domicile-pass/1");
        Hmac::<Sha256>::new_from_slice(&derive.finalize().into_bytes()).ok().map(Self)
    }

    /// A pass for a request of this cell, good until `expires` (seconds since 1970 on the fleet's wall clocks: a
    /// wrong clock costs a hold, never a write).
    #[must_use]
    pub fn sign(&self, cell: &CellId, request: &str, expires: u64) -> String {
        let body = format!("1.{cell}.{request}.{expires}");
        let mut mac = self.0.clone();
        mac.update(body.as_bytes());
        format!("{body}.{}", hex::encode(mac.finalize().into_bytes()))
    }

    /// Whether this is a pass for the cell that is good at `now` (seconds since 1970). Compares in constant time.
    #[must_use]
    pub fn check(&self, pass: &[u8], cell: &CellId, now: u64) -> bool {
        if pass.len() > 512 {
            return false;
        }
        let Some((body, signature)) = std::str::from_utf8(pass).ok().and_then(|p| p.rsplit_once('.')) else {
            return false;
        };
        let Ok(signature) = hex::decode(signature) else { return false };
        let mut mac = self.0.clone();
        mac.update(body.as_bytes());
        if mac.verify_slice(&signature).is_err() {
            return false;
        }
        let mut parts = body.split('.');
        let (version, for_cell) = (parts.next(), parts.next());
        let expires = parts.next_back().and_then(|e| e.parse::<u64>().ok());
        version == Some("1")
            && for_cell == Some(cell.as_str())
            && expires.is_some_and(|e| now < e && e <= now.saturating_add(2 * LIFE_SECS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_good_for_its_cell_and_its_time_only() {
        let key = PassKey::new("s3cret").unwrap();
        let (a, b) = (CellId::new("a").unwrap(), CellId::new("b").unwrap());
        let pass = key.sign(&a, "r-1", 1_000);
        assert!(key.check(pass.as_bytes(), &a, 999));
        assert!(!key.check(pass.as_bytes(), &a, 1_000));
        assert!(!key.check(pass.as_bytes(), &a, 10), "too far ahead");
        assert!(!key.check(pass.as_bytes(), &b, 999));
        assert!(!PassKey::new("other").unwrap().check(pass.as_bytes(), &a, 999));
        let forged = pass.replacen("1.a", "1.b", 1);
        assert!(!key.check(forged.as_bytes(), &b, 999));
    }

    #[test]
    fn a_pass_shows_nothing_of_its_key() {
        assert_eq!(format!("{:?}", PassKey::new("s3cret").unwrap()), "PassKey(…)");
    }

    proptest::proptest! {
        #[test]
        fn rubbish_is_no_pass(bytes: Vec<u8>) {
            let key = PassKey::new("s3cret").unwrap();
            proptest::prop_assert!(!key.check(&bytes, &CellId::new("a").unwrap(), 5));
        }
    }
}
