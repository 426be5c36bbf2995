//! What is done beside moves: samples, and naming witnesses.

use std::collections::BTreeSet;
use std::time::Duration;

use domicile_api::moves::MoveKind;
use domicile_model::clock::pause;
use domicile_model::{Epoch, Placement, WitnessSet};
use domicile_store::codec::decode;
use domicile_store::{Key, Store, Txn};

use super::happy::{ask, warm_up};
use super::simulate;
use crate::testkit::{A, B, Sim, region};
use crate::{Options, witnesses};

#[test]
fn lag_is_known_while_both_sides_answer_and_says_how_old_it_is() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        assert_eq!(engine.sampler().lag(&sim.cell.id), None);
        warm_up(MoveKind::Failover).await;
        let lag = engine.sampler().lag(&sim.cell.id).unwrap();
        assert_eq!((lag.bytes, lag.transactions, lag.streaming), (Some(0), Some(0), Some(true)));
        // The link is cut, then the primary too: what is known stays, and ages.
        sim.world().link_cut = true;
        pause(Duration::from_secs(3)).await;
        let lag = engine.sampler().lag(&sim.cell.id).unwrap();
        assert!(lag.transactions.is_some_and(|n| n >= 250), "{lag:?}");
        sim.world().servers.get_mut(&region(A)).unwrap().reachable = false;
        pause(Duration::from_secs(7)).await;
        let lag = engine.sampler().lag(&sim.cell.id).unwrap();
        assert!(lag.primary_sample_age_ms.is_some_and(|ms| ms >= 6_500), "{lag:?}");
        // A stale sample is unknown, not the last number: a planned move does not start on it.
        let plan = engine.plan(&ask(&sim, MoveKind::Switchover)).await.unwrap();
        let lag = plan.checks.iter().find(|c| c.name == "lag").unwrap();
        assert!(lag.verdict.blocks() && lag.why.contains("unknown"), "{lag:?}");
        // And the preview still has both of its parts.
        let preview = engine.sampler().preview(&sim.cell.id, &sim.registry.constants);
        assert!(preview.sampled_transactions.is_some_and(|n| n >= 250), "{preview:?}");
        assert!(preview.until_stopped_transactions.is_some_and(|n| n >= 1_600), "{preview:?}");
    });
}

#[test]
fn one_slow_server_does_not_hold_up_the_samples_of_others() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let cells = [(sim.cell.clone(), region(A))];
        for _ in 0..4 {
            engine.sampler().tick(&cells);
            pause(Duration::from_millis(250)).await;
        }
        assert!(engine.sampler().lag(&sim.cell.id).is_some());
    });
}

#[test]
fn witnesses_are_named_once_and_never_during_a_move() {
    simulate(async {
        let sim = Sim::start().await;
        let leadership = sim.take_over("one").await;
        let key = Key::Placement(sim.cell.id.clone());
        let entry = sim.get(key.clone()).await.unwrap();
        let bare = Placement { witnesses: WitnessSet::of(BTreeSet::new()), ..decode(&entry.value).unwrap() };
        sim.store.commit(Txn::bare().put(key.clone(), &bare)).await.unwrap();
        let claim = domicile_model::MoveClaim { moving: domicile_model::MoveId::new() };
        let claimed = Key::Move(sim.cell.id.clone());
        sim.store.commit(Txn::bare().put(claimed.clone(), &claim)).await.unwrap();
        assert_eq!(witnesses::assign(&sim.store, &leadership, &sim.registry).await.unwrap(), 0);
        sim.store.commit(Txn::bare().delete(claimed)).await.unwrap();
        assert_eq!(witnesses::assign(&sim.store, &leadership, &sim.registry).await.unwrap(), 1);
        assert_eq!(witnesses::assign(&sim.store, &leadership, &sim.registry).await.unwrap(), 0);
        let named: Placement = decode(&sim.get(key).await.unwrap().value).unwrap();
        assert_eq!((named.epoch, named.witnesses.members.len()), (Epoch(2), 3));
        assert_eq!((named.witnesses.p, named.witnesses.r), (2, 2));
        assert_eq!(named.standby, Some(region(B)));
    });
}
