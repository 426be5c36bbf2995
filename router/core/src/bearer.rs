//! `Authorization: Bearer …`, compared in constant time.

use subtle::ConstantTimeEq;

/// Whether the value of an `Authorization` header carries this secret.
#[must_use]
pub fn carries(header: Option<&[u8]>, secret: &str) -> bool {
    let Some(given) = header.and_then(|h| h.strip_prefix(b"Bearer ")) else { return false };
    !secret.is_empty() && bool::from(given.ct_eq(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_will_do() {
        assert!(carries(Some(b"Bearer s3cret"), "s3cret"));
        for bad in [&b"Bearer s3cre"[..], b"Bearer s3cret ", b"s3cret", b"bearer s3cret", b""] {
            assert!(!carries(Some(bad), "s3cret"));
        }
        assert!(!carries(None, "s3cret") && !carries(Some(b"Bearer "), ""));
    }
}
