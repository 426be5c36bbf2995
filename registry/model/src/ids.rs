//! Names of things. Each is its own type, so that a cell can't be passed where a tenant is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {rule}")]
pub struct IdError {
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// What it should have been, with its article: `a cell id`.
    pub what: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

const SLUG_RULE: &str = "1 to 63 characters a-z, 0-9 and `-`, beginning and ending with a letter or digit";

/// The common rule of all ids: a DNS label (RFC 1123 section 2.1), so that an id can stand in a key, a header,
/// a metric label and a host name without escaping.
fn is_slug(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks the text against the rule of ids.
            ///
            /// # Errors
            /// When the text is not 1 to 63 characters of `a-z`, `0-9` and `-` with a letter or digit at both ends.
            pub fn new(text: &str) -> Result<Self, IdError> {
                if is_slug(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError { text: text.chars().take(80).collect(), what: $what, rule: SLUG_RULE })
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.to_string()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

slug!(
    /// One customer: a hospital, a trust, a group of clinics.
    TenantId, "a tenant id"
);
slug!(
    /// The tenants that share one database pair and so fail over together.
    CellId, "a cell id"
);
slug!(
    /// A place with a country, where gates, applications and databases run.
    RegionId, "a region id"
);
slug!(
    /// A router of fixed identity. It survives restarts of the process; [`BootId`] does not.
    RouterId, "a router id"
);

/// A country by its ISO 3166-1 alpha-2 code, in capitals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

impl Country {
    /// Checks the form (two capital letters), not that the code is assigned: codes come and go.
    ///
    /// # Errors
    /// When the text is anything but two letters A to Z.
    pub fn new(text: &str) -> Result<Self, IdError> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([*a, *b])),
            _ => Err(IdError {
                text: text.chars().take(80).collect(),
                what: "a country",
                rule: "two capital letters, as in ISO 3166-1 (US, GB, IN)",
            }),
        }
    }

    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Country {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<Country> for String {
    fn from(country: Country) -> Self {
        country.as_str().to_owned()
    }
}

/// What a residency policy may allow: a country, or a named set of countries such as `EU`.
///
/// Two letters are ambiguous (`EU` is no country of ISO 3166-1, `IN` is): a name that `[jurisdictions]` defines is
/// that set, any other two capital letters are a country.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JurisdictionId(std::sync::Arc<str>);

impl JurisdictionId {
    /// Checks the form: 1 to 32 characters of `A-Z`, `a-z`, `0-9`, `-` and `_`.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let ok = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(IdError {
                text: text.chars().take(80).collect(),
                what: "a jurisdiction",
                rule: "1 to 32 letters, digits, `-` and `_` (US, EU, EEA)",
            })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JurisdictionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for JurisdictionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for JurisdictionId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<JurisdictionId> for String {
    fn from(id: JurisdictionId) -> Self {
        id.0.to_string()
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $make:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh one, never used before.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
            pub fn new() -> Self {
                Self($make)
            }

            /// The id with these bytes: for tests that need the same one twice.
            #[must_use]
            pub const fn from_u128(value: u128) -> Self {
                Self(Uuid::from_u128(value))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// One life of the registry. A restored or rebuilt registry is another world: its revisions and epochs can't be
    /// compared with those of the lost one.
    WorldId, Uuid::new_v4()
);
uuid_id!(
    /// One life of a process. Tells a restarted router from the one that acknowledged before.
    BootId, Uuid::new_v4()
);
uuid_id!(
    /// One move of a cell, and the workflow that carries it out. Sorts by time of creation (UUID version 7).
    MoveId, Uuid::now_v7()
);
uuid_id!(
    /// One freeze: a window in which no planned move starts.
    FreezeId, Uuid::now_v7()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dns_labels() {
        assert!(TenantId::new("mercy-health").is_ok());
        let long = "x".repeat(64);
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "ü", long.as_str()] {
            assert!(TenantId::new(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_country_is_two_capitals() {
        assert_eq!(Country::new("GB").unwrap().as_str(), "GB");
        for bad in ["gb", "GBR", "G", "", "G1"] {
            assert!(Country::new(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_bad_id_is_refused_on_the_way_in_from_json() {
        assert!(serde_json::from_str::<CellId>("\"Not Good\"").is_err());
    }
}
