//! What routers tell, recomputed from what users saw: by other code, from other numbers.

use domicile_api::reports::{Rto, RtoReport, SlaReport};
use domicile_chaos::control::UnitAct;
use domicile_chaos::fleet::Kind;
use domicile_chaos::load::{Kind as Ask, Record, Shape};
use domicile_chaos_kit::wait;
use domicile_model::clock::Clock;
use jiff::Timestamp;

use crate::MOVING;
use crate::scene::{LONG, Scene};

/// Requests of a tenant that users sent, and that may have written.
fn writes<'a>(records: &'a [Record], tenant: &'a str) -> impl Iterator<Item = &'a Record> {
    records.iter().filter(move |r| r.by_user() && r.kind != Ask::Read && r.tenant == tenant)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_routers_tell_of_a_move_is_what_users_saw() {
    let mut scene = Scene::up().await;
    // From the clock of the records to that of the reports, in milliseconds.
    let wall = u64::try_from(Timestamp::now().as_millisecond()).unwrap()
        - Clock::Machine.now().as_nanos() / 1_000_000;
    let ms = |nanos: u64| nanos / 1_000_000 + wall;
    let (_, to) = scene.ready_to_move(MOVING).await;
    let load = scene.load().await;
    let started = scene.start(MOVING, &to).await;
    let done = scene.end_of(&started).await;
    scene.nothing_failed_and_nothing_is_lost(load).await;
    let records = scene.records.clone();

    // At their end they tell all that they know, to both control planes.
    for kind in [Kind::Edge, Kind::Gate] {
        scene.unit(UnitAct::Terminate, kind.word()).await;
    }
    let mine: Vec<&Record> = records.iter().filter(|r| r.cell == MOVING && r.by_user()).collect();
    let before = mine.iter().filter_map(|r| r.answer()).map(|a| a.epoch).min().unwrap();
    // And what users read was written before them.
    let seeds = Shape::demo().seeds as u64;
    let count = |tenant: &str| writes(&records, tenant).count() as u64 + seeds;
    let servers: Vec<String> = scene.fleet.operator.servers.split(',').map(str::to_owned).collect();
    assert_eq!(servers.len(), 2);
    let mut reports = Vec::new();
    for server in &servers {
        let sla = wait::eventually(LONG, "all facts are there", || async {
            let report: SlaReport = scene.operator.report(Some(server), &["sla"]).await.ok()?;
            let all = report.tenants.iter().all(|t| t.sla.writes >= count(t.tenant.as_str()));
            all.then_some(report)
        });
        let sla = sla.await.unwrap();
        for tenant in &sla.tenants {
            let (id, sla) = (tenant.tenant.as_str(), &tenant.sla);
            let reads = records.iter().filter(|r| r.tenant == id && r.kind == Ask::Read).count() as u64;
            assert_eq!((id, sla.writes), (id, count(id)));
            // Some more look whether the fleet is up, and it is not at once.
            assert!(sla.bad_requests < 20, "{id}: {sla:?}");
            assert!(
                sla.requests >= sla.writes + reads && sla.requests < sla.writes + reads + 500,
                "{id}: {sla:?}"
            );
            assert!(sla.available + sla.bad > 0 && sla.minutes > sla.available + sla.bad, "{id}: {sla:?}");
        }
        assert!(sla.tenants.iter().map(|t| t.sla.writes).sum::<u64>() > 100, "{sla:?}");
        let rto: RtoReport =
            scene.operator.report(Some(server), &["rto", &done.id.to_string()]).await.unwrap();
        reports.push(rto);
    }
    assert_eq!(reports[0], reports[1], "two control planes that were told the same");
    let report = &reports[0];
    assert!(!report.tenants.is_empty() && report.cell.as_str() == MOVING);
    for tenant in &report.tenants {
        let Rto::Observed { first_ms, good_ms, length_ms, within_ms, .. } = tenant.rto else {
            panic!("{tenant:?}: a hold is seen");
        };
        let within = within_ms.expect("every router has compared its clock") + 2;
        let mine = || mine.iter().filter(|r| r.tenant == tenant.tenant.as_str());
        let at = |r: &&&Record, moment: u64| ms(r.sent) <= moment + within && moment <= ms(r.ended) + within;
        assert!(mine().any(|r| at(&r, first_ms)), "some request was under way then: {tenant:?}");
        let new = |r: &&&Record| r.acknowledged() && r.answer().is_some_and(|a| a.epoch > before);
        assert!(
            mine().filter(new).any(|r| at(&r, good_ms)),
            "some write of the new region ended then: {tenant:?}"
        );
        let first_new = mine().filter(new).map(|r| ms(r.ended)).min().unwrap();
        assert!(first_ms <= first_new + within, "{tenant:?}: {first_new}");
        assert!(length_ms < 20_000 && good_ms - first_ms == length_ms, "{tenant:?}");
    }
}
