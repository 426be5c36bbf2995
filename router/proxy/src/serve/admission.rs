//! From a request to its route: count, look, decide; wait where the decision says so, and begin again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use domicile_mirror::{RoutingTable, TenantEntry};
use domicile_model::clock::BootTime;
use domicile_model::{CellId, Epoch, TenantId};
use domicile_router_core::Cause;
use domicile_router_core::admit::{Ask, Follow, Moved, Outcome, decide, follow};

use super::ctx::Ctx;
use crate::config::Sabotage;
use crate::hold::held_until;
use crate::state::Shared;

/// How long a gate waits for its table to come to the epoch that a request was sent with, or for a proof.
const PATIENCE: Duration = Duration::from_secs(2);
/// Memory that a waiting request takes, roughly: head, buffers and task.
const BYTES_OF_A_HEAD: usize = 4 << 10;

/// What of a request decides beside its tenant.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The value of `Domicile-Pass`.
    pub pass: Option<&'a [u8]>,
    /// Bytes of its head.
    pub bytes: usize,
}

/// Finds the route and leaves it in the context, together with the count of the request in flight.
///
/// # Errors
/// Why it is not served. With [`Cause::Misdirected`] the context says where it belongs.
pub async fn admit(shared: &Shared, ctx: &mut Ctx, request: Request<'_>) -> Result<(), Cause> {
    ctx.route = None;
    ctx.address = 0;
    ctx.counted = None;
    let tenant = ctx.tenant.clone().ok_or(Cause::Internal)?;
    let began = shared.now();
    let mut refreshed = false;
    loop {
        // Taken before the decision, so that a change after it is not waited for in vain.
        let mut tables = shared.mirror.subscribe();
        let mut proofs = shared.proven.subscribe();
        let (outcome, counted) = look(shared, ctx, &tenant, request)?;
        match outcome {
            Outcome::Forward(route) => {
                // A relay never touches the own application, so no move of the own region waits for it.
                let relay = shared.is_gate() && !route.local;
                if relay {
                    shared.metrics.relays.inc();
                } else {
                    ctx.counted = Some(counted);
                }
                ctx.route = Some(route);
                return Ok(());
            }
            Outcome::Hold { .. } => {
                // Whoever waits is not in flight: the move waits for those.
                drop(counted);
                hold(shared, ctx, request.bytes).await?;
            }
            Outcome::WaitForTable => {
                drop(counted);
                let left = left(shared, began).ok_or(Cause::TableBehind)?;
                if let Some(cell) = ctx.cell.clone().filter(|_| !std::mem::replace(&mut refreshed, true)) {
                    // A read ahead of the watch; if it fails, the watch may still come.
                    let _ = tokio::time::timeout(left, shared.mirror.refresh(&cell)).await;
                } else {
                    let _ = tokio::time::timeout(left, tables.changed()).await;
                }
            }
            Outcome::WaitForProof { .. } => {
                drop(counted);
                let left = left(shared, began).ok_or(Cause::NoProof)?;
                shared.prove_now.notify_one();
                tokio::select! {
                    _ = tokio::time::timeout(left, proofs.changed()) => {}
                    _ = tables.changed() => {}
                }
            }
            Outcome::Misdirected { cell, epoch, region } => {
                ctx.moved = Some(Moved { cell, epoch, region });
                return Err(Cause::Misdirected);
            }
            Outcome::Refuse(cause) => return Err(cause),
        }
    }
}

/// Counts the request for its cell, and only then reads the table that decides.
fn look(
    shared: &Shared,
    ctx: &mut Ctx,
    tenant: &TenantId,
    request: Request<'_>,
) -> Result<(Outcome, domicile_router_core::inflight::Counted), Cause> {
    let mut table = shared.table();
    for _ in 0..8 {
        let cell = cell_of(&table, tenant)?;
        let counted = shared.inflight.enter(&cell);
        table = shared.table();
        let entry = table.tenant(tenant.as_str()).ok_or(Cause::UnknownHost)?;
        if entry.cell != cell {
            continue;
        }
        let pass =
            request.pass.zip(shared.pass.as_ref()).is_some_and(|(p, key)| key.check(p, &cell, unix_secs()));
        let pass = pass || out_of_time_goes_on(shared, &table, &cell);
        let entry = policy(shared, entry);
        let ask = Ask {
            tenant: &entry,
            role: shared.config.role,
            own: &shared.config.region,
            sent: ctx.sent,
            pass,
            carry: ctx.held || ctx.unrepeatable,
            now: shared.now(),
        };
        ctx.cell = Some(cell);
        return Ok((decide(&table, &ask, |cell, epoch| shared.admits(cell, epoch)), counted));
    }
    Err(Cause::Internal)
}

/// The tenant with the policy that it has, except in a router that a test has broken.
fn policy<'a>(shared: &Shared, tenant: &'a TenantEntry) -> Cow<'a, TenantEntry> {
    if matches!(shared.config.sabotage, Sabotage::ResidencyUnchecked | Sabotage::DecryptsOutside) {
        return Cow::Owned(TenantEntry { residency: Arc::default(), ..tenant.clone() });
    }
    Cow::Borrowed(tenant)
}

/// Never, except in a router that a test has broken.
fn out_of_time_goes_on(shared: &Shared, table: &RoutingTable, cell: &CellId) -> bool {
    shared.config.sabotage == Sabotage::HoldEndsByTime
        && held_until(table, cell).is_some_and(|until| shared.now() >= until)
}

fn cell_of(table: &RoutingTable, tenant: &TenantId) -> Result<CellId, Cause> {
    table.tenant(tenant.as_str()).map(|t| t.cell.clone()).ok_or(Cause::UnknownHost)
}

async fn hold(shared: &Shared, ctx: &mut Ctx, bytes: usize) -> Result<(), Cause> {
    let cell = ctx.cell.clone().ok_or(Cause::Internal)?;
    let began = shared.now();
    if !ctx.held {
        shared.metrics.held.inc();
    }
    ctx.held = true;
    ctx.released = None;
    let outcome = shared.hold.wait(&cell, bytes + BYTES_OF_A_HEAD, &shared.mirror, &shared.clock).await;
    let waited = shared.now().since(began);
    ctx.hold += waited;
    shared.metrics.hold_seconds.observe(waited.as_secs_f64());
    if outcome.as_ref().err() == Some(&Cause::HoldTimeout)
        && out_of_time_goes_on(shared, &shared.table(), &cell)
    {
        return Ok(());
    }
    ctx.released = Some(outcome?);
    Ok(())
}

fn left(shared: &Shared, began: BootTime) -> Option<Duration> {
    PATIENCE.checked_sub(shared.now().since(began)).filter(|left| !left.is_zero())
}

/// Takes up a 421 of one of our gates: the context then has the new route, or none where the own table shall decide
/// again.
///
/// # Errors
/// Why it is not followed.
pub fn take_up(shared: &Shared, ctx: &mut Ctx, moved: &Moved) -> Result<(), Cause> {
    let sent = ctx.route.as_ref().map(|r| r.epoch).ok_or(Cause::Internal)?;
    let table = shared.table();
    let tenant = ctx.tenant.as_ref().and_then(|t| table.tenant(t.as_str())).ok_or(Cause::UnknownHost)?;
    let sent = if shared.config.sabotage == Sabotage::FollowsDownwards { Epoch(0) } else { sent };
    let next = follow(&table, &policy(shared, tenant), sent, moved, ctx.follows)?;
    ctx.follows += 1;
    ctx.address = 0;
    ctx.route = match next {
        Follow::DecideAgain => None,
        Follow::To(route) => Some(route),
    };
    shared.metrics.follows.inc();
    Ok(())
}

/// Seconds since 1970, for passes only: a wrong clock costs a hold, never a write.
#[must_use]
pub fn unix_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
