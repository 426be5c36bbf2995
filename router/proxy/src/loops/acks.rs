//! Acknowledgements: `routers/<id>`, under a lease, says which revision this router has applied and which cells in
//! transition still have requests in flight here. Moves wait for it, so it comes at once.
//!
//! Written only while the table is fresh and the own listener answers: a router that can't hear or can't serve must
//! drop out of the list by itself.

use std::sync::Arc;
use std::time::Duration;

use domicile_mirror::{RoutingTable, Source};
use domicile_model::clock::{BootTime, pause};
use domicile_model::{BusyCell, Phase, Revision, RouterState, World};
use domicile_store::{Commit, Key, LeaseId, Precondition, StoreError, Txn};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::config::Sabotage;
use crate::state::Shared;
use crate::upgrade::{Before, Told};

/// Between two renewals of the lease, and two repeats of what was said.
const RENEW: Duration = Duration::from_secs(1);
/// Renewals that may wait for their answers at once.
const MOST_RENEWALS: usize = 8;
/// How long an acknowledgement waits for requests in flight to end, so that it need not be followed by another one: each
/// costs a round trip to the registry, and nobody waits to hear that a router is busy.
const SOON_IDLE: Duration = Duration::from_millis(150);
/// A probe that old says nothing any more.
pub(super) const PROBED: Duration = Duration::from_secs(2);
/// How long the disk may take to keep what is acknowledged; then it is not, and tried again.
const DISK: Duration = Duration::from_secs(2);

/// What was said last, as far as somebody waits for it. The applied revision alone is not among it: every router's
/// acknowledgement raises it, and answering those would never end.
struct Said {
    world: World,
    /// Of this process, and of the one before as long as that answers requests.
    told: Told,
    /// What must be on disk.
    keep: Revision,
}

impl Said {
    fn differs(&self, from: &Self) -> bool {
        (&self.world, self.told.placements, &self.told.busy)
            != (&from.world, from.told.placements, &from.told.busy)
    }
}

/// Acknowledges for as long as the router lives.
pub async fn run(shared: Arc<Shared>) {
    let probed = watch::Sender::new(None);
    let mut probes = probed.subscribe();
    let seen = probed.subscribe();
    let ack = acknowledge(&shared, &mut probes);
    tokio::join!(ack, keep_lease(&shared, &seen), super::probe::run(&shared, &probed));
}

/// Life of the lease. No safety rests on it. Longer than a call: a lease that is granted late must not have ended before
/// it is used.
fn time_to_live(shared: &Shared) -> Duration {
    shared.config.registry_call + Duration::from_secs(1)
}

/// A table without a sign of life for this long is not fresh. A quiet stream is asked after a second, and its answer may
/// take as long as a call.
fn fresh_for(shared: &Shared) -> Duration {
    shared.config.registry_call + Duration::from_secs(2)
}

/// Whether this router hears of changes and serves.
fn alive(shared: &Shared, probed: Option<BootTime>) -> bool {
    let fresh = shared.mirror.freshness();
    let now = shared.now();
    fresh.source == Source::Live
        && fresh.age.is_some_and(|age| age < fresh_for(shared))
        && probed.is_some_and(|at| now.since(at) < PROBED)
}

async fn acknowledge(shared: &Shared, probes: &mut watch::Receiver<Option<BootTime>>) {
    let mut tables = shared.mirror.subscribe();
    let mut last: Option<(Said, BootTime)> = None;
    let mut failing = false;
    loop {
        shared.upgrade.rested().await;
        tables.mark_unchanged();
        probes.mark_unchanged();
        let probed = *probes.borrow();
        let alive = alive(shared, probed);
        if let Some(mut said) = said(shared).filter(|_| alive) {
            let now = shared.now();
            let renew = last.as_ref().is_none_or(|(_, at)| now.since(*at) >= RENEW);
            let mut changed = last.as_ref().is_none_or(|(old, _)| said.differs(old));
            if changed && !said.told.busy.is_empty() {
                // Rung by the last request that ends; the table may have gone on as well.
                let _ = tokio::time::timeout(SOON_IDLE, shared.idle.notified()).await;
                if let Some(later) = self::said(shared) {
                    said = later;
                    changed = last.as_ref().is_none_or(|(old, _)| said.differs(old));
                }
            }
            // Acknowledged only once a start without the registry would know it, too.
            let kept = (renew || changed)
                && tokio::time::timeout(DISK, shared.mirror.persisted(said.keep)).await.is_ok();
            if kept {
                match write(shared, &said).await {
                    Ok(()) => {
                        shared.metrics.acks.inc();
                        last = Some((said, now));
                        failing = false;
                    }
                    Err(why) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%why, "this router's state could not be written");
                        }
                        last = None;
                        pause(Duration::from_millis(100)).await;
                    }
                }
            }
        }
        tokio::select! {
            changed = tables.changed() => if changed.is_err() { return },
            () = shared.idle.notified() => {}
            _ = probes.changed(), if !alive => {}
            () = pause(RENEW) => {}
        }
    }
}

/// Renews the lease at a steady pace, whether or not the registry has answered the last time: answers that come late
/// must not make the lease end.
async fn keep_lease(shared: &Shared, probed: &watch::Receiver<Option<BootTime>>) {
    let mut asked = FuturesUnordered::new();
    let mut pace = tokio::time::interval(RENEW);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            Some(()) = asked.next() => continue,
        }
        let known = *lock(shared);
        let seen = *probed.borrow();
        if let Some(id) = known.filter(|_| asked.len() < MOST_RENEWALS && alive(shared, seen)) {
            asked.push(async move {
                // Only a word of the registry ends a lease here; without an answer it may well live.
                if matches!(shared.store.keep_alive(id).await, Err(StoreError::LeaseLost)) {
                    forget(shared, id);
                }
            });
        }
    }
}

/// This lease is gone; a newer one is not.
fn forget(shared: &Shared, id: LeaseId) {
    let mut known = lock(shared);
    if *known == Some(id) {
        *known = None;
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Option<LeaseId>> {
    shared.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Takes this router off the list: nobody need wait for one that has ended with nothing in flight. Best effort; the
/// lease ends by itself, too.
pub async fn leave(shared: &Shared) {
    let lease = lock(shared).take();
    if let Some(lease) = lease {
        let _ = tokio::time::timeout(DISK, shared.store.revoke(lease)).await;
    }
}

/// What is to be said now; nothing while the process before this one still answers and does not say what.
fn said(shared: &Shared) -> Option<Said> {
    let (world, own) = own(shared, &shared.table())?;
    let keep = own.placements;
    let before = shared.upgrade.before.borrow();
    let forgets = shared.config.sabotage == Sabotage::ForgetsTheOneBefore;
    let before = if forgets { &Before::Gone } else { &*before };
    Some(Said { world, told: before.and(own)?, keep })
}

/// What this process has to say for this table. The table was loaded before; the counts are read now.
pub(crate) fn own(shared: &Shared, table: &RoutingTable) -> Option<(World, Told)> {
    let world = table.world()?.clone();
    let applied = table.applied();
    let moving: Vec<_> = table
        .placements()
        .filter(|p| p.placement.phase != Phase::Serving)
        .map(|p| &p.placement.cell)
        .collect();
    if !moving.is_empty() {
        shared.inflight.await_idle();
    }
    let busy = moving
        .into_iter()
        .map(|cell| BusyCell { cell: cell.clone(), in_flight: shared.inflight.count(cell) })
        .filter(|b| b.in_flight > 0)
        .collect();
    let placements =
        table.placements().map(|p| p.modified).filter(|m| *m <= applied).max().unwrap_or(Revision::ZERO);
    let told = Told { world: world.id, applied, placements, busy };
    Some((world, told))
}

fn declared_destroyed(shared: &Shared) -> StoreError {
    StoreError::Refused(format!(
        "an operator has declared the machine of router {} destroyed: give this one another id",
        shared.config.id
    ))
}

async fn write(shared: &Shared, said: &Said) -> Result<(), StoreError> {
    if super::witness::is_barred(shared) {
        return Err(declared_destroyed(shared));
    }
    let known = *lock(shared);
    let id = match known {
        Some(id) => id,
        None => {
            let id = shared.store.grant(time_to_live(shared)).await?;
            *lock(shared) = Some(id);
            id
        }
    };
    let config = &shared.config;
    let state = RouterState {
        id: config.id.clone(),
        role: config.role,
        region: config.region.clone(),
        boot: shared.boot,
        world: said.world.id,
        applied: said.told.applied,
        busy: said.told.busy.clone(),
        listen: config.traffic_address(),
    };
    let barred = Key::Barred(config.id.clone());
    let txn = Txn::in_world(&said.world).put_leased(Key::Router(config.id.clone()), &state, id);
    let world = txn.when.len();
    match shared.store.commit(txn.when(Precondition::Absent(barred))).await {
        Ok(Commit::Done(_)) => Ok(()),
        Ok(Commit::Refused { current, .. }) if current.get(world).is_some_and(Option::is_some) => {
            super::witness::bar(shared);
            // What it said before runs out with its lease.
            forget(shared, id);
            Err(declared_destroyed(shared))
        }
        Ok(Commit::Refused { .. }) => {
            shared.mirror.relist();
            Err(StoreError::Refused("the registry is another world than the table's".into()))
        }
        Err(error) => {
            if matches!(error, StoreError::LeaseLost) {
                forget(shared, id);
            }
            Err(error)
        }
    }
}
