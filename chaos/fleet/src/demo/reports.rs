//! The reports, on the story's own run: what routers saw, beside what users saw.

use std::time::Duration;

use anyhow::Context;
use domicile_api::moves::{MoveKind, MoveView};
use domicile_api::reports::{Rto, RtoReport, SlaReport};
use domicile_chaos_kit::wait;
use domicile_model::clock::pause;

use super::stage::Stage;
use super::{failover, switchover};

/// Routers tell a minute when it is over; the control planes were away meanwhile.
const TOLD: Duration = Duration::from_secs(90);
/// Between two looks.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints them. What the reports say of the forced move is compared with `rto_ms`, which users measured.
pub(super) async fn tell(stage: &mut Stage, rto_ms: Option<f64>) -> anyhow::Result<()> {
    let moves = stage.operator().moves().await?;
    let newest = |kind: MoveKind, cell: &str| {
        let mut ours = moves.iter().filter(|m| m.kind == kind && m.cell.as_str() == cell);
        ours.next().map(|m: &MoveView| m.id.to_string()).context("a move of the story is not listed")
    };
    let (planned, forced) =
        (newest(MoveKind::Switchover, switchover::CELL)?, newest(MoveKind::Failover, failover::CELL)?);
    let there = wait::eventually(TOLD, "routers have told what they saw", || async {
        pause(AGAIN).await;
        let mut seen = Vec::new();
        for id in [&planned, &forced] {
            let report: RtoReport = stage.operator().report(None, &["rto", id]).await.ok()?;
            seen.push(report.tenants.iter().find_map(|t| match t.rto {
                Rto::Observed { length_ms, .. } => Some(length_ms),
                Rto::NotObserved | Rto::Unharmed { .. } | Rto::StillOut { .. } => None,
            })?);
        }
        Some(seen)
    });
    let seen = there.await;
    for id in [&planned, &forced] {
        stage.operator().show(&["report", "rto", id]).await?;
    }
    stage.operator().show(&["report", "sla"]).await?;
    let seen = seen?;
    let by_users = rto_ms.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms:.0} ms"));
    stage.must(
        seen[1] > seen[0],
        &format!("the forced move cost {} ms by the routers' facts ({by_users} by the users' record), a planned one {} ms", seen[1], seen[0]),
    );
    let sla: SlaReport = stage.operator().report(None, &["sla"]).await?;
    let (counted, unknown) =
        sla.tenants.iter().fold((0, 0), |(n, u), t| (n + t.sla.requests, u + t.sla.unknown));
    stage.must(
        counted > 0 && unknown > 0,
        &format!("{counted} requests were told of; the minutes before this fleet are unknown, not available"),
    );
    Ok(())
}
