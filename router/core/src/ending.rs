//! Where the TLS of a connection ends: here, at an edge inside the tenant's policy, or nowhere. Decided by the name in the
//! ClientHello and the table alone, before anything is decrypted.

use std::net::SocketAddr;

use domicile_mirror::{RoutingTable, TenantEntry};
use domicile_model::clock::BootTime;
use domicile_model::{Category, CellId, ClosedReason, Epoch, Phase, RegionId, TenantId};

/// A region inside, with its edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The region.
    pub region: RegionId,
    /// Where its edges take TLS, as the registry names them. Never empty.
    pub edges: Vec<SocketAddr>,
}

/// A connection that is to be spliced: passed on to an edge inside, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its cell.
    pub cell: CellId,
    /// The cell's epoch, if it was placed.
    pub epoch: Option<Epoch>,
    /// Where it may be passed on to, the best first. Never empty.
    pub inside: Vec<Inside>,
}

/// Why TLS ends nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nowhere {
    /// No tenant has the name: whose plaintext it would be is not known.
    UnknownName,
    /// No edge inside is known.
    NobodyInside,
    /// An edge has passed it on already, and this one stands outside as well: the two have different tables.
    Again,
    /// Only the region that is being left is inside, and the move takes longer than connections wait.
    Late,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Decrypt it.
    Here,
    /// Pass it on.
    Elsewhere(Splice),
    /// Wait for a newer table, at most until then: only the region that is being left is inside.
    Wait {
        /// Then [`Nowhere::Late`].
        until: BootTime,
    },
    /// Close it.
    Nowhere(Nowhere),
}

/// Whether the tenant's policy lets an edge in this region decrypt. A region that nobody knows lies nowhere.
#[must_use]
pub fn may_decrypt(table: &RoutingTable, tenant: &TenantEntry, region: &RegionId) -> bool {
    match table.region(region.as_str()) {
        Some(found) => tenant.residency.allows(Category::Tls, found.country, table.jurisdictions()),
        None => tenant.residency.restriction(Category::Tls).is_none(),
    }
}

/// Decides for a connection to `name`, given in lower case, at an edge in the region `own`. `spliced`: another edge has
/// passed it on.
#[must_use]
pub fn ending(table: &RoutingTable, own: &RegionId, name: &str, spliced: bool, now: BootTime) -> Ending {
    let Some(tenant) = table.tenant_by_host(name) else { return Ending::Nowhere(Nowhere::UnknownName) };
    if may_decrypt(table, tenant, own) {
        return Ending::Here;
    }
    if spliced {
        return Ending::Nowhere(Nowhere::Again);
    }
    let (left, until) = leaves(table, &tenant.cell);
    let placed = table.placement(tenant.cell.as_str()).map(|p| &p.placement);
    let mut inside: Vec<Inside> = table
        .regions()
        .values()
        .filter(|r| r.id != *own && !r.edges.is_empty() && may_decrypt(table, tenant, &r.id))
        .map(|r| Inside { region: r.id.clone(), edges: r.edges.clone() })
        .collect();
    if inside.is_empty() {
        return Ending::Nowhere(Nowhere::NobodyInside);
    }
    inside.retain(|r| left.as_ref() != Some(&r.region));
    // From there the way to the application is the shortest.
    let far = |r: &Inside| match placed {
        Some(p) if p.holder.as_ref() == Some(&r.region) => 0,
        Some(p) if p.standby.as_ref() == Some(&r.region) => 1,
        _ => 2,
    };
    inside.sort_by_key(far);
    match until {
        _ if !inside.is_empty() => Ending::Elsewhere(Splice {
            tenant: tenant.id.clone(),
            cell: tenant.cell.clone(),
            epoch: placed.map(|p| p.epoch),
            inside,
        }),
        Some(until) if now < until => Ending::Wait { until },
        _ => Ending::Nowhere(Nowhere::Late),
    }
}

/// The region that the cell is leaving, and how long connections wait for that. A move that has closed the cell goes to the
/// standby, so it leaves the other one.
fn leaves(table: &RoutingTable, cell: &CellId) -> (Option<RegionId>, Option<BootTime>) {
    let Some(placed) = table.placement(cell.as_str()) else { return (None, None) };
    let placement = &placed.placement;
    let left = match placement.phase {
        Phase::Holding { .. } => placement.holder.clone(),
        Phase::Closed { reason: ClosedReason::Moving, .. } => placement.holder.clone().or_else(|| {
            let standby = placement.standby.as_ref()?;
            table.cell(cell.as_str())?.cell.other(standby).cloned()
        }),
        Phase::Serving | Phase::Closed { .. } => None,
    };
    (left, placement.phase.hold().map(|length| placed.applied_at + length))
}

/// A connection that is being passed on, as far as its fate depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spliced {
    /// The name that was asked for.
    pub name: String,
    /// Whose it was.
    pub tenant: TenantId,
    /// Where it goes.
    pub region: RegionId,
    /// Whether that region held the tenant's cell when it began.
    pub held: bool,
}

/// What becomes of a connection that is being passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It stays for as long as its client.
    Stays,
    /// Its region was left: it ends when both sides have been silent for a while. The edge there knows what it carries, and
    /// ends that in its protocol's manner; from here it can't be seen whether an answer is awaited.
    EndsSilent,
    /// The policy does not allow it any more.
    EndsNow,
}

/// What becomes of it under this table.
#[must_use]
pub fn fate(table: &RoutingTable, spliced: &Spliced) -> Fate {
    let Some(tenant) = table.tenant_by_host(&spliced.name).filter(|t| t.id == spliced.tenant) else {
        return Fate::EndsNow;
    };
    if table.region(spliced.region.as_str()).is_none() || !may_decrypt(table, tenant, &spliced.region) {
        return Fate::EndsNow;
    }
    let serving = |p: &&domicile_mirror::Placed| p.placement.phase == Phase::Serving;
    let elsewhere = table
        .placement(tenant.cell.as_str())
        .filter(serving)
        .is_some_and(|p| p.placement.holder.as_ref() != Some(&spliced.region));
    if spliced.held && elsewhere { Fate::EndsSilent } else { Fate::Stays }
}

#[cfg(test)]
mod tests;
