//! Other witnesses: named only once the present ones are silent; and those whose machines are destroyed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::MoveKind;
use domicile_model::clock::pause;
use domicile_model::{BarredWitness, MoveId, Placement, Role, RouterId, WitnessRenewal};
use domicile_store::codec::decode;
use domicile_store::{Key, Leadership, Store, Txn};

use super::happy::{ask, begin, lead, warm_up};
use super::{said, simulate};
use crate::options::Sabotage;
use crate::testkit::{B, Ended, Sim, end_of, region, router};
use crate::{Destroyed, Engine, MoveError, Options};

const FIRST: [&str; 3] = ["edge-e", "gate-a", "gate-b"];
const OTHER: [&str; 3] = ["edge-f", "gate-a", "gate-b"];

async fn scene(sabotage: Sabotage) -> (Sim, Arc<Engine>, Leadership) {
    let sim = Sim::start().await;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("one").await;
    // The machine that shall take the place of edge-e.
    sim.announce(Role::Edge, "edge-f", "eu-west-1").await;
    (sim, engine, leadership)
}

async fn wish(sim: &Sim, wait: bool) {
    let wish = WitnessRenewal {
        cell: sim.cell.id.clone(),
        without: [router("edge-e")].into(),
        wait,
        by: "ann".into(),
        reason: "the machine is renewed".into(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    sim.store.commit(Txn::bare().put(Key::Renewal(sim.cell.id.clone()), &wish)).await.unwrap();
}

async fn named(sim: &Sim) -> Vec<String> {
    let entry = sim.get(Key::Placement(sim.cell.id.clone())).await.unwrap();
    let placement: Placement = decode(&entry.value).unwrap();
    placement.witnesses.members.iter().map(RouterId::to_string).collect()
}

async fn wished(sim: &Sim) -> bool {
    sim.get(Key::Renewal(sim.cell.id.clone())).await.is_some()
}

/// A whole move of this kind; what the cell's witnesses are then, and whether the wish still stands.
async fn moved(
    sim: &Sim,
    engine: &Arc<Engine>,
    leadership: &Leadership,
    kind: MoveKind,
) -> (Vec<String>, bool) {
    let id = begin(sim, engine, kind, leadership).await;
    let (ended, view) = end_of(engine, id).await;
    assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
    (named(sim).await, wished(sim).await)
}

/// Its stop is proven by the agent's word at once; what witnesses granted to gates of the old region is not over.
#[test]
fn a_planned_move_names_others_only_where_it_may_wait_for_silence() {
    simulate(async {
        for (wait, expected, stands) in [(false, FIRST, true), (true, OTHER, false)] {
            let (sim, engine, leadership) = scene(Sabotage::default()).await;
            let _leading = lead(&engine, &leadership, &sim);
            warm_up(MoveKind::Switchover).await;
            wish(&sim, wait).await;
            let found = moved(&sim, &engine, &leadership, MoveKind::Switchover).await;
            assert_eq!(found, (expected.map(String::from).to_vec(), stands), "{wait}");
        }
    });
}

#[test]
fn opening_a_cell_names_others() {
    simulate(async {
        let (sim, engine, leadership) = scene(Sabotage::default()).await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Open).await;
        wish(&sim, false).await;
        let found = moved(&sim, &engine, &leadership, MoveKind::Open).await;
        assert_eq!(found, (OTHER.map(String::from).to_vec(), false));
    });
}

#[test]
fn who_is_gone_is_replaced_by_the_next_silent_move_without_a_wish() {
    simulate(async {
        let (sim, engine, leadership) = scene(Sabotage::default()).await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        sim.world().routers_down.insert(router("edge-e"));
        sim.lose_a(true);
        pause(Duration::from_secs(2)).await;
        let id = begin(&sim, &engine, MoveKind::Failover, &leadership).await;
        until(&engine, id, "return").await;
        // With its region lost, gate-a's place is kept: nobody else stands there.
        assert_eq!(named(&sim).await, FIRST);
        let back = simulate_two_gates(&sim).await;
        assert_eq!(back, ["edge-f", "gate-a", "gate-b"]);
    });
}

/// What would be named once the region is back.
async fn simulate_two_gates(sim: &Sim) -> Vec<String> {
    let all = |prefix: &'static str| async move { sim.store.list(prefix).await.unwrap().entries };
    let states: Vec<domicile_model::WitnessState> =
        all("witnesses/").await.iter().map(|e| decode(&e.value).unwrap()).collect();
    let entry = sim.get(Key::Placement(sim.cell.id.clone())).await.unwrap();
    let placement: Placement = decode(&entry.value).unwrap();
    let alive = ["edge-f", "gate-a", "gate-b"].map(router).into();
    let found =
        crate::renewal::instead(&sim.cell, &placement.witnesses, &states, &alive, &BTreeSet::new(), None);
    found.unwrap().iter().map(RouterId::to_string).collect()
}

#[test]
fn a_move_that_turns_back_keeps_its_witnesses() {
    simulate(async {
        let (sim, engine, leadership) = scene(Sabotage::default()).await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        wish(&sim, true).await;
        sim.world().disbelieves = true;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, sim.judge(ended, &view).await), (Ended::RolledBack, Vec::new()), "{view:#?}");
        assert_eq!((named(&sim).await, wished(&sim).await), (FIRST.map(String::from).to_vec(), true));
    });
}

async fn until(engine: &Arc<Engine>, id: MoveId, step: &str) {
    for _ in 0..5_000 {
        if engine.view(id).await.unwrap().unwrap().step == step {
            return;
        }
        pause(Duration::from_millis(20)).await;
    }
    panic!("never at {step}: {:#?}", engine.view(id).await);
}

fn destroyed(ids: &[&str]) -> Destroyed {
    Destroyed { witnesses: ids.iter().map(|id| router(id)).collect(), reason: "the site burned down".into() }
}

/// A forced move that two of three witnesses hold up: gate-a with its region, gate-b, which may still run.
async fn held_up(sabotage: Sabotage) -> (Sim, Arc<Engine>, Leadership, MoveId, super::happy::Leading) {
    let (sim, engine, leadership) = scene(sabotage).await;
    sim.world().planned = false;
    let leading = lead(&engine, &leadership, &sim);
    warm_up(MoveKind::Failover).await;
    sim.lose_a(true);
    sim.world().witnesses_down.insert(router("gate-b"));
    let request = ask(&sim, MoveKind::Failover);
    let id = engine.request(&request, "an operator", &leadership, &sim.registry).await.unwrap();
    let (ended, view) = end_of(&engine, id).await;
    assert_eq!((ended, view.step.as_str()), (Ended::Stuck, "fence"), "{view:#?}");
    (sim, engine, leadership, id, leading)
}

#[test]
fn a_destroyed_witness_is_struck_out_for_ever_and_counts_after_wait() {
    simulate(async {
        let (sim, engine, leadership, id, _leading) = held_up(Sabotage::default()).await;
        let asked = sim.clock.now();
        engine.retry_without(id, &destroyed(&["gate-a"]), said(&leadership, &sim)).await.unwrap();
        until(&engine, id, "return").await;
        let waited = sim.clock.now().since(asked);
        assert!(waited >= sim.registry.constants.wait(), "{waited:?}");
        assert_eq!(sim.world().servers[&region(B)].promotions, 1);
        let barred: BarredWitness =
            decode(&sim.get(Key::Barred(router("gate-a"))).await.unwrap().value).unwrap();
        assert_eq!((barred.moving, barred.reason.as_str()), (id, "the site burned down"));
        let view = engine.view(id).await.unwrap().unwrap();
        assert!(view.log.iter().any(|e| e.note.contains("gate-a declared destroyed")), "{view:#?}");
    });
}

#[test]
fn who_lives_or_is_no_witness_is_not_struck_out() {
    simulate(async {
        let (sim, engine, leadership, id, _leading) = held_up(Sabotage::default()).await;
        for (ids, why) in
            [(&["gate-a", "gate-b"][..], "gate-b lives"), (&["edge-f"], "no witness of"), (&[], "nobody")]
        {
            let refused =
                engine.retry_without(id, &destroyed(ids), said(&leadership, &sim)).await.unwrap_err();
            assert!(
                matches!(refused, MoveError::NotNow(_)) && refused.to_string().contains(why),
                "{refused}"
            );
        }
        assert!(sim.store.list("barred/").await.unwrap().entries.is_empty());
        assert_eq!(sim.world().servers[&region(B)].promotions, 0);
    });
    // The look left out: a witness that lives, and may vouch, is taken for quiet.
    simulate(async {
        let broken = Sabotage { strike_the_living: true, ..Sabotage::default() };
        let (sim, engine, leadership, id, _leading) = held_up(broken).await;
        engine.retry_without(id, &destroyed(&["gate-b"]), said(&leadership, &sim)).await.unwrap();
        until(&engine, id, "return").await;
        assert!(sim.get(Key::Router(router("gate-b"))).await.is_some());
        assert_eq!(sim.world().servers[&region(B)].promotions, 1, "the proof does not notice it");
    });
}
