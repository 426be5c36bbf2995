//! Samples of every cell's databases, on leaders and followers alike: a follower that takes over when the leader died
//! with its region needs the history.

use std::collections::BTreeMap;
use std::time::Duration;

use domicile_model::clock::{BootTime, pause};
use domicile_model::{Cell, CellId, FenceLevel, Placement, RegionId};
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
        tell(app, &cells);
        app.engine.sampler().tick(&cells);
        pause(SAMPLE).await;
    }
}

/// The slots of all cells, for alarms: one that nears its limit will be given up. And what stops direct writers.
fn tell(app: &App, cells: &[(Cell, RegionId)]) {
    let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    for (cell, holder) in cells {
        let lag = app.engine.sampler().lag(&cell.id);
        let of = |gauges: &prometheus::IntGaugeVec, bytes: Option<u64>| match bytes {
            Some(bytes) => gauges.with_label_values(&[cell.id.as_str()]).set(whole(bytes)),
            // Absent is unknown; it was there only if it was known before.
            None => drop(gauges.remove_label_values(&[cell.id.as_str()])),
        };
        of(&app.metrics.loss_slot_kept, lag.as_ref().and_then(|l| l.loss_slot_kept_bytes));
        of(&app.metrics.loss_slot_limit, lag.as_ref().and_then(|l| l.loss_slot_limit_bytes));
        let level = app.engine.sampler().fence_level(&cell.id, holder).map(|(level, _)| level);
        of(
            &app.metrics.fence_level,
            level.map(|level| FenceLevel::ALL.iter().take_while(|l| **l < level).count() as u64),
        );
        app.metrics.protection.retention(&cell.id, app.engine.sampler().retention(&cell.id).as_ref());
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
