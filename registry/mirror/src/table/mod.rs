//! The routing table: an immutable snapshot of what routing needs from the registry.

mod apply;
mod relist;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use domicile_model::proof::held_by;
use domicile_model::{
    CellId, Epoch, Jurisdiction, JurisdictionId, Region, RegionId, Revision, RouterId, TenantId,
    WitnessState, World,
};
use domicile_store::Key;

use crate::entry::{CellEntry, Placed, TenantEntry};
use shards::{Keyed, Shards};

pub use apply::{Applied, Refusal};
pub use relist::Relisted;

/// Who holds a host name, as `hosts/<pattern>` says; for wildcards the name below which they reach.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    name: Arc<str>,
    tenant: TenantId,
}

impl Keyed for Host {
    fn key(&self) -> &str {
        &self.name
    }
}
impl Keyed for TenantEntry {
    fn key(&self) -> &str {
        self.id.as_str()
    }
}
impl Keyed for Arc<domicile_model::Cell> {
    fn key(&self) -> &str {
        self.id.as_str()
    }
}
impl Keyed for Arc<Placed> {
    fn key(&self) -> &str {
        self.placement.cell.as_str()
    }
}

/// An immutable snapshot. Cheap to clone; lookups allocate nothing.
#[derive(Debug, Clone)]
pub struct RoutingTable {
    applied: Revision,
    cluster: Option<u64>,
    world: Option<Arc<World>>,
    diverged: Option<Arc<str>>,
    tenants: Shards<TenantEntry>,
    exact: Shards<Host>,
    wildcard: Shards<Host>,
    cells: Shards<Arc<domicile_model::Cell>>,
    placements: Shards<Arc<Placed>>,
    regions: Arc<BTreeMap<RegionId, Region>>,
    jurisdictions: Arc<BTreeMap<JurisdictionId, Jurisdiction>>,
    witnesses: Arc<BTreeMap<RouterId, WitnessState>>,
    /// Records that could not be taken over, with the reason.
    refused: Arc<BTreeMap<Key, Arc<str>>>,
    /// The last epochs of placements that were removed: a cell that comes back starts above.
    floors: Arc<BTreeMap<CellId, Epoch>>,
    policies: apply::Policies,
}

impl Default for RoutingTable {
    fn default() -> Self {
        Self::empty()
    }
}

impl RoutingTable {
    /// A table of nothing, before the registry or the last-good file was read.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            applied: Revision::ZERO,
            cluster: None,
            world: None,
            diverged: None,
            tenants: Shards::new(),
            exact: Shards::new(),
            wildcard: Shards::new(),
            cells: Shards::new(),
            placements: Shards::new(),
            regions: Arc::default(),
            jurisdictions: Arc::default(),
            witnesses: Arc::default(),
            refused: Arc::default(),
            floors: Arc::default(),
            policies: apply::Policies::default(),
        }
    }

    /// The revision up to which every change has been applied.
    #[must_use]
    pub const fn applied(&self) -> Revision {
        self.applied
    }

    /// The cluster that the table was listed from; none for a table of nothing.
    #[must_use]
    pub const fn cluster(&self) -> Option<u64> {
        self.cluster
    }

    /// The world that the table belongs to.
    #[must_use]
    pub fn world(&self) -> Option<&World> {
        self.world.as_deref()
    }

    /// Why the registry's history can't be the one that this table came from, although it bears the same world's
    /// name (or none): no proof may rest on the table until the registry has a new world. None on an ordinary day.
    #[must_use]
    pub fn diverged(&self) -> Option<&str> {
        self.diverged.as_deref()
    }

    /// The tenant that a host name leads to: the exact name first, then a wildcard one label above. `host` must be
    /// in lower case, without port and final dot.
    #[must_use]
    pub fn tenant_by_host(&self, host: &str) -> Option<&TenantEntry> {
        let claim = self.exact.get(host).or_else(|| {
            let (label, above) = host.split_once('.')?;
            // A wildcard stands for a label; an empty one, or the asterisk itself, is none.
            let is_label = !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if is_label { self.wildcard.get(above) } else { None }
        })?;
        self.tenants.get(claim.tenant.as_str())
    }

    /// A tenant by its id.
    #[must_use]
    pub fn tenant(&self, id: &str) -> Option<&TenantEntry> {
        self.tenants.get(id)
    }

    /// A cell with its placement.
    #[must_use]
    pub fn cell(&self, id: &str) -> Option<CellEntry<'_>> {
        let cell = self.cells.get(id)?;
        Some(CellEntry { cell, placed: self.placement(id) })
    }

    /// A cell's placement, whether or not the cell's own record is there.
    #[must_use]
    pub fn placement(&self, cell: &str) -> Option<&Placed> {
        self.placements.get(cell).map(|placed| &**placed)
    }

    /// The placement of a cell for which this region may be given a proof: held by the region, not closed, at most as
    /// new as what was applied, not in doubt, and in a history that is the registry's. **The only test before a proof.**
    #[must_use]
    pub fn provable(&self, cell: &str, region: &RegionId) -> Option<&Placed> {
        let placed = self.placement(cell)?;
        let sure = self.diverged.is_none() && placed.doubt.is_none() && placed.modified <= self.applied;
        (sure && held_by(&placed.placement, region)).then_some(placed)
    }

    /// A region by its id.
    #[must_use]
    pub fn region(&self, id: &str) -> Option<&Region> {
        self.regions.get(id)
    }

    /// All regions, by id.
    #[must_use]
    pub fn regions(&self) -> &BTreeMap<RegionId, Region> {
        &self.regions
    }

    /// The named sets of countries, as `Residency::allows` wants them.
    #[must_use]
    pub fn jurisdictions(&self) -> &BTreeMap<JurisdictionId, Jurisdiction> {
        &self.jurisdictions
    }

    /// What a witness has said about itself: where it answers, and up to where it is quiet.
    #[must_use]
    pub fn witness(&self, id: &RouterId) -> Option<&WitnessState> {
        self.witnesses.get(id)
    }

    /// All cells with their placements, in no particular order.
    pub fn cells(&self) -> impl Iterator<Item = CellEntry<'_>> {
        self.cells.iter().map(|cell| CellEntry { cell, placed: self.placement(cell.id.as_str()) })
    }

    /// All placements, in no particular order.
    pub fn placements(&self) -> impl Iterator<Item = &Placed> {
        self.placements.iter().map(|placed| &**placed)
    }

    /// All tenants, in no particular order.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantEntry> {
        self.tenants.iter()
    }

    /// All claims of hosts, in no particular order: the name (of a wildcard what comes after `*.`), whether it is a
    /// wildcard, and whose it is.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, bool, &TenantId)> {
        let exact = self.exact.iter().map(|host| (&*host.name, false, &host.tenant));
        exact.chain(self.wildcard.iter().map(|host| (&*host.name, true, &host.tenant)))
    }

    /// Whether nothing differs from the other one that says who may do what where: hosts, tenants, regions, jurisdictions.
    /// Never wrongly yes.
    #[must_use]
    pub fn same_policies(&self, other: &Self) -> bool {
        self.tenants.is(&other.tenants)
            && self.exact.is(&other.exact)
            && self.wildcard.is(&other.wildcard)
            && Arc::ptr_eq(&self.regions, &other.regions)
            && Arc::ptr_eq(&self.jurisdictions, &other.jurisdictions)
    }

    /// How many tenants there are.
    #[must_use]
    pub const fn tenant_count(&self) -> usize {
        self.tenants.len()
    }

    /// Where a cell's gates in a region take traffic: the cell's own addresses if it has any there, else the
    /// region's; empty if neither says.
    #[must_use]
    pub fn ingress(&self, cell: &str, region: &str) -> &[SocketAddr] {
        let own = self.cells.get(cell).and_then(|cell| cell.ingress.get(region));
        match own {
            Some(addresses) if !addresses.is_empty() => addresses,
            _ => self.regions.get(region).map_or(&[], |region| &region.ingress),
        }
    }

    /// Where the gate of a region finds a cell's application; empty if nobody said.
    #[must_use]
    pub fn application(&self, cell: &str, region: &str) -> &[SocketAddr] {
        self.cells.get(cell).and_then(|cell| cell.application.get(region)).map_or(&[], Vec::as_slice)
    }

    /// Where the gate of a region finds what takes a cell's messages over MLLP; empty if nobody said.
    #[must_use]
    pub fn mllp(&self, cell: &str, region: &str) -> &[SocketAddr] {
        self.cells.get(cell).and_then(|cell| cell.mllp.get(region)).map_or(&[], Vec::as_slice)
    }

    /// Records that could not be taken over (a newer program wrote them, or they would lower an epoch), with the
    /// reason. Where the table had an older value, that one stands.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<Key, Arc<str>> {
        &self.refused
    }

    /// A table that claims to have applied up to a revision.
    #[cfg(test)]
    pub(crate) fn with_applied(self, applied: Revision) -> Self {
        Self { applied, ..self }
    }

    /// Every claim of a host, as text.
    #[cfg(test)]
    pub(crate) fn claims(&self) -> impl Iterator<Item = String> {
        let exact = self.exact.iter().map(|host| format!("{host:?}"));
        exact.chain(self.wildcard.iter().map(|host| format!("*.{host:?}")))
    }
}
