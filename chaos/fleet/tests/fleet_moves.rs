//! Moves of a whole fleet under load, while something is broken; judged by what the databases hold afterwards.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong in a test shall stop it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use domicile_api::moves::{LogEvent, MoveView};
use domicile_chaos::control::{Control, RegionAct, UnitAct};
use domicile_chaos::demo::operator::Operator;
use domicile_chaos::demo::routers;
use domicile_chaos::fleet::{FleetFile, Kind, Unit};
use domicile_chaos::load::client::Edges;
use domicile_chaos::load::{Load, Record, Shape};
use domicile_chaos::oracle::{self, Stored};
use domicile_chaos_kit::wait;
use domicile_model::clock::{Clock, pause};

const CHAOS: &str = env!("CARGO_BIN_EXE_domicile-chaos");
/// The cell that moves, and the one that is cut off.
const MOVING: &str = "mercy-health";
const CUT: &str = "nhs-trust-london";
const CUT_HOME: &str = "eu-west-1";
const CUT_DR: &str = "eu-central-1";
/// Until a cell can be moved, and until a move has ended, re-protection included.
const LONG: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a whole fleet for most of a minute: `make soak` runs it"]
async fn what_breaks_during_a_move_costs_no_request_and_no_write() {
    let mut scene = Scene::up().await;
    a_move_whose_leader_dies_at(&mut scene, "fence").await;
    a_primary_region_that_is_cut_off_stops_in_time(&mut scene).await;
    oracle::check_one_writer(&scene.records).unwrap();
}

async fn a_move_whose_leader_dies_at(scene: &mut Scene, step: &str) {
    let (from, to) = scene.ready_to_move(MOVING).await;
    let before = scene.timeline(MOVING, &from).await;
    let leader = scene.operator.status().await.unwrap().leader.unwrap();
    let load = scene.load().await;
    let started = scene.operator.start(MOVING, &to, &[]).await.unwrap();
    scene.intent_of(&started, step, &leader).await;
    scene.unit(UnitAct::Kill, &leader).await;
    let ended = scene.end_of(&started).await;
    let others = ended.log.iter().any(|entry| entry.leader != leader);
    assert!(others, "the other control plane has ended it: {ended:#?}");
    let holder = scene.holder(MOVING).await;
    let after = scene.timeline(MOVING, &holder).await;
    assert!(after <= before + 1, "promoted once at most: timeline {before}, then {after}; {ended:#?}");
    scene.unit(UnitAct::Start, &leader).await;
    scene.nothing_failed_and_nothing_is_lost(load).await;
}

async fn a_primary_region_that_is_cut_off_stops_in_time(scene: &mut Scene) {
    scene.ready_to_move(CUT).await;
    let before = scene.timeline(CUT, CUT_HOME).await;
    let fence = Duration::from_millis(routers::fence_ms(&scene.fleet).await.unwrap());
    let load = scene.load().await;
    pause(Duration::from_secs(2)).await;

    scene.control.region(RegionAct::Cut, CUT_HOME).await.unwrap();
    let stopped_by = now() + u64::try_from(fence.as_nanos()).unwrap();
    pause(fence + Duration::from_secs(5)).await;
    let standby = scene.fleet.database(CUT, CUT_DR).unwrap();
    let standby = oracle::identity(standby).await.unwrap_err();
    assert!(standby.to_string().contains("is no primary"), "{CUT_DR} must still follow: {standby:#}");
    let healed = now();
    scene.control.region(RegionAct::Heal, CUT_HOME).await.unwrap();

    let again = || async { load.so_far().iter().any(|r| writes_for_cut(r) && r.sent > healed) };
    wait::eventually(LONG, "the region that was cut off serves again", again).await.unwrap();
    assert_eq!(scene.holder(CUT).await, CUT_HOME, "nobody decided anything");
    assert_eq!(scene.timeline(CUT, CUT_HOME).await, before, "nothing was promoted");
    let records = load.finish().await;
    assert!(records.iter().any(|r| writes_for_cut(r) && r.ended < stopped_by), "there were writes before");
    let late: Vec<_> =
        records.iter().filter(|r| writes_for_cut(r) && r.ended > stopped_by && r.ended < healed).collect();
    assert!(late.is_empty(), "acknowledged later than {fence:?} after the cut: {late:#?}");
    scene.nothing_is_lost(records).await;
}

fn writes_for_cut(record: &Record) -> bool {
    record.cell == CUT && record.acknowledged()
}

fn now() -> u64 {
    Clock::Machine.now().as_nanos()
}

/// A fleet, and everything that its users saw.
struct Scene {
    dir: PathBuf,
    fleet: FleetFile,
    operator: Operator,
    control: Control,
    http: reqwest::Client,
    records: Vec<Record>,
    runs: usize,
}

impl Scene {
    async fn up() -> Self {
        let dir = tempfile::Builder::new().prefix("fleet-moves-").tempdir().unwrap().keep();
        let down = Down(&dir);
        let up = Command::new(CHAOS).arg("--dir").arg(&dir).arg("up").status().unwrap();
        assert!(up.success(), "the fleet did not come up; logs: {}", dir.display());
        let fleet = FleetFile::read(&dir).unwrap();
        let operator = Operator::with(Path::new(CHAOS).with_file_name("domicile"), &fleet);
        let control = Control::new(&fleet).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        std::mem::forget(down);
        Self { dir, fleet, operator, control, http, records: Vec::new(), runs: 0 }
    }

    async fn load(&mut self) -> Load {
        self.runs += 1;
        let edges = self.fleet.units.iter().filter(|u| u.kind == Kind::Edge).map(Unit::listen).collect();
        let shape = Shape { reads_per_s: 60, ..Shape::demo() };
        let run = format!("run{}", self.runs);
        Load::start(&run, self.fleet.tenants.clone(), Edges::new(edges), shape).await.unwrap()
    }

    async fn unit(&self, act: UnitAct, unit: &str) {
        self.control.unit(act, unit).await.unwrap();
    }

    async fn holder(&self, cell: &str) -> String {
        let status = self.operator.status().await.unwrap();
        let cell = status.cells.into_iter().find(|c| c.id.as_str() == cell).unwrap();
        cell.holder.unwrap().to_string()
    }

    async fn timeline(&self, cell: &str, region: &str) -> u32 {
        oracle::identity(self.fleet.database(cell, region).unwrap()).await.unwrap().1
    }

    /// Waits until a planned move would be let through; from where it would go, and to where.
    async fn ready_to_move(&self, cell: &str) -> (String, String) {
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

    /// Until the log of a move holds the intent of a step, as a control plane that does not lead sees it.
    async fn intent_of(&self, started: &MoveView, step: &str, leader: &str) {
        let other = self.fleet.units.iter().find(|u| u.kind == Kind::Control && u.name != leader).unwrap();
        let url = format!("http://{}/v1/moves/{}", other.listen(), started.id);
        let token = self.fleet.operator.token.read().unwrap();
        let seen = || async {
            let answer = self.http.get(&url).bearer_auth(&token).send().await.ok()?;
            let view: MoveView = answer.json().await.ok()?;
            view.log.iter().any(|e| e.step == step && e.event == LogEvent::Intent).then_some(())
        };
        wait::eventually(LONG, "the step is intended", seen).await.unwrap();
    }

    async fn end_of(&self, started: &MoveView) -> MoveView {
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

    async fn nothing_failed_and_nothing_is_lost(&mut self, load: Load) {
        // Some time after it: the new state must not only be reached, it must carry.
        pause(Duration::from_secs(2)).await;
        let records = load.finish().await;
        let failures = oracle::failures(&records);
        assert!(failures.is_empty(), "{failures:#?}");
        self.nothing_is_lost(records).await;
    }

    async fn nothing_is_lost(&mut self, records: Vec<Record>) {
        let mut stored = Stored::new();
        for cell in self.operator.status().await.unwrap().cells {
            let region = cell.holder.unwrap();
            let database = self.fleet.database(cell.id.as_str(), region.as_str()).unwrap();
            stored.extend(oracle::stored(database).await.unwrap());
        }
        assert!(records.iter().any(Record::acknowledged));
        let lost = oracle::lost(&records, &stored);
        assert!(lost.is_empty(), "acknowledged and gone: {lost:#?}");
        self.records.extend(records);
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
