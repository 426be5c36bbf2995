//! Where a tenant's data may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fleet::Jurisdiction;
use crate::ids::{Country, JurisdictionId};

/// A kind of handling of a tenant's data, each of which a policy may restrict apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// Requests are answered there: gate and application.
    Processing,
    /// The writable database stands there.
    Storage,
    /// The standby stands there, and takes over in a disaster.
    Dr,
    /// Users' TLS ends there: an edge anywhere else passes their connections on without decrypting them.
    Tls,
}

impl Category {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Processing, Self::Storage, Self::Dr, Self::Tls];

    /// The name in regions.toml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Storage => "storage",
            Self::Dr => "dr",
            Self::Tls => "tls",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A tenant's policy: the jurisdictions that are allowed, with overrides per category.
///
/// No policy at all (`allowed` empty and no override) allows every place: the tenant did not ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Residency {
    /// For every category that has no override. None: not restricted.
    pub allowed: Option<BTreeSet<JurisdictionId>>,
    /// Instead of `allowed`, for one category.
    pub overrides: BTreeMap<Category, BTreeSet<JurisdictionId>>,
}

impl Residency {
    /// The jurisdictions that this category is restricted to; none if it is not.
    #[must_use]
    pub fn restriction(&self, category: Category) -> Option<&BTreeSet<JurisdictionId>> {
        self.overrides.get(&category).or(self.allowed.as_ref())
    }

    /// Whether data of this category may be in this country.
    #[must_use]
    pub fn allows(
        &self,
        category: Category,
        country: Country,
        jurisdictions: &BTreeMap<JurisdictionId, Jurisdiction>,
    ) -> bool {
        self.restriction(category).is_none_or(|allowed| {
            allowed.iter().any(|id| match jurisdictions.get(id) {
                Some(set) => set.countries.contains(&country),
                None => id.as_str() == country.as_str(),
            })
        })
    }

    /// Whether data that nobody serves may lie in this country, such as lost rows that wait to be read: where the database
    /// may stand, or its standby.
    #[must_use]
    pub fn allows_at_rest(
        &self,
        country: Country,
        jurisdictions: &BTreeMap<JurisdictionId, Jurisdiction>,
    ) -> bool {
        self.allows(Category::Storage, country, jurisdictions)
            || self.allows(Category::Dr, country, jurisdictions)
    }

    /// Whether requests may be answered in this country: as the primary (`processing` and `storage`), or as the DR
    /// region after a move (`dr`).
    #[must_use]
    pub fn allows_serving(
        &self,
        country: Country,
        jurisdictions: &BTreeMap<JurisdictionId, Jurisdiction>,
    ) -> bool {
        self.allows(Category::Dr, country, jurisdictions)
            || (self.allows(Category::Processing, country, jurisdictions)
                && self.allows(Category::Storage, country, jurisdictions))
    }
}
