//! Samples of every cell's databases, on leaders and followers alike: a follower that takes over when the leader died
//! with its region needs the history.

use std::collections::BTreeMap;
use std::time::Duration;

use domicile_model::clock::{BootTime, pause};
use domicile_model::{Cell, CellId, Placement, RegionId};
use domicile_store::{StoreError, codec};

use crate::app::App;

/// How often each cell is sampled.
const SAMPLE: Duration = Duration::from_millis(250);
/// How often the list of cells and holders is read again.
const REFRESH: Duration = Duration::from_secs(1);
/// How long that may take; the list as last read is used meanwhile.
const READ: Duration = Duration::from_millis(500);

/// Samples without end. The registry being away changes nothing: the cells as last seen are sampled.
pub(crate) async fn run(app: &App) {
    let mut cells: Vec<(Cell, RegionId)> = Vec::new();
    // A closed cell has no holder, and just then its history decides over a forced move: it stays with the last one.
    let mut holders: BTreeMap<CellId, RegionId> = BTreeMap::new();
    let mut refreshed: Option<BootTime> = None;
    loop {
        let now = app.clock.now();
        if refreshed.is_none_or(|at| now.since(at) >= REFRESH) {
            refreshed = Some(now);
            let reading = read(app, &mut holders);
            match tokio::time::timeout(READ, reading).await {
                Ok(Ok(read)) => cells = read,
                Ok(Err(error)) => tracing::debug!(%error, "the list of cells was not refreshed"),
                Err(_) => tracing::debug!("the list of cells was not refreshed in time"),
            }
        }
        app.engine.sampler().tick(&cells);
        pause(SAMPLE).await;
    }
}

async fn read(
    app: &App,
    holders: &mut BTreeMap<CellId, RegionId>,
) -> Result<Vec<(Cell, RegionId)>, StoreError> {
    let (cells, placements) = futures::try_join!(app.store.list("cells/"), app.store.list("placements/"))?;
    for entry in placements.entries {
        if let Ok(Placement { cell, holder: Some(holder), .. }) = codec::decode(&entry.value) {
            holders.insert(cell, holder);
        }
    }
    let found = cells.entries.iter().filter_map(|e| codec::decode::<Cell>(&e.value).ok());
    Ok(found
        .filter(|cell| cell.database.is_some())
        .filter_map(|cell| holders.get(&cell.id).cloned().map(|holder| (cell, holder)))
        .collect())
}
