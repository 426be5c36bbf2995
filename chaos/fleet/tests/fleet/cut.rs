//! A region that is cut off by its links.

use std::time::Duration;

use domicile_api::moves::{MoveStatus, MoveView};
use domicile_chaos::app::NewEncounter;
use domicile_chaos::control::{RegionAct, UnitAct};
use domicile_chaos::demo::routers;
use domicile_chaos::fleet::Kind;
use domicile_chaos::load::client::Client;
use domicile_chaos::load::{Outcome, Record};
use domicile_chaos::oracle;
use domicile_chaos_kit::wait;
use domicile_model::clock::{Clock, pause};

use crate::scene::{LONG, Scene, insert, now};

/// The cell whose primary region is cut off.
const CUT: &str = "nhs-trust-london";
const CUT_HOME: &str = "eu-west-1";
const CUT_DR: &str = "eu-central-1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_region_that_is_cut_off_stops_in_time() {
    let mut scene = Scene::up().await;
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

/// A forced move away from a region that is cut off, in which users go on writing: it waits until nothing there can
/// acknowledge any more. The region comes back before its way to the registry does: it lets nobody write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_replaced_while_cut_off_never_writes_again() {
    let mut scene = Scene::up().await;
    scene.ready_to_move(CUT).await;
    let load = scene.load().await;
    pause(Duration::from_secs(2)).await;
    scene.control.region(RegionAct::Cut, CUT_HOME).await.unwrap();
    let cut = now();
    let moved = scene.forced(CUT, CUT_DR).await;
    let served = || async { load.so_far().iter().any(|r| writes_for_cut(r) && epoch(r) >= serving(&moved)) };
    wait::eventually(LONG, "users write in the new region", served).await.unwrap();

    scene.control.region(RegionAct::Kill, CUT_HOME).await.unwrap();
    load.edges().avoid(scene.fleet.unit(&format!("edge-{CUT_HOME}")).unwrap().listen());
    // One by one: `region start` would heal the links.
    for kind in [Kind::Etcd, Kind::Agent, Kind::App, Kind::Gate] {
        for unit in scene.fleet.units.iter().filter(|u| u.kind == kind && u.region == CUT_HOME) {
            scene.unit(UnitAct::Start, &unit.name).await;
        }
    }
    every_way_in_is_closed(&scene).await;

    scene.control.region(RegionAct::Start, CUT_HOME).await.unwrap();
    let ended = scene.end_of(&moved).await;
    assert_eq!(ended.status, MoveStatus::Done, "{ended:#?}");
    let records = load.finish().await;
    let old = records.iter().filter(|r| writes_for_cut(r) && epoch(r) < serving(&moved));
    assert!(old.clone().any(|r| r.ended > cut), "users wrote in the region that was cut off, for a while");
    oracle::check_one_writer(&records).unwrap();
    let database = scene.fleet.database(CUT, CUT_DR).unwrap();
    let stored = oracle::stored(database).await.unwrap();
    let ours: Vec<Record> = records.iter().filter(|r| r.cell == CUT).cloned().collect();
    let lost = oracle::lost(&ours, &stored).len() as u64;
    let report = scene.operator.losses(&moved.id.to_string()).await.unwrap();
    let lie = scene.fleet.lost_rows(CUT, CUT_HOME, &moved.id.to_string());
    let key = domicile_losses::KeyFile::read(&scene.fleet.home.join("secrets").join("losses")).unwrap();
    let exports = oracle::exported(&report, &lie, &key).unwrap();
    let listed = oracle::classify(&report, &exports, &records);
    assert!(
        oracle::not_exported(&oracle::lost(&ours, &stored), &exports).is_empty(),
        "each lost row is exported"
    );
    assert!(lost > 0, "what the old region acknowledged after the cut can't have arrived");
    assert_eq!((listed.acknowledged, listed.unknown), (lost, 0), "{listed:?}");
}

/// Tries to write for some time: by SQL, through the application and through the gate.
async fn every_way_in_is_closed(scene: &Scene) {
    let database = scene.fleet.database(CUT, CUT_HOME).unwrap();
    let at =
        |kind| scene.fleet.units.iter().find(|u| u.kind == kind && u.region == CUT_HOME).unwrap().listen();
    let ways = [("the application", at(Kind::App)), ("the gate", at(Kind::Gate))];
    let tenant = scene.fleet.tenants.iter().find(|t| t.cell == CUT).unwrap();
    let client = Client::new().unwrap();
    let until = Clock::Machine.now() + Duration::from_secs(5);
    let mut tries = 0;
    while Clock::Machine.now() < until {
        tries += 1;
        let key = format!("returned-{tries}");
        if let Ok(mut connection) = oracle::connect(database).await {
            let written = insert(&mut connection, &tenant.id, &key).await;
            assert!(written.is_err(), "the database took a write");
        }
        for (way, address) in ways {
            let new = NewEncounter { key: key.clone(), patient: "p".into(), content: "c".into() };
            let asked = client.write(false, address, &tenant.host, &new);
            // One that is kept waiting is as good as refused.
            if let Ok(outcome) = tokio::time::timeout(Duration::from_secs(1), asked).await {
                assert!(!matches!(outcome, Outcome::Fine(_)), "{way} acknowledged a write: {outcome:?}");
            }
        }
    }
    assert!(tries > 1);
}

fn epoch(record: &Record) -> u64 {
    record.answer().map_or(0, |answer| answer.epoch)
}

fn serving(moved: &MoveView) -> u64 {
    moved.facts.serving_epoch.unwrap().0
}

fn writes_for_cut(record: &Record) -> bool {
    record.cell == CUT && record.acknowledged()
}
