//! Host names, as tenants are reached by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::IdError;

const RULE: &str =
    "dot-separated labels of 1 to 63 characters a-z, 0-9 and `-`, at most 253 in all, in lower case";

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_host(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').count() >= 2
        && text.split('.').all(|label| {
            let b = label.as_bytes();
            (1..=63).contains(&b.len())
                && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
                && b[0] != b'-'
                && b[b.len() - 1] != b'-'
        })
        // An address in the place of a name would match no certificate and no DNS record.
        && !text.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit()))
}

/// A fully qualified host name in lower case, without the final dot (RFC 1123 section 2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(std::sync::Arc<str>);

impl HostName {
    /// Checks the form; capitals are lowered.
    ///
    /// # Errors
    /// When the text is not a host name of at least two labels.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let lower = text.to_ascii_lowercase();
        if is_host(&lower) {
            Ok(Self(lower.into()))
        } else {
            Err(IdError { text: cut(text), what: "a host name", rule: RULE })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl TryFrom<String> for HostName {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> Self {
        host.0.to_string()
    }
}

/// What a tenant may claim: a host name, or `*.` in front of one for every name exactly one label below it, as in
/// certificates (RFC 9525 section 6.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name.
    Exact(HostName),
    /// Every name one label below this one.
    Wildcard(HostName),
}

impl HostPattern {
    /// Reads `name` or `*.name`.
    ///
    /// # Errors
    /// When what stands there, or behind `*.`, is not a host name.
    pub fn new(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("*.") {
            Some(rest) => {
                HostName::new(rest).map(Self::Wildcard).map_err(|e| IdError { text: cut(text), ..e })
            }
            None => HostName::new(text).map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.pad(host.as_str()),
            Self::Wildcard(host) => f.pad(&format!("*.{host}")),
        }
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl TryFrom<String> for HostPattern {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_lowered_and_checked() {
        assert_eq!(HostName::new("Mercy.Example.com").unwrap().as_str(), "mercy.example.com");
        let long = format!("{}.com", "a.".repeat(130));
        for bad in
            ["", "com", "a..b", ".a.b", "a.b.", "a b.c", "ex_ample.com", "-a.com", "1.2.3.4", long.as_str()]
        {
            assert!(HostName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wildcard_stands_only_in_front() {
        assert!(matches!(HostPattern::new("*.clinics.example.com"), Ok(HostPattern::Wildcard(_))));
        assert!(HostPattern::new("a.*.com").is_err());
        assert!(HostPattern::new("*").is_err());
        assert_eq!(HostPattern::new("*.A.com").unwrap().to_string(), "*.a.com");
    }
}
