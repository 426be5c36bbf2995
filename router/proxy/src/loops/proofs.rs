//! The registry proof: one linearizable read of `world` and `fences/<own region>` every RENEW, and at once when a
//! placement makes a cell ours that the proof in hand does not cover.

use std::sync::Arc;
use std::time::Duration;

use domicile_mirror::RoutingTable;
use domicile_model::clock::{BootTime, pause};
use domicile_model::proof::{NoProof, RegistryAnswer};
use domicile_model::{Revision, World};
use domicile_router_core::proofs::Holdings;
use domicile_store::codec::decode;
use domicile_store::{Key, StoreError};

use crate::state::{Proofs, Shared};

/// The shortest time between two questions, when one is wanted at once.
const LEAST: Duration = Duration::from_millis(2);
/// How long to wait for the table to come to a fence that is ahead of it, before asking again.
const BEHIND: Duration = Duration::from_millis(50);

/// Why a question led to no proof.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the answer took longer than a proof may")]
    Late,
    #[error("the world record can't be read: {0}")]
    World(#[from] domicile_store::CodecError),
    #[error(transparent)]
    NoProof(#[from] NoProof),
    #[error("there is no routing table yet")]
    NoTable,
    #[error("the registry is another cluster than the table's")]
    OtherCluster,
}

/// Renews for as long as the router lives.
pub async fn run(shared: Arc<Shared>) {
    let mut tables = shared.mirror.subscribe();
    let mut failing = false;
    loop {
        tables.mark_unchanged();
        let began = shared.now();
        let result = ask(&shared).await;
        let behind = matches!(result, Err(Missed::NoProof(NoProof::FencedAhead)));
        match &result {
            Ok(()) if failing => tracing::info!("proofs come from the registry again"),
            Err(why) if !failing && !behind => tracing::warn!(%why, "no proof from the registry"),
            _ => {}
        }
        failing = result.is_err() && !behind;
        if matches!(
            result,
            Err(Missed::OtherCluster | Missed::NoProof(NoProof::OtherWorld | NoProof::OtherHistory))
        ) {
            shared.mirror.relist();
        }
        pause(LEAST).await;
        // From question to question: an answer that took long leaves less of its proof.
        let took = shared.now().since(began);
        let renew = if behind { BEHIND } else { shared.constants().renew().saturating_sub(took) };
        let uncovered = async {
            // A change that brings no cell of ours is no reason to ask again.
            while tables.changed().await.is_ok() {
                if behind || gained(&shared) {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = pause(renew) => {}
            // While the registry is down, requests that wait for a proof must not turn this loop into a storm.
            () = async { shared.prove_now.notified().await; if failing { pause(BEHIND).await; } } => {}
            () = uncovered => {}
        }
    }
}

/// Whether the table shows a cell as ours that the proof in hand does not cover.
fn gained(shared: &Shared) -> bool {
    let Proofs::Book(book) = &shared.proofs else { return false };
    let (table, book) = (shared.table(), book.load());
    let region = &shared.config.region;
    table.placements().any(|p| {
        let cell = &p.placement.cell;
        p.placement.holder.as_ref() == Some(region)
            && !book.registry_covers(cell, p.placement.epoch)
            && table.provable(cell.as_str(), region).is_some()
    })
}

async fn ask(shared: &Shared) -> Result<(), Missed> {
    let region = &shared.config.region;
    let before = shared.table();
    let asked = shared.now();
    let keys = [Key::World, Key::Fence(region.clone())];
    let limit = shared.constants().fence();
    let (header, entries) =
        tokio::time::timeout(limit, shared.store.read(&keys)).await.map_err(|_| Missed::Late)??;
    let mut entries = entries.into_iter();
    let world = entries.next().flatten().map(|e| decode::<World>(&e.value)).transpose()?;
    let fence = entries.next().flatten().map_or(Revision::ZERO, |e| e.modified);
    let answer = RegistryAnswer { world, header: header.revision, fence };
    // The table of now may already have applied a fence that the one before had not; but it may also have gone past
    // the answer, where the one before did not. Either one that passes is proof.
    let after = shared.table();
    let first = try_with(shared, &answer, asked, &after, header.cluster);
    if first.is_ok() { first } else { try_with(shared, &answer, asked, &before, header.cluster) }
}

fn try_with(
    shared: &Shared,
    answer: &RegistryAnswer,
    asked: BootTime,
    table: &RoutingTable,
    cluster: u64,
) -> Result<(), Missed> {
    if table.cluster() != Some(cluster) {
        return Err(if table.cluster().is_none() { Missed::NoTable } else { Missed::OtherCluster });
    }
    let holdings = Holdings::of_table(table, &shared.config.region).ok_or(Missed::NoTable)?;
    // Looked at before the book is changed, so that a failed try leaves it and its readers alone.
    domicile_model::proof::registry_proves(answer, holdings.world, holdings.applied)?;
    shared.prove(|book| {
        // Proved just above; an older answer than the one in hand changes nothing.
        let _ = book.on_registry(answer, asked, &holdings);
        book.tidy(shared.now());
    });
    Ok(())
}
