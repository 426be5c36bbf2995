//! A long run: many moves in a row under load, forced ones after random faults, each judged as the demo's are.

mod summary;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use domicile_chaos_kit::wait;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use sqlx::Executor;

use crate::control::UnitAct;
use crate::demo::failover::{self, Case};
use crate::demo::stage::Stage;
use crate::demo::{routers, switchover};
use crate::fault::Fault;
use crate::load::{Kind, Shape};
use crate::{oracle, verbs};
use summary::Summary;

/// The cells that move: those with a tenant of the same name, which uploads.
const CELLS: [&str; 3] = ["mercy-health", "nhs-trust-london", "apollo-hospitals"];
/// The member of the registry that dies in the middle of the planned moves.
const MEMBER: &str = "etcd-ap-south-1";
/// Load before and after a planned move.
const AROUND: Duration = Duration::from_secs(1);
/// Before a fault, what replication may carry, and for how long at least: less than one writer writes.
const SLOW: (u64, Duration) = (200, Duration::from_secs(1));
/// Of this many forced moves in a row, one comes over a link that was not slow before: it may lose nothing at all.
const FAST_ONE_IN: usize = 10;
/// Until a control plane leads after a fault.
const LEADS: Duration = Duration::from_secs(60);

/// What is to be run.
#[derive(Debug, Clone, clap::Args)]
pub struct Course {
    /// Planned moves.
    #[arg(long, default_value_t = 100)]
    pub switchovers: usize,
    /// Forced moves.
    #[arg(long, default_value_t = 30)]
    pub forced: usize,
    /// FENCE of the fleet in milliseconds: a forced move waits that long where the old side can't be asked.
    #[arg(long, default_value_t = 2_000)]
    pub fence_ms: u64,
    /// Which faults, in which order. Without it a new one, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Users a fifth as busy: for a build that is not optimised.
    #[arg(long)]
    pub light: bool,
    /// Delete an acknowledged write behind everybody's back: the run must fail.
    #[arg(long, hide = true)]
    pub tamper: bool,
}

/// Runs it in a fleet of its own, and writes `summary.json` into `out`.
///
/// # Errors
/// When anything did not hold, or could not be done; the fleet is ended all the same, its logs stay.
pub async fn run(dir: &Path, out: &Path, course: &Course) -> anyhow::Result<()> {
    std::fs::create_dir_all(out)?;
    let ran = tokio::select! {
        ran = ran(dir, out, course) => ran,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let ended = verbs::down(dir).await;
    ran?;
    ended.map(drop)
}

async fn ran(dir: &Path, out: &Path, course: &Course) -> anyhow::Result<()> {
    let seed = course.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let fleet = crate::demo::up(dir, Some(Duration::from_millis(course.fence_ms))).await?;
    let shape = if course.light { Shape::light() } else { Shape::demo() };
    let mut stage = Stage::new().with(fleet)?.with_users(shape);
    let fence_ms = routers::fence_ms(stage.fleet()).await?;
    stage.must(fence_ms == course.fence_ms, &format!("the fleet's FENCE is {fence_ms} ms"));
    let mut summary = Summary::new(seed, fence_ms);
    let moved = moves(&mut stage, course, &mut summary).await;
    // What could still be measured is worth reading even if something failed.
    summary.verdict(&mut stage);
    summary.write(&stage, out)?;
    println!("{}", summary.text());
    eprintln!("written to {}", out.join("summary.json").display());
    moved?;
    stage.verdict()
}

async fn moves(stage: &mut Stage, course: &Course, summary: &mut Summary) -> anyhow::Result<()> {
    for n in 0..course.switchovers {
        if n == course.switchovers / 2 && course.switchovers > 1 {
            stage.say(&format!("$ domicile-chaos kill {MEMBER}"));
            stage.control().unit(UnitAct::Kill, MEMBER).await?;
        }
        let (cell, from, to) = next(stage, n).await?;
        stage.chapter(&format!("switchover {} of {}: {cell}, {from} to {to}", n + 1, course.switchovers));
        let planned = switchover::one_way(stage, &cell, &to, AROUND).await?;
        summary.planned(planned);
    }
    if course.switchovers > 1 {
        stage.control().unit(UnitAct::Start, MEMBER).await?;
    }
    let mut random = StdRng::seed_from_u64(summary.seed);
    let mut faults: Vec<Fault> = Vec::new();
    for n in 0..course.forced {
        // All kinds of fault before one comes again, and never in the same order.
        if faults.is_empty() {
            faults.extend(Fault::ALL);
            faults.shuffle(&mut random);
        }
        let fault = faults.pop().context("there are kinds of fault")?;
        let (cell, from, to) = next(stage, n).await?;
        stage.chapter(&format!("forced move {} of {}: {cell}, {from} to {to}", n + 1, course.forced));
        stage.operator().until_movable(&cell, &to).await?;
        let slow = (n % FAST_ONE_IN != FAST_ONE_IN - 1)
            .then(|| (SLOW.0, SLOW.1.mul_f64(random.random_range(0.5..1.5))));
        let case = Case { cell: &cell, from: &from, to: &to, fault, slow };
        let forced = failover::one_way(stage, summary.fence_time_ms, &case).await?;
        summary.forced(&cell, fault, forced);
    }
    if course.tamper {
        tamper(stage, &mut random).await?;
    }
    at_the_end(stage, summary).await
}

/// Which cell moves as the n-th: from its holder to the other one of its regions.
async fn next(stage: &Stage, n: usize) -> anyhow::Result<(String, String, String)> {
    let cell = CELLS[n % CELLS.len()];
    let found = wait::eventually(LEADS, "somebody holds the cell", || async {
        let status = stage.operator().status().await.ok()?;
        let view = status.cells.into_iter().find(|c| c.id.as_str() == cell)?;
        let from = view.holder?;
        let to = if from == view.primary { view.dr } else { view.primary };
        Some((cell.to_owned(), from.to_string(), to.to_string()))
    });
    Ok(found.await?)
}

/// Everything that was ever acknowledged is there, but for what was lost and listed; and the epochs came in order.
async fn at_the_end(stage: &mut Stage, summary: &mut Summary) -> anyhow::Result<()> {
    stage.chapter("the end");
    let stored = stage.stored().await?;
    let gone = oracle::lost(stage.records(), &stored).len() as u64;
    let listed = summary.listed();
    summary.gone_at_the_end = Some(gone);
    let what = format!("of all acknowledged writes {gone} are gone, and {listed} were listed as lost");
    stage.must(gone == listed, &what);
    summary.one_writer = oracle::check_one_writer(stage.records()).is_ok();
    stage.check_all_epochs();
    Ok(())
}

/// The switch beside the verdict: one acknowledged write that was not lost is deleted where it is held.
async fn tamper(stage: &Stage, random: &mut StdRng) -> anyhow::Result<()> {
    let stored = stage.stored().await?;
    let there: Vec<_> = stage
        .records()
        .iter()
        .filter(|r| r.kind == Kind::Write && r.acknowledged())
        .filter(|r| stored.contains_key(&(r.tenant.clone(), r.key.clone())))
        .collect();
    let victim = there.choose(random).context("nothing was acknowledged")?;
    let status = stage.operator().status().await?;
    let cell = status.cells.into_iter().find(|c| c.id.as_str() == victim.cell);
    let holder = cell.and_then(|c| c.holder).context("nobody holds the cell")?;
    let mut connection = oracle::connect(stage.fleet().database(&victim.cell, holder.as_str())?).await?;
    let delete = sqlx::query("DELETE FROM public.encounters WHERE tenant_id = $1 AND key = $2");
    let done = connection.execute(delete.bind(&victim.tenant).bind(&victim.key)).await?;
    anyhow::ensure!(done.rows_affected() == 1, "nothing was deleted");
    Ok(())
}
