//! Names of our own headers, and which of them a client may send.

/// The tenant that the request is for.
pub const TENANT: &str = "domicile-tenant";
/// Its cell.
pub const CELL: &str = "domicile-cell";
/// The epoch under which it was routed, or answered.
pub const EPOCH: &str = "domicile-epoch";
/// The region that it was routed to, or that answered.
pub const REGION: &str = "domicile-region";
/// Names the request in every log on its way.
pub const REQUEST_ID: &str = "domicile-request-id";
/// Set by a gate on its answers, so that an edge can tell them from the application's own: [`GATE_MOVED`] on a 421
/// that may be followed, [`GATE_PASSED`] on an answer of the application.
pub const GATE: &str = "domicile-gate";
/// How many routers the request has passed.
pub const HOPS: &str = "domicile-hops";
/// Lets a call that belongs to a request still in flight past a hold.
pub const PASS: &str = "domicile-pass";

/// Value of [`GATE`]: the application has not seen the request, another region or epoch serves it.
pub const GATE_MOVED: &str = "moved";
/// Value of [`GATE`]: the answer passed a gate's proof check.
pub const GATE_PASSED: &str = "passed";
/// Value of [`GATE`]: the gate itself answers with an error.
pub const GATE_REFUSED: &str = "refused";

/// The prefix of all of them. Whatever comes under it from outside is dropped.
pub const PREFIX: &str = "domicile-";

/// What only the router that a request enters by may say of its client, besides [`FORWARDED`].
const CLAIMS: [&str; 4] = ["forwarded", "x-real-ip", "client-cert", "client-cert-chain"];
/// The prefix of more of that. No list of such names is ever whole.
const FORWARDED: &str = "x-forwarded-";

/// A request never passes more routers than this: edge, two gates of a move, and one for a move back.
pub const MAX_HOPS: u8 = 6;

/// Whether a header of this name is dropped when it comes from an untrusted client, or from an application.
/// [`PASS`] survives on requests: it carries its own proof.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    begins(name, PREFIX)
}

/// Whether a header of this name says of a client what only the router that the request enters by may say.
#[must_use]
pub fn is_claim(name: &str) -> bool {
    begins(name, FORWARDED) || CLAIMS.iter().any(|claim| claim.len() == name.len() && begins(name, claim))
}

/// Whether a name begins like this, in any case, and as an application reads it: where names become variables, as in CGI
/// and WSGI, `_` and `-` are the same.
fn begins(name: &str, with: &str) -> bool {
    let plain = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() >= with.len() && name.bytes().map(plain).zip(with.bytes()).all(|(a, b)| a == b)
}

/// A usable W3C `traceparent`: version 00, ids in lower-case hex, not all zero.
#[must_use]
pub fn valid_traceparent(value: &[u8]) -> bool {
    let hex =
        |b: &[u8]| b.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) && b.iter().any(|c| *c != b'0');
    value.len() == 55
        && &value[..3] == b"00-"
        && value[35] == b'-'
        && value[52] == b'-'
        && hex(&value[3..35])
        && hex(&value[36..52])
        && value[53..].iter().all(u8::is_ascii_hexdigit)
}

/// A `traceparent` from random bits.
#[must_use]
pub fn new_traceparent(trace: u128, span: u64) -> String {
    // All zero is invalid; one bit set keeps it valid without looking.
    format!("00-{:032x}-{:016x}-01", trace | 1, span | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_known_in_any_case() {
        assert!(is_ours("Domicile-Tenant") && is_ours("DOMICILE-X") && is_ours(PASS));
        assert!(is_ours("domicile_tenant") && is_ours("Domicile_Request-Id"));
        assert!(!is_ours("domicil") && !is_ours("x-domicile-tenant"));
        for name in [TENANT, CELL, EPOCH, REGION, REQUEST_ID, GATE, HOPS, PASS] {
            assert!(is_ours(name), "{name}");
        }
    }

    #[test]
    fn claims_are_known_in_any_form() {
        for name in [
            "forwarded",
            "X_Real-IP",
            "client-cert",
            "Client_Cert_Chain",
            "x-forwarded-For",
            "X_Forwarded_SSL",
        ] {
            assert!(is_claim(name), "{name}");
        }
        for name in ["forwarded-by", "x-forwarded", "x-real-ips", "client-certs", "client"] {
            assert!(!is_claim(name), "{name}");
        }
    }

    #[test]
    fn trace_parents_are_checked() {
        assert!(valid_traceparent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(valid_traceparent(new_traceparent(0, 0).as_bytes()));
        for bad in [
            &b""[..],
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\xff",
        ] {
            assert!(!valid_traceparent(bad));
        }
    }
}
