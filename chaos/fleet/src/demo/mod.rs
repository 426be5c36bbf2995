//! The story of the product, told with real parts and measured. Each chapter fails loudly if what it tells is not true.

pub(crate) mod failover;
pub mod operator;
mod outage;
mod reports;
pub mod routers;
pub(crate) mod stage;
pub(crate) mod summary;
pub(crate) mod switchover;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::{Table, presets};
use domicile_chaos_kit::wait;

use crate::control::Control;
use crate::fleet::FleetFile;
use crate::verbs;
use operator::Operator;
use stage::Stage;
use summary::Summary;

/// How long the fleet may take to serve every tenant after `apply`.
const SERVING: Duration = Duration::from_secs(60);

/// Starts a fleet, applies its `regions.toml`, and waits until every tenant is served and every cell may move: whoever types
/// the first command of the tour right after it is not turned away by a check that has no sample yet.
///
/// # Errors
/// When any of it fails.
pub async fn up(dir: &Path, fence: Option<Duration>) -> anyhow::Result<FleetFile> {
    eprintln!("starting the fleet …");
    let fleet = verbs::up(dir, fence).await?;
    let operator = Operator::new(&fleet)?;
    operator.apply(&fleet).await?;
    let ready =
        wait::eventually(SERVING, "every tenant is served", || routers::every_tenant_is_served(&fleet)).await;
    if let Err(late) = ready {
        let unserved = routers::unserved(&fleet).await;
        bail!("{late}: {} (logs: {})", unserved.join("; "), fleet.logs.display());
    }
    for cell in operator.status().await?.cells {
        if let Some(to) = &cell.standby {
            operator.until_movable(cell.id.as_str(), to.as_str()).await?;
        }
    }
    eprintln!("the fleet is up: {}", FleetFile::path(dir).display());
    Ok(fleet)
}

/// Prints what runs.
///
/// # Errors
/// When no fleet runs.
pub async fn status(dir: &Path, json: bool) -> anyhow::Result<()> {
    let fleet = FleetFile::read(dir)?;
    let status = Control::new(&fleet)?.status().await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["UNIT", "STATE", "PID", "LISTENS"]);
    for unit in &status.units {
        let pid = unit.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let listens = fleet.unit(&unit.name).map(|u| u.listen().to_string()).unwrap_or_default();
        table.add_row([unit.name.clone(), unit.state.clone(), pid, listens]);
    }
    println!("{table}");
    for (from, to, faults) in &status.faults {
        println!("link {from} -> {to}: {}", serde_json::to_string(faults)?);
    }
    Ok(())
}

/// The demo: a fleet of its own, from its start to its end.
///
/// # Errors
/// When any part of the story is not true; the fleet is ended all the same, its logs stay.
pub async fn run(dir: &Path) -> anyhow::Result<()> {
    let target = dir.parent().context("the fleet's directory lies in another one")?;
    let out = target.join("demo");
    let told = tokio::select! {
        told = tell(dir, &out) => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let ended = verbs::down(dir).await;
    told?;
    ended.map(|_| ())
}

async fn tell(dir: &Path, out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out)?;
    let stage = Stage::new();
    stage.chapter("1. A fleet in six regions, on this machine");
    let fleet = up(dir, None).await?;
    let mut stage = stage.with(fleet)?;
    stage.operator().show(&["tenant", "list"]).await?;
    let fence_ms = routers::fence_ms(stage.fleet()).await?;
    let mut summary = Summary::new(fence_ms);
    // What a chapter could still measure is worth reading even if it, or a later one, fails.
    let told = chapters(&mut stage, &mut summary).await;
    summary.write(out)?;
    println!("\n{}", summary.table());
    eprintln!("written to {}", out.join("summary.json").display());
    told?;
    stage.verdict()
}

async fn chapters(stage: &mut Stage, summary: &mut Summary) -> anyhow::Result<()> {
    stage.chapter("2. mercy-health moves to its DR region and back, under load");
    let (there, back) = switchover::tell(stage).await?;
    summary.switchover = Some(there);
    summary.switchback = Some(back);
    stage.chapter("3. eu-west-1 dies, and nhs-trust-london goes on in eu-central-1");
    summary.failover = Some(failover::tell(stage, summary.fence_time_ms).await?);
    stage.chapter("4. No registry, no control plane: traffic goes on");
    summary.registry_outage = Some(outage::tell(stage, summary.fence_time_ms).await?);
    stage.chapter("5. What tenants saw, as the routers told it");
    reports::tell(stage, summary.failover.as_ref().and_then(|f| f.rto_ms)).await?;
    stage.chapter("6. What was measured");
    stage.check_all_epochs();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{failover, switchover};
    use crate::fleet::{Kind, Plan, example};

    #[test]
    fn the_story_is_about_the_example() {
        let plan = Plan::new(example::fleet().unwrap(), domicile_chaos_kit::ports::free_address).unwrap();
        for (id, from, to) in [
            (switchover::CELL, switchover::HOME, switchover::DR),
            (failover::CELL, failover::DEAD, failover::DR),
        ] {
            let cell = plan.fleet.cells.values().find(|cell| cell.id.as_str() == id).unwrap();
            assert_eq!((cell.primary.as_str(), cell.dr.as_str()), (from, to), "{id}");
        }
        let dead = |kind| plan.at(kind, failover::DEAD).map(|unit| unit.name.as_str());
        assert_eq!(dead(Kind::Control), Some(failover::LEADER), "the leader dies with the region");
        assert!(dead(Kind::Edge).is_some() && dead(Kind::Etcd).is_some(), "and users' way in, and a member");
        let others = plan.units.iter().filter(|unit| unit.region == failover::DEAD);
        let cells: Vec<_> =
            others.filter_map(|unit| unit.cell.as_deref()).filter(|c| *c != failover::CELL).collect();
        assert_eq!(cells, [""; 0], "no other cell has anything there");
    }
}
