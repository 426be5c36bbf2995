//! Beside the moves: what differs between the registry and what is there. Takes no input, keeps no state that decides
//! anything, and repeats on a signal and on a timer. Every control plane tells what it finds; only the leader mends, and
//! only what no person has to decide:
//!
//! - witnesses for cells that have none, and trust in the first key of an agent (both elsewhere, run from here);
//! - `closed/<cell>` of a cell that is not closed by a person any more, or is gone: the record and the placement change
//!   together, so one without the other is left over from a restore.
//!
//! Everything else is reported: which of two databases is right is never guessed.

use std::collections::BTreeSet;
use std::time::Duration;

use domicile_api::views::FindingView;
use domicile_engine::{drift, retention, witnesses};
use domicile_model::clock::BootTime;
use domicile_model::{CellId, ClosedReason, Phase, Revision};
use domicile_store::{Commit, Key, Precondition, Txn};
use jiff::Timestamp;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

use crate::agents;
use crate::app::{App, Led};
use crate::audit::AuditEntry;
use crate::causes::chain;
use crate::current::Current;
use crate::protection;
use crate::waiting;

/// Between two rounds for witnesses and agents.
const ROUND: Duration = Duration::from_secs(1);
/// Longest time between two looks at everything, which read the whole registry.
const WHOLE: Duration = Duration::from_secs(10);
/// A look at databases that is older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(10);

/// Everything that a person should look at, as this control plane sees it.
#[must_use]
pub(crate) fn findings(app: &App, current: &Current) -> Vec<FindingView> {
    let mut found: Vec<FindingView> = current
        .fleet
        .cells
        .values()
        .filter_map(|cell| Some((cell, &current.placements.get(&cell.id)?.0)))
        .flat_map(|(cell, placement)| {
            let seen = app.engine.sampler().seen(&cell.id, FRESH);
            let mut found = drift::findings(cell, placement, current.moves.contains_key(&cell.id), &seen);
            // Also while a move has the cell: it may just be building the standby that is away.
            let kept = app
                .engine
                .sampler()
                .retention(&cell.id)
                .filter(|kept| u128::from(kept.age_ms) <= FRESH.as_millis());
            if let (Some(holder), Some(kept)) = (&placement.holder, kept) {
                found.extend(retention::findings(cell, holder, &kept));
            }
            found
        })
        .collect();
    found.extend(strangers(current));
    found
}

/// Routers that follow another registry than most: they route by what stood there once.
fn strangers(current: &Current) -> Vec<FindingView> {
    let Some(world) = &current.world else { return Vec::new() };
    let strange = current.routers.values().filter(|router| router.world != world.id);
    strange
        .map(|router| FindingView {
            kind: "router-of-another-world".into(),
            cell: None,
            region: Some(router.region.clone()),
            what: format!(
                "router {} in {} follows the registry as it was before a restore: restart it if it does not come round within a minute",
                router.id, router.region
            ),
        })
        .collect()
}

/// Records of closings whose cells are not closed by a person.
fn left_over(current: &Current) -> Vec<(CellId, Option<Revision>)> {
    let stands = |cell: &CellId| {
        current.placements.get(cell).is_some_and(|(placement, _)| {
            matches!(placement.phase, Phase::Closed { reason: ClosedReason::Operator, .. })
        })
    };
    let left = current.closed.keys().filter(|cell| !stands(cell));
    left.map(|cell| (cell.clone(), current.placements.get(cell).map(|(_, at)| *at))).collect()
}

/// Deletes a record that nothing refers to, if neither it nor the placement has changed since it was seen.
async fn mend(app: &App, led: &Led, current: &Current) {
    for (cell, placed) in left_over(current) {
        let key = Key::Closed(cell.clone());
        let Some(seen) = current.modified.get(&key) else { continue };
        let placement = Key::Placement(cell.clone());
        let what = format!("the record that cell {cell} is closed, which it is not");
        let txn = Txn::fenced(&led.world, &led.leadership)
            .when(Precondition::ModifiedAt(key.clone(), *seen))
            .when(match placed {
                Some(at) => Precondition::ModifiedAt(placement, at),
                None => Precondition::Absent(placement),
            })
            .when(Precondition::Absent(Key::Move(cell)))
            .delete(key)
            .op(AuditEntry::now("control plane", &app.name, "mend", vec![what.clone()]).write());
        match app.store.commit(txn).await {
            Ok(Commit::Done(_)) => tracing::warn!(what, "removed what was left over"),
            // It has changed meanwhile: the next round sees it.
            Ok(Commit::Refused { .. }) => {}
            Err(error) => tracing::warn!(error = chain(&error), "what is left over stays for now"),
        }
    }
}

/// The leader's rounds, without end.
pub(crate) async fn run(app: &App, led: &Led) {
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut looked: Option<BootTime> = None;
    loop {
        match witnesses::assign(&*app.store, &led.leadership, &led.world).await {
            Ok(0) => {}
            Ok(n) => tracing::info!(cells = n, "gave witnesses to cells"),
            Err(error) => tracing::warn!(error = chain(&error), "cells without witnesses stay so for now"),
        }
        agents::register(app, led).await;
        let now = app.clock.now();
        if looked.is_none_or(|at| now.since(at) >= WHOLE) {
            looked = Some(now);
            whole(app, led, &mut told).await;
        }
        // A change of the fleet is a signal to look at everything.
        if tokio::time::timeout(ROUND, app.changed.notified()).await.is_ok() {
            looked = None;
        }
    }
}

async fn whole(app: &App, led: &Led, told: &mut BTreeSet<String>) {
    let Ok(view) = app.look().await else { return };
    let mut found = findings(app, &view.current);
    let moves: Vec<_> = view.current.moves.values().copied().collect();
    // Where the registry does not tell, the last numbers stay: the next look is ten seconds away.
    if let Ok(waiting) = app.engine.waiting(&moves).await {
        let now = Timestamp::now();
        app.metrics.waiting.set(&waiting, now);
        found.extend(waiting::findings(&waiting, now));
    }
    app.metrics.drift.set(&found, &view.current);
    protection::measure(app, &view.current);
    // Once each, as long as it lasts.
    let now: BTreeSet<String> = found.into_iter().map(|f| format!("{}: {}", f.kind, f.what)).collect();
    for new in now.difference(told) {
        tracing::warn!("{new}");
    }
    *told = now;
    mend(app, led, &view.current).await;
}

/// What an SRE would alarm on.
#[derive(Debug, Clone)]
pub struct DriftMetrics {
    findings: IntGaugeVec,
    closed: IntGauge,
}

/// Every kind of finding, so that those that are over show zero.
const KINDS: [&str; 15] = [
    "move-without-record",
    "conflict",
    "placed-elsewhere",
    "choice-pending",
    "holder-not-writable",
    "weak-fence",
    "stray-primary",
    "standby-down",
    "orphaned-standby",
    "other-history",
    "unprotected",
    "wal-unbounded",
    "wal-near-limit",
    "slot-unread",
    "waits-for-approval",
];

impl DriftMetrics {
    /// Registered, at zero.
    ///
    /// # Errors
    /// Never: the names are fixed and differ from the others'.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let findings = IntGaugeVec::new(
            Opts::new(
                "domicile_control_findings",
                "what differs between registry and reality, as the leader sees it",
            ),
            &["kind"],
        )?;
        let closed = IntGauge::new(
            "domicile_control_cells_closed",
            "cells that a person has closed, as the leader sees it",
        )?;
        registry.register(Box::new(findings.clone()))?;
        registry.register(Box::new(closed.clone()))?;
        Ok(Self { findings, closed })
    }

    fn set(&self, found: &[FindingView], current: &Current) {
        for kind in KINDS.into_iter().chain(["router-of-another-world"]) {
            let n = found.iter().filter(|f| f.kind == kind).count();
            self.findings.with_label_values(&[kind]).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
        self.closed.set(i64::try_from(current.closed.len()).unwrap_or(i64::MAX));
    }
}
