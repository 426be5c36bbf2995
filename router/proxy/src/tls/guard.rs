//! Which keys this router may hold: none for a host that it may not decrypt. Browsers use one connection for all hosts of its
//! certificate (RFC 9113, section 9.1.1), so one that covers such a host besides others is refused as well.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use domicile_mirror::{RoutingTable, Source};
use domicile_model::RegionId;
use domicile_router_core::ending::may_decrypt;

use crate::config::{Config, Sabotage};
use crate::state::Shared;

/// The answer under one table.
#[derive(Debug)]
pub struct Guard {
    /// None: nobody knows the fleet yet.
    table: Option<Arc<RoutingTable>>,
    region: RegionId,
    sleeps: bool,
    /// The domains right above hosts that may not be decrypted here. Gone through only for certificates with a `*`.
    above: OnceLock<HashSet<Box<str>>>,
}

impl Guard {
    /// Under this table.
    #[must_use]
    pub fn new(table: Option<Arc<RoutingTable>>, config: &Config) -> Self {
        let sleeps = config.sabotage == Sabotage::DecryptsOutside;
        Self { table, region: config.region.clone(), sleeps, above: OnceLock::new() }
    }

    /// Under the present table.
    #[must_use]
    pub fn of(shared: &Shared) -> Self {
        let known = shared.mirror.freshness().source != Source::None;
        Self::new(known.then(|| shared.table()), &shared.config)
    }

    /// Whether it would say the same as another one of the same router.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (&self.table, &other.table) {
            (Some(a), Some(b)) => a.same_policies(b),
            (None, None) => true,
            _ => false,
        }
    }

    /// Why a key for these names, in lower case, must not be here; none if it may.
    #[must_use]
    pub fn forbids(&self, names: &[String]) -> Option<String> {
        if self.sleeps {
            return None;
        }
        let Some(table) = &self.table else {
            return Some("the fleet is not known yet, so nobody knows whether this key may be here".into());
        };
        let bad = |name: &&String| match name.strip_prefix("*.") {
            None => table.tenant_by_host(name).is_some_and(|t| !may_decrypt(table, t, &self.region)),
            Some(above) => self.above(table).contains(above),
        };
        names.iter().find(bad).map(|name| {
            format!(
                "covers `{name}`, and the residency policy of a tenant there does not let `{}` decrypt: its key is \
                 not read; connections are passed on to edges inside",
                self.region
            )
        })
    }

    fn above(&self, table: &RoutingTable) -> &HashSet<Box<str>> {
        self.above.get_or_init(|| {
            let outside =
                |tenant: &str| table.tenant(tenant).is_some_and(|t| !may_decrypt(table, t, &self.region));
            let of = |(name, wildcard, _): (&str, bool, _)| {
                let above = if wildcard { name } else { name.split_once('.')?.1 };
                Some(Box::from(above))
            };
            table.hosts().filter(|(_, _, tenant)| outside(tenant.as_str())).filter_map(of).collect()
        })
    }

    /// One that forbids nothing.
    #[cfg(test)]
    pub(crate) fn asleep() -> Self {
        let region = RegionId::new("here").unwrap();
        Self { table: None, region, sleeps: true, above: OnceLock::new() }
    }
}
