//! A planned move there and back: nothing fails, nothing is lost, and the answers say who gave them.

use std::time::Duration;

use domicile_api::moves::{LogEntry, LogEvent, MoveStatus};
use domicile_model::clock::pause;

use super::stage::Stage;
use super::summary::Planned;
use crate::load::{Kind, Record, Shape};
use crate::oracle;

pub(super) const CELL: &str = "mercy-health";
pub(super) const HOME: &str = "us-east-1";
pub(super) const DR: &str = "us-west-2";
/// How long a planned move may take, re-protection included.
const MOVE: Duration = Duration::from_secs(90);

pub(super) async fn tell(stage: &mut Stage) -> anyhow::Result<(Planned, Planned)> {
    let there = told(stage, DR).await?;
    let back = told(stage, HOME).await?;
    Ok((there, back))
}

async fn told(stage: &mut Stage, to: &str) -> anyhow::Result<Planned> {
    let planned = one_way(stage, CELL, to, Duration::from_secs(2)).await?;
    let (held, across) = (planned.requests_held, planned.uploads_across_the_pause);
    stage.must(held > 0, &format!("{held} requests were held, so the move was felt and forgiven"));
    stage.must(across > 0, "an upload that spanned the pause arrived whole");
    Ok(planned)
}

/// One planned move under load, uploads of the cell's own tenant among it; the load begins `around` before it and ends
/// `around` after it.
pub(crate) async fn one_way(
    stage: &mut Stage,
    cell: &str,
    to: &str,
    around: Duration,
) -> anyhow::Result<Planned> {
    stage.operator().until_movable(cell, to).await?;
    let load = stage.load(Shape { uploads: Some(cell.to_owned()), ..stage.shape() }).await?;
    let held_before = stage.held().await;
    pause(around).await;
    stage.say(&format!("$ domicile failover start {cell} --to {to}"));
    let started = stage.start_move(cell, to, &[]).await?;
    let id = started.view.id.to_string();
    let done = stage
        .operator()
        .follow(&id, MOVE, "the move is done", |view| view.status == MoveStatus::Done)
        .await?;
    stage.say(&format!("done; production runs from {to}, and the other side follows it again"));
    // Some time in the new region: it must not only be reached, it must carry.
    pause(around).await;
    let held = stage.held().await - held_before;
    let records = stage.unload(load).await;
    let stored = stage.stored().await?;
    let lost = oracle::lost(&records, &stored).len() as u64;
    let numbers = oracle::numbers(&records, cell);
    let across = uploads_across_the_pause(&records, cell);
    stage.tell_failures(&records);
    stage.must(numbers.requests_failed == 0, &format!("of {} requests none failed", numbers.requests));
    stage.must(lost == 0, &format!("of {} acknowledged writes none is lost", numbers.writes_acknowledged));
    let epoch = done.facts.serving_epoch.map_or(u64::MAX, |e| e.0);
    answers_name(stage, &records, cell, to, epoch).await?;
    let jobs = oracle::jobs(&records, cell, epoch);
    stage.must(jobs > 0, &format!("the worker there has written {jobs} rows, each by leave of its gate"));
    Ok(Planned {
        requests: numbers.requests,
        requests_failed: numbers.requests_failed,
        requests_held: held,
        writes_acknowledged: numbers.writes_acknowledged,
        writes_lost: lost,
        write_pause_ms_p50: numbers.write_pause_ms_p50,
        write_pause_ms_max: numbers.write_pause_ms_max,
        read_ms_p99: numbers.read_ms_p99,
        uploads_across_the_pause: across,
        unprotected_ms: done.facts.unprotected_ms,
        starts_blocked: started.blocked,
        hold_ms: hold_ms(&done.log),
        closed_ms: done.facts.closed_ms,
        write_pauses_ms: oracle::pauses(&records, cell),
    })
}

/// How long the move waited until what was in flight had ended, by its log. What the users' pause is made of can't be
/// told without: an upload in flight keeps everybody waiting for as long as it takes.
fn hold_ms(log: &[LogEntry]) -> Option<u64> {
    let at = |event| log.iter().find(|e| e.step == "hold" && e.event == event).map(|e| e.at);
    let held = at(LogEvent::Done)?.duration_since(at(LogEvent::Intent)?);
    u64::try_from(held.as_millis()).ok()
}

/// The answers of the new epoch must name the new region's own database, as that says itself.
async fn answers_name(
    stage: &mut Stage,
    records: &[Record],
    cell: &str,
    region: &str,
    epoch: u64,
) -> anyhow::Result<()> {
    let (system_id, timeline) = oracle::identity(stage.fleet().database(cell, region)?).await?;
    let new: Vec<_> = records
        .iter()
        .filter(|r| r.cell == cell)
        .filter_map(Record::answer)
        .filter(|a| a.epoch >= epoch)
        .collect();
    let right = new.iter().all(|a| a.region == region && a.system_id == system_id && a.timeline == timeline);
    let what =
        format!("{} answers name {region}'s database (system {system_id}, timeline {timeline})", new.len());
    stage.must(right && !new.is_empty(), &what);
    Ok(())
}

/// Acknowledged uploads that were under way during the writers' longest gap.
fn uploads_across_the_pause(records: &[Record], cell: &str) -> u64 {
    let mut longest = (0, 0);
    let writers: std::collections::BTreeSet<_> = records.iter().filter_map(|r| r.writer).collect();
    for writer in writers {
        let mine = records.iter().filter(|r| r.cell == cell && r.writer == Some(writer) && r.acknowledged());
        let mut ended: Vec<u64> = mine.map(|r| r.ended).collect();
        ended.sort_unstable();
        for pair in ended.windows(2) {
            if pair[1] - pair[0] > longest.1 - longest.0 {
                longest = (pair[0], pair[1]);
            }
        }
    }
    let across =
        |r: &&Record| r.kind == Kind::Upload && r.acknowledged() && r.sent < longest.1 && r.ended > longest.0;
    records.iter().filter(across).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_lasts_from_its_intent_to_its_end() {
        let entry = |n, step: &str, event, at: &str| LogEntry {
            n,
            at: at.parse().unwrap(),
            leader: "control-a".into(),
            step: step.into(),
            event,
            note: String::new(),
        };
        let log = [
            entry(1, "settle", LogEvent::Intent, "2026-01-01T00:00:00Z"),
            entry(2, "hold", LogEvent::Intent, "2026-01-01T00:00:01Z"),
            entry(3, "hold", LogEvent::Done, "2026-01-01T00:00:01.240Z"),
            entry(4, "close", LogEvent::Done, "2026-01-01T00:00:01.300Z"),
        ];
        assert_eq!(hold_ms(&log), Some(240));
        assert_eq!(hold_ms(&log[..2]), None, "it has not ended");
    }
}
