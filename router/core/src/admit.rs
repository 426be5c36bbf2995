//! May this request go on now, and where to? The one place that decides it, for edges and gates.

use std::net::SocketAddr;

use domicile_mirror::{RoutingTable, TenantEntry};
use domicile_model::clock::BootTime;
use domicile_model::{CellId, ClosedReason, Epoch, Phase, RegionId, Role};

use crate::ending::may_decrypt;
use crate::errors::Cause;

/// A request, as far as the decision needs it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Whose it is.
    pub tenant: &'a TenantEntry,
    /// Who decides.
    pub role: Role,
    /// Where the one who decides runs.
    pub own: &'a RegionId,
    /// The epoch that a trusted router sent it with.
    pub sent: Option<Epoch>,
    /// It carries a valid pass: a hold does not stop it.
    pub pass: bool,
    /// It was held here, or its body can't be sent twice: a gate then forwards it itself where it would otherwise
    /// answer 421.
    pub carry: bool,
    /// The present moment.
    pub now: BootTime,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The region that answers.
    pub region: RegionId,
    /// Under this epoch.
    pub epoch: Epoch,
    /// Its addresses, as the registry names them. Never empty.
    pub addresses: Vec<SocketAddr>,
    /// Whether this is the application of the own region (a gate), rather than another router.
    pub local: bool,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Send it there.
    Forward(Route),
    /// Wait for a newer placement, at most until then.
    Hold {
        /// Running out of time releases nothing: refuse with [`Cause::HoldTimeout`].
        until: BootTime,
    },
    /// 421: another region or another epoch serves it.
    Misdirected {
        /// The cell.
        cell: CellId,
        /// Its epoch.
        epoch: Epoch,
        /// Who serves it.
        region: RegionId,
    },
    /// The sender knows a newer epoch: wait a little for the table.
    WaitForTable,
    /// The region holds the cell but has no proof of it: wait a little for one.
    WaitForProof {
        /// The cell.
        cell: CellId,
        /// The epoch that needs the proof.
        epoch: Epoch,
    },
    /// Not served.
    Refuse(Cause),
}

/// *Residency is a hard precondition*: whether the tenant's policy lets this region answer. The same rule as
/// `domicile_model::invariants::may_serve`, on the routing table.
#[must_use]
pub fn may_serve(table: &RoutingTable, tenant: &TenantEntry, region: &RegionId) -> bool {
    table
        .region(region.as_str())
        .is_some_and(|r| tenant.residency.allows_serving(r.country, table.jurisdictions()))
}

/// Decides. `proven` says whether the own region has a proof for (cell, epoch) that admits now.
pub fn decide(table: &RoutingTable, ask: &Ask<'_>, proven: impl Fn(&CellId, Epoch) -> bool) -> Outcome {
    let cell = &ask.tenant.cell;
    let Some(placed) = table.placement(cell.as_str()) else { return Outcome::Refuse(Cause::NoTable) };
    let placement = &placed.placement;
    let gate = ask.role == Role::Gate;
    if !gate && !may_decrypt(table, ask.tenant, ask.own) {
        return Outcome::Refuse(Cause::EdgeOutside);
    }
    if gate && ask.sent.is_some_and(|sent| sent > placement.epoch) {
        return Outcome::WaitForTable;
    }
    match placement.phase {
        Phase::Closed { reason: ClosedReason::Operator | ClosedReason::Conflict, .. } => {
            return Outcome::Refuse(Cause::Closed);
        }
        Phase::Holding { .. } if ask.pass => {}
        phase => {
            if let Some(length) = phase.hold() {
                let until = placed.applied_at + length;
                return if ask.now < until {
                    Outcome::Hold { until }
                } else {
                    Outcome::Refuse(Cause::HoldTimeout)
                };
            }
        }
    }
    let Some(holder) = &placement.holder else { return Outcome::Refuse(Cause::Closed) };
    if gate && !ask.carry && (holder != ask.own || ask.sent.is_some_and(|sent| sent < placement.epoch)) {
        let (epoch, region) = (placement.epoch, holder.clone());
        return Outcome::Misdirected { cell: cell.clone(), epoch, region };
    }
    let local = gate && holder == ask.own;
    if local && may_serve(table, ask.tenant, holder) && !proven(cell, placement.epoch) {
        return Outcome::WaitForProof { cell: cell.clone(), epoch: placement.epoch };
    }
    route(table, ask.tenant, holder, placement.epoch, local)
}

fn route(
    table: &RoutingTable,
    tenant: &TenantEntry,
    region: &RegionId,
    epoch: Epoch,
    local: bool,
) -> Outcome {
    if !may_serve(table, tenant, region) {
        return Outcome::Refuse(Cause::Residency);
    }
    let cell = tenant.cell.as_str();
    let addresses =
        if local { table.application(cell, region.as_str()) } else { table.ingress(cell, region.as_str()) };
    if addresses.is_empty() {
        return Outcome::Refuse(Cause::NoAddress);
    }
    Outcome::Forward(Route { region: region.clone(), epoch, addresses: addresses.to_vec(), local })
}

/// What a 421 of one of our gates said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The cell.
    pub cell: CellId,
    /// Its epoch there.
    pub epoch: Epoch,
    /// Who serves it.
    pub region: RegionId,
}

/// How often a 421 is followed.
pub const MAX_FOLLOWS: u8 = 3;

/// Where a 421 leads: only to a strictly higher epoch than the request was sent with, only under the residency
/// check, and only while the own table does not know better.
///
/// # Errors
/// Why it is not followed.
pub fn follow(
    table: &RoutingTable,
    tenant: &TenantEntry,
    sent: Epoch,
    moved: &Moved,
    times: u8,
) -> Result<Follow, Cause> {
    if times >= MAX_FOLLOWS {
        return Err(Cause::TooManyHops);
    }
    if moved.cell != tenant.cell || moved.epoch <= sent {
        return Err(Cause::TableBehind);
    }
    if table.placement(tenant.cell.as_str()).is_some_and(|p| p.placement.epoch >= moved.epoch) {
        return Ok(Follow::DecideAgain);
    }
    match route(table, tenant, &moved.region, moved.epoch, false) {
        Outcome::Forward(route) => Ok(Follow::To(route)),
        Outcome::Refuse(cause) => Err(cause),
        _ => Err(Cause::Internal),
    }
}

/// Where a 421 leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// The own table is at least as new: it decides.
    DecideAgain,
    /// There.
    To(Route),
}

/// Whether an edge must drop an answer: it was given under `epoch`, but another region serves the cell under a newer
/// one. Looked at once, when the head arrives: the head is what acknowledges, and what arrives after it was decided
/// before the newer epoch was known here.
#[must_use]
pub fn passed(table: &RoutingTable, cell: &CellId, epoch: Epoch, region: &RegionId) -> bool {
    table.placement(cell.as_str()).is_some_and(|p| {
        p.placement.epoch > epoch && p.placement.holder.as_ref().is_some_and(|holder| holder != region)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{NOW, place, table, table_with};

    fn ask<'a>(tenant: &'a TenantEntry, role: Role, own: &'a RegionId) -> Ask<'a> {
        Ask { tenant, role, own, sent: None, pass: false, carry: false, now: NOW }
    }

    fn region(name: &str) -> RegionId {
        RegionId::new(name).unwrap()
    }

    fn go(outcome: &Outcome) -> Option<(&str, u64, bool)> {
        match outcome {
            Outcome::Forward(r) => Some((r.region.as_str(), r.epoch.0, r.local)),
            _ => None,
        }
    }

    #[test]
    fn an_edge_outside_the_policy_reads_nothing_for_the_tenant() {
        let t = table();
        let tenant = t.tenant("mercy").unwrap();
        for (own, refused) in [("us-west-2", false), ("eu-west-1", false), ("here", true)] {
            let own = region(own);
            let outcome = decide(&t, &ask(tenant, Role::Edge, &own), |_, _| false);
            assert_eq!(outcome == Outcome::Refuse(Cause::EdgeOutside), refused, "{own}: {outcome:?}");
        }
        let anyone = t.tenant("clinic").unwrap();
        let own = region("here");
        let outcome = decide(&t, &ask(anyone, Role::Edge, &own), |_, _| false);
        assert_ne!(outcome, Outcome::Refuse(Cause::EdgeOutside));
    }

    const HOLDING: Phase = Phase::Holding { for_ms: 1_000 };
    const MOVING: Phase = Phase::Closed { reason: ClosedReason::Moving, for_ms: 1_000 };

    #[test]
    fn an_edge_forwards_to_the_holder_and_holds_from_when_it_applied_the_hold() {
        let own = region("eu-west-1");
        let t = table();
        let tenant = t.tenant("mercy").unwrap();
        let e = ask(tenant, Role::Edge, &own);
        assert_eq!(go(&decide(&t, &e, |_, _| false)), Some(("us-east-1", 1, false)));
        for phase in [HOLDING, MOVING] {
            let holder = (phase == HOLDING).then_some("us-east-1");
            let t = table_with(&[place("mercy", 2, holder, phase)]);
            let until = NOW + Duration::from_secs(1);
            assert_eq!(decide(&t, &e, |_, _| true), Outcome::Hold { until });
            let late = Ask { now: until, ..e };
            assert_eq!(decide(&t, &late, |_, _| true), Outcome::Refuse(Cause::HoldTimeout));
        }
        let t = table_with(&[place("mercy", 2, Some("us-east-1"), HOLDING)]);
        assert!(go(&decide(&t, &Ask { pass: true, ..e }, |_, _| true)).is_some());
        let t = table_with(&[place("mercy", 2, None, MOVING)]);
        assert!(go(&decide(&t, &Ask { pass: true, ..e }, |_, _| true)).is_none(), "nobody holds it");
        for reason in [ClosedReason::Conflict, ClosedReason::Operator] {
            let closed = Phase::Closed { reason, for_ms: 1_000 };
            let t = table_with(&[place("mercy", 2, None, closed)]);
            for ask in [e, Ask { pass: true, ..e }, ask(tenant, Role::Gate, &own)] {
                assert_eq!(decide(&t, &ask, |_, _| true), Outcome::Refuse(Cause::Closed), "{reason:?}");
            }
        }
        let refused = Cause::Closed.entry();
        assert_eq!((refused.status, refused.label), (503, "closed"));
    }

    #[test]
    fn nothing_leads_out_of_the_policy() {
        // mercy may be in the US only.
        let own = region("eu-west-1");
        let t = table_with(&[place("mercy", 5, Some("eu-west-1"), Phase::Serving)]);
        let tenant = t.tenant("mercy").unwrap();
        for role in [Role::Edge, Role::Gate] {
            for carry in [false, true] {
                let e = Ask { carry, ..ask(tenant, role, &own) };
                assert_eq!(decide(&t, &e, |_, _| true), Outcome::Refuse(Cause::Residency));
            }
        }
        let t = table();
        let moved = Moved { cell: tenant.cell.clone(), epoch: Epoch(9), region: own };
        assert_eq!(follow(&t, tenant, Epoch(1), &moved, 0), Err(Cause::Residency));
    }

    #[test]
    fn a_gate_admits_only_under_a_proof_for_this_epoch() {
        let own = region("us-east-1");
        let t = table();
        let tenant = t.tenant("mercy").unwrap();
        let g = Ask { sent: Some(Epoch(1)), ..ask(tenant, Role::Gate, &own) };
        let wait = Outcome::WaitForProof { cell: tenant.cell.clone(), epoch: Epoch(1) };
        assert_eq!(decide(&t, &g, |_, _| false), wait);
        let only = |c: &CellId, e| c.as_str() == "mercy" && e == Epoch(1);
        assert_eq!(go(&decide(&t, &g, only)), Some(("us-east-1", 1, true)));
        assert_eq!(decide(&t, &Ask { sent: Some(Epoch(2)), ..g }, only), Outcome::WaitForTable);
    }

    #[test]
    fn a_gate_refuses_what_is_older_or_elsewhere_and_carries_on_what_it_held() {
        let (east, west) = (region("us-east-1"), region("us-west-2"));
        let t = table_with(&[place("mercy", 3, Some("us-west-2"), Phase::Serving)]);
        let tenant = t.tenant("mercy").unwrap();
        let old = Ask { sent: Some(Epoch(1)), ..ask(tenant, Role::Gate, &east) };
        let moved = Outcome::Misdirected { cell: tenant.cell.clone(), epoch: Epoch(3), region: west.clone() };
        assert_eq!(decide(&t, &old, |_, _| true), moved);
        assert_eq!(
            go(&decide(&t, &Ask { carry: true, ..old }, |_, _| true)),
            Some(("us-west-2", 3, false)),
            "a relay goes to the other gate, never to the own application"
        );
        // The right gate, an older epoch: the edge must come again with the newer one.
        let here = Ask { own: &west, ..old };
        assert_eq!(decide(&t, &here, |_, _| true), moved);
        assert_eq!(go(&decide(&t, &Ask { carry: true, ..here }, |_, _| true)), Some(("us-west-2", 3, true)));
    }

    #[test]
    fn a_421_is_followed_only_upwards_and_not_for_ever() {
        let t = table();
        let tenant = t.tenant("mercy").unwrap();
        let to =
            |epoch| Moved { cell: tenant.cell.clone(), epoch: Epoch(epoch), region: region("us-west-2") };
        let Ok(Follow::To(r)) = follow(&t, tenant, Epoch(1), &to(2), 0) else { panic!("not followed") };
        assert_eq!((r.region.as_str(), r.epoch, r.local), ("us-west-2", Epoch(2), false));
        assert_eq!(follow(&t, tenant, Epoch(2), &to(2), 0), Err(Cause::TableBehind));
        assert_eq!(follow(&t, tenant, Epoch(1), &to(2), MAX_FOLLOWS), Err(Cause::TooManyHops));
        let newer = table_with(&[place("mercy", 4, None, MOVING)]);
        assert_eq!(follow(&newer, tenant, Epoch(1), &to(3), 0), Ok(Follow::DecideAgain));
        let nowhere = Moved { region: region("mars"), ..to(2) };
        assert_eq!(follow(&t, tenant, Epoch(1), &nowhere, 0), Err(Cause::Residency));
    }

    #[test]
    fn an_answer_of_a_passed_epoch_is_dropped_once_another_region_serves() {
        let cell = CellId::new("mercy").unwrap();
        let east = region("us-east-1");
        let closed = table_with(&[place("mercy", 2, None, MOVING)]);
        assert!(!passed(&closed, &cell, Epoch(1), &east), "nobody else can have answered yet");
        let west = table_with(&[place("mercy", 3, Some("us-west-2"), Phase::Serving)]);
        assert!(passed(&west, &cell, Epoch(1), &east));
        let back = table_with(&[place("mercy", 3, Some("us-east-1"), Phase::Serving)]);
        assert!(!passed(&back, &cell, Epoch(1), &east));
    }
}
