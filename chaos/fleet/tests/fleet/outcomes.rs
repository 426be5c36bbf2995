//! Every step of a move, every fault at it, and how the move ends: the rows are made of the engine's own steps and the
//! faults of its wrapper, and what is expected of each stands in `outcomes.txt`.

mod bench;

use std::collections::BTreeSet;
use std::fmt;

use bench::Bench;
use domicile_api::moves::MoveKind;
use domicile_chaos::control::UnitAct;
use domicile_chaos::oracle;
use domicile_engine::faults::Fault;
use domicile_engine::{Point, definitions};
use domicile_losses::KeyFile;
use domicile_model::clock::Clock;
use domicile_store::{Key, Store, Txn};

const EXPECTED: &str = include_str!("outcomes.txt");
/// The member of the registry that dies on the way.
const MEMBER: &str = "etcd-ap-south-1";

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    /// Its effect.
    Effect(Fault),
    /// The leader is gone before the effect, or after it, and another one takes over.
    Gone(Point),
}

impl Strike {
    fn all() -> Vec<Self> {
        let gone = [Point::BeforeEffect, Point::AfterEffect].map(Self::Gone);
        Fault::ALL.into_iter().map(Self::Effect).chain(gone).collect()
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Effect(fault) => fault.fmt(f),
            Self::Gone(Point::BeforeEffect) => f.write_str("leader-gone-before"),
            Self::Gone(Point::AfterEffect) => f.write_str("leader-gone-after"),
        }
    }
}

/// Whether a planned move may still turn back at this step.
fn may_turn_back(kind: MoveKind, step: &str) -> bool {
    let steps = definitions::steps(kind);
    let at = |name: &str| steps.iter().position(|s| *s == name).unwrap();
    kind == MoveKind::Switchover && at(step) < at("promote")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_step_of_a_planned_move_ends_as_it_is_written() {
    table(MoveKind::Switchover, "mercy-health").await;
}

/// The same of forced moves, each of which loses something and is rewound after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes: a part of `make soak`"]
async fn every_fault_at_every_step_of_a_forced_move_ends_as_it_is_written() {
    table(MoveKind::Failover, "nhs-trust-london").await;
}

async fn table(kind: MoveKind, cell: &'static str) {
    let mut bench = Bench::up().await;
    let load = bench.scene.load().await;
    let mut found = Vec::new();
    let began = Clock::Machine.now();
    let (effects, points) = bench.clean(kind, cell).await;
    for step in definitions::steps(kind) {
        if *step == "promote" {
            bench.scene.unit(UnitAct::Kill, MEMBER).await;
        }
        for strike in Strike::all() {
            let there = match strike {
                Strike::Effect(_) => effects.contains(*step),
                Strike::Gone(_) => points.contains(*step),
            };
            let outcome =
                if there { bench.row(kind, cell, Some((step, strike))).await } else { "-".to_owned() };
            let at = Clock::Machine.now().since(began).as_secs_f64();
            eprintln!("[{at:7.1} s] {kind:?} {step} {strike}: {outcome}");
            let well = outcome.starts_with("done")
                || outcome == "-"
                || if may_turn_back(kind, step) {
                    outcome.starts_with("rolled back")
                } else {
                    outcome.starts_with("stuck at ")
                };
            assert!(well, "no move may end like this: {kind:?} {step} {strike}: {outcome}");
            found.push(format!("{kind:?} | {step} | {strike} | {outcome}"));
        }
    }
    bench.scene.unit(UnitAct::Start, MEMBER).await;
    let records = load.finish().await;
    let (mut listed, mut lost) = (0, 0);
    let key = KeyFile::read(&bench.scene.fleet.home.join("secrets").join("losses")).unwrap();
    for (id, cell, from) in &bench.forced {
        if let Some(report) = bench.first.losses(*id).await.unwrap() {
            lost += u64::from(report.lost() > 0);
            let lie = bench.scene.fleet.lost_rows(cell, from.as_str(), &id.to_string());
            let exports = oracle::exported(&report, &lie, &key).unwrap();
            listed += oracle::classify(&report, &exports, &records).acknowledged;
        }
    }
    // The fleet's own control planes tell the rest of the story.
    bench.store.commit(Txn::bare().delete(Key::Leader)).await.unwrap();
    bench.scene.unit(UnitAct::Start, "control").await;
    let gone = bench.scene.gone(&records).await;
    assert_eq!(gone, listed, "acknowledged and gone, but listed");
    assert_eq!(lost, bench.forced.len() as u64, "a forced move that lost nothing shows less than it should");
    oracle::check_one_writer(&records).unwrap();

    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let of_this_kind = format!("{kind:?} |");
    let expected: BTreeSet<&str> = EXPECTED.lines().filter(|line| line.starts_with(&of_this_kind)).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let other: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && other.is_empty(), "expected: {missing:#?}\nfound instead: {other:#?}");
}
