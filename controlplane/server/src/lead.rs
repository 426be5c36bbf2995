//! Leadership: several control planes run, one leads, and only while it leads does it move anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile_engine::LeadEnd;
use domicile_model::clock::pause;
use domicile_model::{FenceConstants, World};
use domicile_store::lead::{Candidate, LeadError, Reign};
use domicile_store::world::{WorldError, init_world, read_world};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Led};
use crate::archive::pass;
use crate::causes::chain;
use crate::reconcile;
use crate::room;

/// Between two tries to reach a registry that can't be used.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a resignation may take; after that the lease runs out by itself.
const RESIGN: Duration = Duration::from_secs(1);

/// What leading needs besides [`App`].
pub(crate) struct Ambition {
    /// Where others pass changes on to.
    pub(crate) address: std::net::SocketAddr,
    /// Life of the lease.
    pub(crate) lease: Duration,
    /// For a registry that has no world yet.
    pub(crate) constants: FenceConstants,
    /// Set once a world was seen: a registry without one is a lost one from then on, and gets no new one from here.
    pub(crate) settled: AtomicBool,
}

/// Campaigns and leads, over and over, until told to stop. Never ends because the registry is away.
pub(crate) async fn run(
    app: &Arc<App>,
    ambition: &Ambition,
    leading: &watch::Sender<Option<Arc<Led>>>,
    cancel: &CancellationToken,
) {
    while !cancel.is_cancelled() {
        let Some(reign) = rise(app, ambition, cancel).await else { continue };
        let led = Led { leadership: reign.leadership().clone(), world: reign.world().clone() };
        tracing::info!(name = app.name, fence = %led.leadership.fence.0, "this control plane leads");
        app.metrics.leading.set(1);
        app.metrics.elected.inc();
        leading.send_replace(Some(Arc::new(led.clone())));
        govern(app, &reign, led, leading, cancel).await;
        app.metrics.leading.set(0);
        if tokio::time::timeout(RESIGN, reign.resign()).await.is_err() {
            tracing::info!("the resignation was not confirmed; the lease runs out by itself");
        }
    }
}

/// Becomes the leader; none when told to stop, or when it has to begin again.
async fn rise(app: &App, ambition: &Ambition, cancel: &CancellationToken) -> Option<Reign> {
    let world = tokio::select! {
        () = cancel.cancelled() => return None,
        world = world(app, ambition) => world,
    };
    let candidate = Candidate::new(
        Arc::clone(&app.store),
        app.clock.clone(),
        world,
        &*app.name,
        ambition.address,
        ambition.lease,
    );
    let risen = tokio::select! {
        () = cancel.cancelled() => return None,
        risen = candidate.campaign() => risen,
    };
    match risen {
        Ok(reign) => Some(reign),
        Err(error) => {
            match error {
                LeadError::AnotherWorld => tracing::warn!("the registry has become another world"),
                error => tracing::error!(error = chain(&error), "leading is not possible"),
            }
            pause(AGAIN).await;
            None
        }
    }
}

/// The registry's world, asked for until it is there and reconciled. Made if there is none, but not where this process has
/// seen one before: an empty world in place of a lost registry would stand in the way of its restore.
async fn world(app: &App, ambition: &Ambition) -> World {
    loop {
        let found = if ambition.settled.load(Ordering::SeqCst) {
            read_world(&*app.store).await.and_then(|world| {
                world.ok_or(WorldError::Damaged { present: "nothing any more", missing: "world" })
            })
        } else {
            init_world(&*app.store, ambition.constants).await
        };
        ambition.settled.fetch_or(found.is_ok(), Ordering::SeqCst);
        match found {
            Ok(world) if world.reconciled => return world,
            Ok(world) => {
                tracing::warn!(
                    world = %world.id,
                    "nobody leads: the registry is being restored, and its epochs are not raised yet; if that was interrupted, repeat `domicile registry restore` with --replace-world"
                );
                pause(AGAIN).await;
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the registry can't be used yet; reads and traffic go on"
                );
                pause(AGAIN).await;
            }
        }
    }
}

/// Does a leader's work until the reign ends. The engine has stopped when this returns.
async fn govern(
    app: &Arc<App>,
    reign: &Reign,
    led: Led,
    leading: &watch::Sender<Option<Arc<Led>>>,
    cancel: &CancellationToken,
) {
    let stop = cancel.child_token();
    let moves = app.engine.lead(led.leadership.clone(), led.world.clone(), stop.clone());
    tokio::pin!(moves);
    let ended = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        ended = reign.hold() => {
            tracing::warn!(why = %ended, "this control plane leads no more");
            None
        }
        end = &mut moves => Some(end),
        () = reconcile::run(app, &led) => None,
        () = room::forget(app) => None,
        () = pass::run(app, &led) => None,
    };
    // First nobody here is told any more that this one leads, then the work stops.
    leading.send_replace(None);
    stop.cancel();
    let end = match ended {
        Some(end) => end,
        None => moves.await,
    };
    if let LeadEnd::Deposed(why) = end {
        tracing::warn!(why, "another control plane leads");
    }
}
