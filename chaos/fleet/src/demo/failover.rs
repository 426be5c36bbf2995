//! A region dies with data that had not left it yet. What that costs is said before, and accounted for after.

use std::time::Duration;

use anyhow::Context;
use domicile_api::moves::{LossPreview, MoveStatus};
use domicile_chaos_kit::wait;
use domicile_losses::KeyFile;
use domicile_model::clock::{Clock, pause};
use domicile_model::invariants::loss_within;

use super::stage::Stage;
use super::summary::Forced;
use crate::control::{LinkAct, UnitAct};
use crate::fault::Fault;
use crate::load::{Load, Record};
use crate::oracle;

pub(super) const CELL: &str = "nhs-trust-london";
pub(super) const DEAD: &str = "eu-west-1";
pub(super) const DR: &str = "eu-central-1";
pub(super) const LEADER: &str = "control-eu-west-1";
/// What replication may still carry: less than the writers write.
const SLOW_BYTES_PER_S: u64 = 8_000;
/// For how long, before the region dies.
const SLOW: Duration = Duration::from_secs(4);
/// The acknowledged writes that the standby must lack: more than still comes through from buffers.
const BEHIND: usize = 20;
/// For how long it must lack them.
const STAYS_BEHIND: Duration = Duration::from_millis(500);
/// How long the operator may take from the preview to the consent.
const DECIDES: Duration = Duration::from_secs(10);
/// A forced move up to serving: WAIT and what comes after it.
const SERVES: Duration = Duration::from_secs(60);
/// Coming back, listing what was lost, and following.
const RETURNS: Duration = Duration::from_secs(90);

/// A forced move: of which cell, from where to where, and after what.
#[derive(Debug, Clone)]
pub(crate) struct Case<'a> {
    pub(crate) cell: &'a str,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) fault: Fault,
    /// What replication may carry before, and for how long at least: less than the writers write, so that something is
    /// lost.
    pub(crate) slow: Option<(u64, Duration)>,
}

pub(super) async fn tell(stage: &mut Stage, fence_ms: u64) -> anyhow::Result<Forced> {
    stage.operator().until_movable(CELL, DR).await?;
    lead_from_the_region_that_dies(stage).await?;
    let slow = Some((SLOW_BYTES_PER_S, SLOW));
    let case = Case { cell: CELL, from: DEAD, to: DR, fault: Fault::RegionKilled, slow };
    let forced = one_way(stage, fence_ms, &case).await?;
    stage.must(forced.writes_lost > 0, &format!("{} acknowledged writes were lost", forced.writes_lost));
    Ok(forced)
}

/// One forced move under load, the way back of the lost side included; and whether what it cost is what was said.
pub(crate) async fn one_way(stage: &mut Stage, fence_ms: u64, case: &Case<'_>) -> anyhow::Result<Forced> {
    let Case { cell, from, to, fault, slow } = *case;
    let load = stage.load(stage.shape()).await?;
    pause(Duration::from_secs(2)).await;
    let (primary, standby) = (format!("database-{cell}-{from}"), format!("database-{cell}-{to}"));
    if let Some((bytes_per_s, length)) = slow {
        stage.say(&format!("$ domicile-chaos link limit {primary} {standby} --bytes {bytes_per_s}"));
        stage.control().link(LinkAct::Limit { bytes_per_s }, &primary, &standby, false).await?;
        pause(length).await;
        falls_behind(stage, &load, cell, to).await?;
    }
    stage.say(&format!("$ {}", fault.command(cell, from)));
    let struck = Clock::Machine.now();
    fault.strike(stage.control(), stage.fleet(), cell, from).await?;
    if let Ok(edge) = stage.fleet().unit(&format!("edge-{from}"))
        && fault.takes_the_edge()
    {
        load.edges().avoid(edge.listen());
    }

    let (preview, total) = preview(stage, cell, to).await?;
    let accept = preview.consent_within(DECIDES).unwrap_or(total).to_string();
    stage.say(&format!("$ domicile failover start {cell} --to {to} --force --accept-loss {accept}"));
    let extra = ["--force", "--accept-loss", accept.as_str(), "--reason", "the region is gone"];
    let started = stage.start_move(cell, to, &extra).await?;
    let id = started.view.id.to_string();
    stage
        .operator()
        .follow(&id, SERVES, "the new region serves", |v| v.facts.serving_epoch.is_some())
        .await?;
    stage.say(&format!("{to} serves; what was lost comes back"));
    pause(Duration::from_secs(2)).await;
    fault.mend(stage.control(), stage.fleet(), cell, from).await?;
    if slow.is_some() {
        stage.control().link(LinkAct::Heal, &primary, &standby, false).await?;
    }
    let done =
        stage.operator().follow(&id, RETURNS, "the move is done", |v| v.status == MoveStatus::Done).await?;
    load.edges().avoid_none();
    pause(Duration::from_secs(1)).await;
    let records = stage.unload(load).await;
    stage.say(&format!("$ domicile failover losses {id}"));
    let report = stage.operator().losses(&id).await?;
    let stored = stage.stored().await?;
    let lost = oracle::lost(&records, &stored);
    let key = KeyFile::read(&stage.fleet().home.join("secrets").join("losses"))?;
    let lie = stage.fleet().lost_rows(cell, from, &id);
    let exports = oracle::exported(&report, &lie, &key)?;
    let listed = oracle::classify(&report, &exports, &records);
    let missing = oracle::not_exported(&lost, &exports).len();
    stage.must(
        missing == 0,
        &format!(
            "the lost rows lie encrypted in {from}, one file for each tenant; {missing} are missing there"
        ),
    );
    let cost = oracle::cost(&records, cell, struck.as_nanos(), &stored);
    let forced = Forced {
        writes_acknowledged: records.iter().filter(|r| r.acknowledged()).count() as u64,
        writes_lost: lost.len() as u64,
        preview_sampled_transactions: preview.sampled_transactions.unwrap_or(0),
        preview_sample_age_ms: preview.sample_age_ms.unwrap_or(0),
        preview_until_stopped_transactions: preview.until_stopped_transactions.unwrap_or(0),
        write_rate_per_s: preview.write_rate_per_s.unwrap_or(0.0),
        listed_acknowledged: listed.acknowledged,
        listed_unanswered: listed.unanswered,
        listed_unknown: listed.unknown,
        rpo_ms: cost.rpo_ms,
        rto_ms: cost.rto_ms,
        fence_wait_ms: done.facts.fence_wait_ms,
        unprotected_ms: done.facts.unprotected_ms,
        reprotected_by: done.facts.reprotected_by.clone(),
        starts_blocked: started.blocked,
    };
    let jobs = oracle::jobs(&records, cell, done.facts.serving_epoch.map_or(u64::MAX, |e| e.0));
    stage.must(jobs > 0, &format!("the worker in {to} has written {jobs} rows, each by leave of its gate"));
    let elsewhere = lost.iter().filter(|r| r.cell != cell).count();
    stage.must(elsewhere == 0, "only the cell that was moved lost anything");
    judge(stage, &forced, report.lost(), total, fence_ms);
    Ok(forced)
}

fn judge(stage: &mut Stage, forced: &Forced, listed: u64, total: u64, fence_ms: u64) {
    stage.must(
        forced.listed_acknowledged == forced.writes_lost,
        &format!("{} acknowledged writes are listed, just those that are lost", forced.listed_acknowledged),
    );
    stage.must(
        forced.listed_unknown == 0,
        &format!(
            "{} listed ones had no answer; {} are unknown to the users",
            forced.listed_unanswered, forced.listed_unknown
        ),
    );
    let within = loss_within(total, listed);
    stage.must(within.is_ok(), &format!("the preview said at most {total} transactions, {listed} are lost"));
    let most = listed as f64
        + (fence_ms + forced.preview_sample_age_ms + 2_000) as f64 / 1_000.0 * forced.write_rate_per_s;
    stage.must(
        total as f64 <= most.ceil(),
        &format!("the preview exaggerates by no more than {:.0}", most.ceil()),
    );
    stage.must(forced.rto_ms.is_some(), "the cell's users write again");
}

/// Waits until the standby lacks so many acknowledged writes that some will be lost, by its own word, and still lacks them
/// a moment later: how fast it falls behind depends on how busy the users are, and on what waits in buffers; and a busy
/// machine's standby is a little behind at any time.
async fn falls_behind(stage: &Stage, load: &Load, cell: &str, to: &str) -> anyhow::Result<()> {
    let standby = stage.fleet().database(cell, to)?;
    let behind = || async {
        let records: Vec<Record> = load.so_far().into_iter().filter(|r| r.cell == cell).collect();
        pause(STAYS_BEHIND).await;
        let stored = oracle::stored(standby).await.ok()?;
        (oracle::lost(&records, &stored).len() >= BEHIND).then_some(())
    };
    wait::eventually(SERVES, "the standby falls behind", behind).await?;
    Ok(())
}

/// The preview, once every part of it is known; and its sum.
async fn preview(stage: &mut Stage, cell: &str, to: &str) -> anyhow::Result<(LossPreview, u64)> {
    stage.say(&format!("$ domicile failover plan {cell} --to {to} --force"));
    let known = wait::eventually(SERVES, "the preview is known", || async {
        let preview = stage.operator().plan(cell, to, &["--force"]).await.ok()?.preview?;
        let total = preview.total()?;
        Some((preview, total))
    })
    .await?;
    let (preview, total) = known;
    stage.say(&format!(
        "  {} transactions missing there {} ms ago, {} more until it has certainly stopped: {total}",
        preview.sampled_transactions.unwrap_or(0),
        preview.sample_age_ms.unwrap_or(0),
        preview.until_stopped_transactions.unwrap_or(0),
    ));
    for line in &preview.because {
        stage.say(&format!("    {line}"));
    }
    Ok((preview, total))
}

/// The story kills the leading control plane, so the one in that region must lead.
async fn lead_from_the_region_that_dies(stage: &Stage) -> anyhow::Result<()> {
    let leader = stage.operator().status().await?.leader.context("nobody leads")?;
    if leader == LEADER {
        return Ok(());
    }
    stage.control().unit(UnitAct::Kill, &leader).await?;
    wait::eventually(SERVES, "the other control plane leads", || async {
        let status = stage.operator().status().await.ok()?;
        (status.leader.as_deref() == Some(LEADER)).then_some(())
    })
    .await?;
    stage.control().unit(UnitAct::Start, &leader).await?;
    Ok(())
}
