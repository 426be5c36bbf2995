//! A fleet under load, what its users saw, and what its databases hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use domicile_api::moves::MoveView;
use domicile_chaos::control::{Control, LinkAct, UnitAct};
use domicile_chaos::demo::operator::Operator;
use domicile_chaos::fleet::{FleetFile, Kind, Unit};
use domicile_chaos::load::client::Edges;
use domicile_chaos::load::{Load, Record, Shape};
use domicile_chaos::oracle::{self, Stored};
use domicile_chaos_kit::wait;
use domicile_model::clock::{Clock, pause};
use sqlx::PgConnection;

const CHAOS: &str = env!("CARGO_BIN_EXE_domicile-chaos");
/// Until a cell can be moved, and until a move has ended, re-protection included.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// By the clock that records are stamped with, in nanoseconds.
pub(crate) fn now() -> u64 {
    Clock::Machine.now().as_nanos()
}

/// Writes an encounter around everything of ours.
pub(crate) async fn insert(connection: &mut PgConnection, tenant: &str, key: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO public.encounters (tenant_id, key, patient, content) VALUES ($1, $2, 'p', 'by SQL')",
    )
    .bind(tenant)
    .bind(key)
    .execute(connection)
    .await
    .map(drop)
}

/// A fleet, and everything that its users saw.
pub(crate) struct Scene {
    dir: PathBuf,
    pub(crate) fleet: FleetFile,
    pub(crate) operator: Operator,
    pub(crate) control: Control,
    pub(crate) records: Vec<Record>,
    runs: usize,
}

impl Scene {
    pub(crate) async fn up() -> Self {
        Self::up_with(&[]).await
    }

    /// With these arguments of `domicile-chaos up`.
    pub(crate) async fn up_with(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("fleet-moves-").tempdir().unwrap().keep();
        let down = Down(&dir);
        let up = Command::new(CHAOS).arg("--dir").arg(&dir).arg("up").args(args).status().unwrap();
        assert!(up.success(), "the fleet did not come up; logs: {}", dir.display());
        let fleet = FleetFile::read(&dir).unwrap();
        let operator = Operator::with(Path::new(CHAOS).with_file_name("domicile"), &fleet);
        let control = Control::new(&fleet).unwrap();
        std::mem::forget(down);
        Self { dir, fleet, operator, control, records: Vec::new(), runs: 0 }
    }

    pub(crate) async fn load(&mut self) -> Load {
        self.runs += 1;
        let edges = self.fleet.units.iter().filter(|u| u.kind == Kind::Edge).map(Unit::listen).collect();
        let shape = Shape { reads_per_s: 60, ..Shape::demo() };
        let run = format!("run{}", self.runs);
        let load = Load::start(&run, self.fleet.tenants.clone(), Edges::new(edges), shape).await.unwrap();
        load.beside(self.fleet.journals())
    }

    pub(crate) async fn unit(&self, act: UnitAct, unit: &str) {
        self.control.unit(act, unit).await.unwrap();
    }

    pub(crate) async fn holder(&self, cell: &str) -> String {
        let status = self.operator.status().await.unwrap();
        let cell = status.cells.into_iter().find(|c| c.id.as_str() == cell).unwrap();
        cell.holder.unwrap().to_string()
    }

    pub(crate) async fn timeline(&self, cell: &str, region: &str) -> u32 {
        oracle::identity(self.fleet.database(cell, region).unwrap()).await.unwrap().1
    }

    /// Waits until a planned move would be let through; from where it would go, and to where.
    pub(crate) async fn ready_to_move(&self, cell: &str) -> (String, String) {
        let status = self.operator.status().await.unwrap();
        let view = status.cells.into_iter().find(|c| c.id.as_str() == cell).unwrap();
        let from = view.holder.unwrap();
        let to = if from == view.primary { view.dr } else { view.primary };
        let (from, to) = (from.to_string(), to.to_string());
        let passes = || async {
            let plan = self.operator.plan(cell, &to, &[]).await.ok()?;
            (!plan.checks.iter().any(|c| c.verdict.blocks())).then_some(())
        };
        if let Err(late) = wait::eventually(LONG, "all checks before a move pass", passes).await {
            panic!("{late}: {:#?}", self.operator.plan(cell, &to, &[]).await);
        }
        (from, to)
    }

    pub(crate) async fn link(&self, act: LinkAct, from: &str, to: &str, one_way: bool) {
        self.control.link(act, from, to, one_way).await.unwrap();
    }

    /// `running`, `paused` or `stopped`.
    pub(crate) async fn state_of(&self, unit: &str) -> String {
        let status = self.control.status().await.unwrap();
        status.units.into_iter().find(|u| u.name == unit).unwrap().state
    }

    /// The control plane that leads; empty while none does.
    pub(crate) async fn leader(&self) -> String {
        self.operator.status().await.unwrap().leader.unwrap_or_default()
    }

    /// Waits until the list of the routers that acknowledge is like this.
    pub(crate) async fn listed(&self, like: impl Fn(&BTreeSet<String>) -> bool) {
        let there = || async {
            let routers = self.operator.status().await.unwrap().routers;
            like(&routers.into_iter().map(|r| r.id.to_string()).collect())
        };
        wait::eventually(LONG, "the list of routers is as it should be", there).await.unwrap();
    }

    /// Starts a planned move as soon as every check lets it: on a busy machine a sample may come late.
    pub(crate) async fn start(&self, cell: &str, to: &str) -> MoveView {
        let started = || async { self.operator.start(cell, to, &[]).await.ok() };
        match wait::eventually(LONG, "the move starts", started).await {
            Ok(view) => view,
            Err(late) => panic!("{late}: {:#?}", self.operator.plan(cell, to, &[]).await),
        }
    }

    /// Starts a forced move with consent to any loss, and waits until the new region serves.
    pub(crate) async fn forced(&self, cell: &str, to: &str) -> MoveView {
        let extra = ["--force", "--accept-loss", "1000000", "--reason", "a test"];
        let consented = || async {
            // Without every part of the preview there is nothing to consent to.
            let plan = self.operator.plan(cell, to, &["--force"]).await.ok()?;
            plan.preview?.total()
        };
        wait::eventually(LONG, "the preview is known", consented).await.unwrap();
        let started = self.operator.start(cell, to, &extra).await.unwrap();
        let id = started.id.to_string();
        let serves = || async {
            pause(Duration::from_millis(200)).await;
            self.operator.show_move(&id).await.ok().filter(|view| view.facts.serving_epoch.is_some())
        };
        match wait::eventually(LONG, "the new region serves", serves).await {
            Ok(view) => view,
            Err(late) => panic!("{late}: {:#?}", self.operator.show_move(&id).await),
        }
    }

    pub(crate) async fn end_of(&self, started: &MoveView) -> MoveView {
        let id = started.id.to_string();
        let ended = || async {
            pause(Duration::from_millis(200)).await;
            self.operator.show_move(&id).await.ok().filter(|view| view.status.is_final())
        };
        match wait::eventually(LONG, "the move has ended by itself", ended).await {
            Ok(view) => view,
            Err(late) => panic!("{late}: {:#?}", self.operator.show_move(&id).await),
        }
    }

    pub(crate) async fn nothing_failed_and_nothing_is_lost(&mut self, load: Load) {
        let failures = self.nothing_is_lost_but_requests(load).await;
        assert!(failures.is_empty(), "{failures:#?}");
    }

    /// Ends the load; gives the requests that failed.
    pub(crate) async fn nothing_is_lost_but_requests(&mut self, load: Load) -> Vec<String> {
        // Some time after it: the new state must not only be reached, it must carry.
        pause(Duration::from_secs(2)).await;
        let records = load.finish().await;
        let failures = oracle::failures(&records);
        self.nothing_is_lost(records).await;
        failures
    }

    pub(crate) async fn nothing_is_lost(&mut self, records: Vec<Record>) {
        assert!(records.iter().any(Record::acknowledged));
        assert_eq!(self.gone(&records).await, 0);
        self.records.extend(records);
    }

    /// How many acknowledged writes are not there; which ones, it says.
    pub(crate) async fn gone(&self, records: &[Record]) -> u64 {
        let mut stored = Stored::new();
        for cell in self.operator.status().await.unwrap().cells {
            let region = cell.holder.unwrap();
            let database = self.fleet.database(cell.id.as_str(), region.as_str()).unwrap();
            stored.extend(oracle::stored(database).await.unwrap());
        }
        let lost = oracle::lost(records, &stored);
        if !lost.is_empty() {
            eprintln!("acknowledged and gone: {lost:#?}");
        }
        lost.len() as u64
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(Down(&self.dir));
        // The logs tell why it failed.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ends the fleet of a directory.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _ = Command::new(CHAOS).arg("--dir").arg(self.0).arg("down").status();
    }
}
