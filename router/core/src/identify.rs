//! Whose request is this? Host name or trusted header → tenant.

use std::borrow::Cow;

use domicile_mirror::{RoutingTable, TenantEntry};
use domicile_model::TenantId;

use crate::errors::Cause;

/// A way to find the tenant. The order in which they are tried is configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The host name: the exact one first, then a wildcard one label above.
    Host,
    /// `Domicile-Tenant`, from a trusted network only.
    Header,
}

impl By {
    /// What an edge does that is not told otherwise.
    pub const EDGE: [Self; 2] = [Self::Host, Self::Header];
    /// What a gate does: the edge has already decided.
    pub const GATE: [Self; 2] = [Self::Header, Self::Host];
}

/// What of a request says whose it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clues<'a> {
    /// The authority of an absolute-form target or of HTTP/2; it wins over the Host header (RFC 9112 section 3.2.2).
    pub authority: Option<&'a [u8]>,
    /// The Host header.
    pub host: Option<&'a [u8]>,
    /// How many Host headers there were.
    pub hosts: usize,
    /// `Domicile-Tenant`, if it came from a trusted network.
    pub tenant: Option<&'a [u8]>,
}

impl Clues<'_> {
    /// The host that the request names, in lower case; none if it names none that can be one.
    #[must_use]
    pub fn host_name(&self) -> Option<Cow<'_, str>> {
        self.authority.or(self.host).and_then(host_name)
    }
}

/// A host name in lower case, without port and final dot; none if it can't be one. Allocates only for capitals.
#[must_use]
pub fn host_name(authority: &[u8]) -> Option<Cow<'_, str>> {
    if authority.len() > 260 {
        return None;
    }
    let text = std::str::from_utf8(authority).ok()?;
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) => return None,
        None => text,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    // An empty label is in no name; it would also leave a second final dot standing.
    if name.len() > 253 || !name.bytes().all(plain) || name.split('.').any(str::is_empty) {
        return None;
    }
    Some(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// The tenant that a request is for.
///
/// # Errors
/// [`Cause::BadRequest`] when the host is missing, repeated or no name and nothing else helps;
/// [`Cause::UnknownHost`] when no tenant has it.
pub fn identify<'t>(
    table: &'t RoutingTable,
    order: &[By],
    clues: &Clues<'_>,
) -> Result<&'t TenantEntry, Cause> {
    if clues.hosts > 1 {
        return Err(Cause::BadRequest);
    }
    let mut cause = Cause::BadRequest;
    for by in order {
        match by {
            By::Host => {
                let Some(name) = clues.host_name() else { continue };
                if let Some(tenant) = table.tenant_by_host(&name) {
                    return Ok(tenant);
                }
                cause = Cause::UnknownHost;
            }
            By::Header => {
                let Some(text) = clues.tenant else { continue };
                let id = std::str::from_utf8(text).ok().and_then(|t| TenantId::new(t).ok());
                let Some(id) = id else { return Err(Cause::BadRequest) };
                if let Some(tenant) = table.tenant(id.as_str()) {
                    return Ok(tenant);
                }
                cause = Cause::UnknownHost;
            }
        }
    }
    Err(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::table;

    #[test]
    fn hosts_are_normalised() {
        for (given, name) in [
            ("a.example.com", "a.example.com"),
            ("A.Example.COM:8443", "a.example.com"),
            ("a.example.com.", "a.example.com"),
            ("a.example.com.:80", "a.example.com"),
        ] {
            assert_eq!(host_name(given.as_bytes()).as_deref(), Some(name));
        }
        for bad in [
            "",
            ":80",
            "[::1]:80",
            "user@a.com",
            "a.com:x",
            "a b",
            "a.com:123456",
            "ä.com",
            ".",
            "..",
            "a.com..",
            "a..com",
            ".a.com",
        ] {
            assert_eq!(host_name(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn exact_host_then_wildcard_then_header_in_the_order_given() {
        let t = table();
        let host = |h: &'static str| Clues { host: Some(h.as_bytes()), hosts: 1, ..Clues::default() };
        let id = |order: &[By], c: &Clues<'_>| identify(&t, order, c).map(|t| t.id.to_string());
        assert_eq!(id(&By::EDGE, &host("mercy.example.com")), Ok("mercy".into()));
        assert_eq!(id(&By::EDGE, &host("any.clinics.example.com")), Ok("clinic".into()));
        assert_eq!(id(&By::EDGE, &host("two.labels.clinics.example.com")), Err(Cause::UnknownHost));
        assert_eq!(id(&By::EDGE, &Clues::default()), Err(Cause::BadRequest));
        let both = Clues { tenant: Some(b"clinic"), ..host("mercy.example.com") };
        assert_eq!(id(&By::EDGE, &both), Ok("mercy".into()));
        assert_eq!(id(&By::GATE, &both), Ok("clinic".into()));
        assert_eq!(id(&By::GATE, &Clues { tenant: Some(b"\xff"), ..both }), Err(Cause::BadRequest));
        let absolute = Clues { authority: Some(b"mercy.example.com:80"), ..host("x.clinics.example.com") };
        assert_eq!(id(&By::EDGE, &absolute), Ok("mercy".into()));
        assert_eq!(id(&By::EDGE, &Clues { hosts: 2, ..host("mercy.example.com") }), Err(Cause::BadRequest));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(a: Vec<u8>, b: Vec<u8>, c: Vec<u8>) {
            let clues = Clues { authority: Some(&a), host: Some(&b), hosts: 1, tenant: Some(&c) };
            let _ = identify(&table(), &By::EDGE, &clues);
            if let Some(name) = host_name(&a) {
                proptest::prop_assert!(!name.bytes().any(|b| b.is_ascii_uppercase()));
            }
        }
    }
}
