//! Keeps the witness's memory: every placement that the table applies is on disk before anything is said about it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use domicile_mirror::RoutingTable;
use domicile_model::clock::pause;
use domicile_model::{Placement, Revision, WitnessState, World, WorldId};
use domicile_router_core::witness::JournalError;
use domicile_store::codec::decode;
use domicile_store::{Commit, Key, Precondition, StoreError, Txn};

use crate::state::Shared;

/// How often `quiet` is looked at when nothing changes.
const TICK: Duration = Duration::from_millis(200);

/// Why the memory is not what it should be.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the registry changed while its placements were read")]
    Changed,
    #[error("a record can't be read: {0}")]
    Codec(#[from] domicile_store::CodecError),
}

/// Learns for as long as the router lives.
pub async fn run(shared: Arc<Shared>) {
    let mut tables = shared.mirror.subscribe();
    let mut learned = None;
    let mut written: Option<(WorldId, WitnessState)> = None;
    let mut troubled = false;
    loop {
        tables.mark_unchanged();
        let result = step(&shared, &mut learned, &mut written).await;
        match &result {
            Err(why) if !troubled => tracing::error!(%why, "this router can't do its duty as a witness"),
            Ok(()) if troubled => tracing::info!("this router is a witness again"),
            _ => {}
        }
        troubled = result.is_err();
        tokio::select! {
            () = pause(TICK) => {}
            changed = tables.changed(), if !troubled => if changed.is_err() { return },
        }
    }
}

/// The highest revision of a placement up to which the table misses nothing: not what was read ahead of the watch,
/// and nothing while a record is in doubt.
fn reached(table: &RoutingTable) -> Revision {
    if table.diverged().is_some() || table.placements().any(|p| p.doubt.is_some()) {
        return Revision::ZERO;
    }
    let applied = table.applied();
    table.placements().map(|p| p.modified).filter(|m| *m <= applied).max().unwrap_or(Revision::ZERO)
}

type Learned = (WorldId, Revision, Revision);

async fn step(
    shared: &Arc<Shared>,
    learned: &mut Option<Learned>,
    written: &mut Option<(WorldId, WitnessState)>,
) -> Result<(), Trouble> {
    let table = shared.table();
    let Some(world) = table.world().cloned() else { return Ok(()) };
    let newest = table.placements().map(|p| p.modified).max().unwrap_or(Revision::ZERO);
    let state = (world.id, reached(&table), newest);
    if *learned != Some(state) {
        let to = shared.clone();
        let placements = table.clone();
        in_background(move || learn(&to, world.id, placements.placements().map(|p| &p.placement), state.1))
            .await?;
        *learned = Some(state);
    }
    if with_book(shared, |b| b.needs_read()) {
        read_all(shared).await?;
    }
    let quiet = {
        let now = shared.now();
        with_book(shared, |b| b.quiet(now, &world.constants))
    };
    let Some(peer) = shared.config.peer else { return Ok(()) };
    let config = &shared.config;
    let state = WitnessState {
        id: config.id.clone(),
        region: config.region.clone(),
        role: config.role,
        boot: shared.boot,
        quiet,
        peer,
    };
    if written.as_ref() != Some(&(world.id, state.clone())) && !is_barred(shared) {
        let absent = Precondition::Absent(Key::Barred(config.id.clone()));
        let txn = Txn::in_world(&world).when(absent).put(Key::Witness(config.id.clone()), &state);
        match shared.store.commit(txn).await {
            Ok(Commit::Done(_)) => *written = Some((world.id, state)),
            Ok(Commit::Refused { current, .. }) if current.last().is_some_and(Option::is_some) => bar(shared),
            Ok(Commit::Refused { .. }) => shared.mirror.relist(),
            // The memory is what counts; it is said again in a moment.
            Err(why) => tracing::debug!(%why, "the witness record could not be written"),
        }
    }
    Ok(())
}

/// An operator has declared this machine destroyed: its identity vouches for nothing any more, whoever bears it. Once in
/// a life, so the disk may be waited for here.
pub(super) fn bar(shared: &Shared) {
    let Some(book) = &shared.witness else { return };
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    if !book.is_barred()
        && let Err(error) = book.bar()
    {
        tracing::error!(%error, "it is not on disk that this witness was declared destroyed");
    }
}

/// Whether that was said of this machine.
pub(super) fn is_barred(shared: &Shared) -> bool {
    with_book(shared, |book| book.is_barred())
}

fn with_book<R>(
    shared: &Shared,
    use_it: impl FnOnce(&mut domicile_router_core::witness::WitnessBook) -> R,
) -> R
where
    R: Default,
{
    shared
        .witness
        .as_ref()
        .map_or_else(R::default, |b| use_it(&mut b.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn learn<'a>(
    shared: &Shared,
    world: WorldId,
    placements: impl Iterator<Item = &'a Placement>,
    up_to: Revision,
) -> Result<(), JournalError> {
    match &shared.witness {
        None => Ok(()),
        Some(book) => {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            // Taken after the disk has them: WAIT counts from when this witness refuses for good.
            book.learn(world, placements, up_to, || shared.now())
        }
    }
}

/// Waits for the disk without keeping others waiting.
async fn in_background(
    work: impl FnOnce() -> Result<(), JournalError> + Send + 'static,
) -> Result<(), Trouble> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        // Only at the end of the process.
        Err(_) => Ok(()),
    }
}

/// What a missing file forgot is read from the registry itself, linearizably.
async fn read_all(shared: &Arc<Shared>) -> Result<(), Trouble> {
    let world = read_world(shared).await?;
    let listing = shared.store.list("placements/").await?;
    if read_world(shared).await?.id != world.id {
        return Err(Trouble::Changed);
    }
    let placements =
        listing.entries.iter().map(|e| decode::<Placement>(&e.value)).collect::<Result<Vec<_>, _>>()?;
    let to = shared.clone();
    in_background(move || learn(&to, world.id, placements.iter(), Revision::ZERO)).await?;
    with_book(shared, domicile_router_core::witness::WitnessBook::verified);
    Ok(())
}

async fn read_world(shared: &Shared) -> Result<World, Trouble> {
    let (_, entries) = shared.store.read(&[Key::World]).await?;
    let entry = entries.into_iter().next().flatten().ok_or(Trouble::Changed)?;
    Ok(decode(&entry.value)?)
}
