//! The registry as the API shows it. Pure.

use std::net::SocketAddr;

use domicile_api::views::{CellView, LagView, RegionView, RouteView, RouterView, TenantView};
use domicile_model::invariants::may_serve;
use domicile_model::{Cell, ClosedReason, Epoch, Phase, Placement, RegionId, Role, Tenant};

use crate::current::Current;

/// A cell; none if it was never placed (it is being created).
#[must_use]
pub fn cell(current: &Current, cell: &Cell, lag: Option<LagView>) -> CellView {
    let placement = current.placements.get(&cell.id).map(|(p, _)| p);
    CellView {
        id: cell.id.clone(),
        primary: cell.primary.clone(),
        dr: cell.dr.clone(),
        holder: placement.and_then(|p| p.holder.clone()),
        standby: placement.and_then(|p| p.standby.clone()),
        epoch: placement.map_or(Epoch(0), |p| p.epoch),
        phase: phase(placement),
        availability_first: placement.is_some_and(|p| p.availability_first),
        witnesses: placement.map(|p| p.witnesses.members.iter().cloned().collect()).unwrap_or_default(),
        tenants: current.tenants_of.get(&cell.id).map(|t| t.iter().cloned().collect()).unwrap_or_default(),
        lag,
        health: None,
        unprotected: None,
        building: None,
        retention: None,
        agents: Vec::new(),
        fence_levels: Vec::new(),
        closed: current.closed.get(&cell.id).cloned(),
        moving: current.moves.get(&cell.id).map(ToString::to_string),
    }
}

/// A cell without a placement serves nobody.
fn phase(placement: Option<&Placement>) -> Phase {
    placement.map_or(Phase::Closed { reason: ClosedReason::Operator, for_ms: 0 }, |p| p.phase)
}

/// A region.
#[must_use]
pub fn region(current: &Current, region: &domicile_model::Region) -> RegionView {
    let held =
        |p: &Placement| p.holder.as_ref() == Some(&region.id) && current.fleet.cells.contains_key(&p.cell);
    RegionView {
        id: region.id.clone(),
        country: region.country,
        holds: current.placements.values().filter(|(p, _)| held(p)).map(|(p, _)| p.cell.clone()).collect(),
        gates: gates(current, &region.id),
    }
}

fn gates(current: &Current, region: &RegionId) -> Vec<domicile_model::RouterId> {
    let of = |r: &&domicile_model::RouterState| r.role == Role::Gate && r.region == *region;
    current.routers.values().filter(of).map(|r| r.id.clone()).collect()
}

/// A tenant.
#[must_use]
pub fn tenant(current: &Current, tenant: &Tenant) -> TenantView {
    let placement = current.placements.get(&tenant.cell).map(|(p, _)| p);
    let mut residency: Vec<String> =
        tenant.residency.allowed.iter().flatten().map(ToString::to_string).collect();
    for (category, allowed) in &tenant.residency.overrides {
        let names: Vec<&str> = allowed.iter().map(domicile_model::JurisdictionId::as_str).collect();
        residency.push(format!("{category}: {}", names.join(" ")));
    }
    TenantView {
        id: tenant.id.clone(),
        name: tenant.name.clone(),
        cell: tenant.cell.clone(),
        hosts: tenant.hosts.iter().map(ToString::to_string).collect(),
        region: placement.and_then(|p| p.holder.clone()),
        epoch: placement.map_or(Epoch(0), |p| p.epoch),
        phase: phase(placement),
        residency,
    }
}

/// A router.
#[must_use]
pub fn router(router: &domicile_model::RouterState) -> RouterView {
    RouterView {
        id: router.id.clone(),
        role: router.role,
        region: router.region.clone(),
        applied: router.applied.0,
    }
}

/// Where a request of a tenant goes now, and why: the decisions of a router, in its order.
#[must_use]
pub fn route(current: &Current, tenant: &Tenant) -> RouteView {
    let id = &tenant.id;
    let cell = &tenant.cell;
    let placement = current.placements.get(cell).map(|(p, _)| p);
    let mut why = vec![format!("tenant {id} lives in cell {cell}")];
    let mut view = RouteView {
        tenant: id.clone(),
        cell: cell.clone(),
        region: None,
        ingress: Vec::new(),
        epoch: placement.map_or(Epoch(0), |p| p.epoch),
        phase: phase(placement),
        why: Vec::new(),
    };
    let Some(placement) = placement else {
        why.push(format!("cell {cell} has no placement: requests get 503"));
        view.why = why;
        return view;
    };
    match (&placement.holder, placement.phase) {
        (None, phase) => {
            why.push(format!("nobody holds cell {cell} since epoch {}", placement.epoch));
            if let Some(closed) = current.closed.get(cell) {
                why.push(format!("{} closed it because: {}", closed.by, closed.reason));
            }
            why.push(match phase.hold() {
                Some(wait) if !wait.is_zero() => {
                    format!("requests wait up to {} ms for the region that takes over", wait.as_millis())
                }
                _ => "requests get 503 until somebody holds it again".into(),
            });
        }
        (Some(holder), phase) => {
            why.push(format!("region {holder} holds cell {cell} under epoch {}", placement.epoch));
            if let Phase::Holding { for_ms } = phase {
                why.push(format!("a move is under way: new requests wait up to {for_ms} ms"));
            }
            match may_serve(&current.fleet, tenant, holder) {
                Ok(()) => {
                    let country = current.fleet.regions.get(holder).map(|r| r.country.to_string());
                    why.push(format!(
                        "the residency policy of {id} allows {holder} ({})",
                        country.unwrap_or_else(|| "unknown country".into())
                    ));
                    view.region = Some(holder.clone());
                    view.ingress = ingress(current, cell, holder);
                    if view.ingress.is_empty() {
                        why.push(format!("neither the cell nor {holder} has an ingress: requests get 502"));
                    }
                }
                Err(broken) => {
                    why.push(format!("{}: requests get 451 and nothing leaves", broken.detail));
                }
            }
            let gates = gates(current, holder);
            if gates.is_empty() {
                why.push(format!("no gate of {holder} is known to be there"));
            }
        }
    }
    view.why = why;
    view
}

fn ingress(current: &Current, cell: &domicile_model::CellId, region: &RegionId) -> Vec<SocketAddr> {
    let own = current.fleet.cells.get(cell).and_then(|c| c.ingress.get(region));
    own.filter(|list| !list.is_empty())
        .or_else(|| current.fleet.regions.get(region).map(|r| &r.ingress))
        .cloned()
        .unwrap_or_default()
}
