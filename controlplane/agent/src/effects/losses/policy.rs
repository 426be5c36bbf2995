//! Whose rows may lie where the export goes: by the registry, not by what the agent was told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile_model::{CellId, Country, Jurisdiction, Tenant, TenantId};
use domicile_store::{Store, codec};

use super::collector::Part;
use crate::failure::Failure;

/// How long the registry may take for each of the lists.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tenants of the cell, and those whose rows must not be exported.
#[derive(Debug)]
pub(super) struct Policies {
    cell: CellId,
    country: Country,
    pub(super) tenants: BTreeSet<TenantId>,
    refused: BTreeSet<TenantId>,
}

impl Policies {
    /// Reads tenants and jurisdictions.
    pub(super) async fn read(store: &dyn Store, cell: &CellId, country: Country) -> Result<Self, Failure> {
        let lists = async { futures::try_join!(store.list("tenants/"), store.list("jurisdictions/")) };
        let (tenants, jurisdictions) = tokio::time::timeout(PATIENCE, lists)
            .await
            .map_err(|_| Failure::registry("the registry did not answer within 10 s"))?
            .map_err(|e| Failure::registry(e.to_string()))?;
        let strange = |e: domicile_store::CodecError| Failure::registry(e.to_string());
        let mut known = BTreeMap::new();
        for entry in jurisdictions.entries {
            let found: Jurisdiction = codec::decode(&entry.value).map_err(strange)?;
            known.insert(found.id.clone(), found);
        }
        let mut policies =
            Self { cell: cell.clone(), country, tenants: BTreeSet::new(), refused: BTreeSet::new() };
        for entry in tenants.entries {
            let tenant: Tenant = codec::decode(&entry.value).map_err(strange)?;
            if tenant.cell != *cell {
                continue;
            }
            if !tenant.residency.allows_at_rest(country, &known) {
                policies.refused.insert(tenant.id.clone());
            }
            policies.tenants.insert(tenant.id);
        }
        Ok(policies)
    }

    /// Whether rows of this part may be written there. Rows of nobody that is known may be anybody's.
    pub(super) fn allow(&self, part: &Part) -> Result<(), Failure> {
        let country = self.country;
        let refused = |what: String| {
            Err(Failure::refused("residency", what).hint(
                "name a directory in a country that the policy allows in [losses] of the agent's file, restart the agent, and retry the move",
            ))
        };
        match part {
            Some(tenant) if self.refused.contains(tenant) => refused(format!(
                "lost rows of tenant {tenant} must not be exported to {country}: its policy does not allow that country"
            )),
            None if !self.refused.is_empty() => {
                let names: Vec<&str> = self.refused.iter().take(20).map(TenantId::as_str).collect();
                refused(format!(
                    "lost rows of no known tenant of cell {} must not be exported to {country}: they may be those of {}, whose policy does not allow that country",
                    self.cell,
                    names.join(", ")
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_model::clock::Clock;
    use domicile_model::{JurisdictionId, Residency};
    use domicile_store::memory::MemoryStore;
    use domicile_store::{Key, Txn};

    use super::*;

    #[tokio::test]
    async fn a_tenant_whose_policy_does_not_allow_the_country_is_refused_and_with_it_whatever_is_nobodys() {
        let store = MemoryStore::new(Clock::Machine);
        let cell = CellId::new("c").unwrap();
        let tenant = |id: &str, cell: &str, allowed: &[&str]| {
            let allowed = allowed.iter().map(|j| JurisdictionId::new(j).unwrap()).collect();
            Tenant {
                id: TenantId::new(id).unwrap(),
                name: id.into(),
                cell: CellId::new(cell).unwrap(),
                hosts: BTreeSet::new(),
                residency: Residency { allowed: Some(allowed), overrides: BTreeMap::new() },
            }
        };
        let eu = Jurisdiction {
            id: JurisdictionId::new("EU").unwrap(),
            countries: [Country::new("DE").unwrap()].into(),
        };
        let mut txn = Txn::bare().put(Key::Jurisdiction(eu.id.clone()), &eu);
        for t in [tenant("a", "c", &["EU"]), tenant("b", "c", &["EU", "US"]), tenant("z", "other", &["IN"])] {
            txn = txn.put(Key::Tenant(t.id.clone()), &t);
        }
        store.commit(txn).await.unwrap();
        let at = async |country: &str| {
            let country = Country::new(country).unwrap();
            Policies::read(&store, &cell, country).await.unwrap()
        };
        let part = |id: &str| Some(TenantId::new(id).unwrap());
        let germany = at("DE").await;
        for fine in [part("a"), part("b"), None] {
            germany.allow(&fine).unwrap();
        }
        let america = at("US").await;
        assert!(america.allow(&part("b")).is_ok());
        assert!(america.allow(&part("a")).unwrap_err().to_string().contains("tenant a"));
        assert!(america.allow(&None).unwrap_err().0.kind.ends_with("/residency"));
        assert!(at("IN").await.allow(&part("b")).is_err());
    }
}
