//! The simulation keeps the word of every implementation of `Databases`: what is proved on it holds for the real ones.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domicile_api::agent::Consent;
use domicile_model::{Cell, ClosedReason, Epoch, LeaderFence, MoveId, Phase, Placement, RegionId, Token};
use domicile_store::codec::decode;
use domicile_store::right::take_right;
use domicile_store::{Commit, Key, Store, Txn};

use super::simulate;
use crate::conformance::{CASES, Harness, run};
use crate::provider::Databases;
use crate::testkit::{FakeDatabases, Sim};

struct Simulated {
    sim: Sim,
    moving: MoveId,
    leader: Mutex<LeaderFence>,
}

impl Simulated {
    async fn place(&self, change: impl FnOnce(&mut Placement)) -> Epoch {
        let entry = self.sim.get(Key::Placement(self.sim.cell.id.clone())).await.unwrap();
        let old: Placement = decode(&entry.value).unwrap();
        let mut new = old.clone();
        change(&mut new);
        let base = Txn::in_world(&self.sim.registry);
        let (txn, placed) = take_right(base, &old, entry.modified, new).unwrap();
        assert!(matches!(self.sim.store.commit(txn).await, Ok(Commit::Done(_))));
        self.sim.noticed(placed.epoch).await;
        placed.epoch
    }
}

#[async_trait]
impl Harness for Simulated {
    fn databases(&self) -> Arc<dyn Databases> {
        Arc::new(FakeDatabases(self.sim.clone()))
    }

    fn cell(&self) -> Cell {
        self.sim.cell.clone()
    }

    fn token(&self, attempt: u64) -> Token {
        Token {
            world: self.sim.registry.id,
            leader: *self.leader.lock().unwrap_or_else(PoisonError::into_inner),
            attempt,
            moving: self.moving,
            step: "conformance".to_owned(),
            cell: self.sim.cell.id.clone(),
        }
    }

    async fn another_leader(&self) {
        let leader = self.sim.take_over("another").await.fence;
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    async fn close(&self) -> Epoch {
        self.place(|p| {
            p.holder = None;
            p.phase = Phase::Closed { reason: ClosedReason::Moving, for_ms: 1_000 };
        })
        .await
    }

    async fn give(&self, region: &RegionId) {
        self.place(|p| (p.holder, p.phase) = (Some(region.clone()), Phase::Serving)).await;
    }

    async fn write(&self, region: &RegionId) -> bool {
        self.sim.write(region)
    }

    async fn consents(&self, _: &Consent) {
        self.sim.world().planned = false;
    }

    async fn cut_replication(&self) {
        self.sim.world().link_cut = true;
    }
}

#[test]
fn the_simulation_conforms() {
    for (name, _) in CASES {
        eprintln!("conformance: {name}");
        simulate(async {
            let sim = Sim::start().await;
            let leader = Mutex::new(sim.take_over("first").await.fence);
            run(name, &Simulated { sim, moving: MoveId::new(), leader }).await;
        });
    }
}

#[test]
#[should_panic(expected = "must be refused as late")]
fn a_simulation_that_ignores_ranks_does_not() {
    simulate(async {
        let sim = Sim::start().await;
        sim.world().ignore_tokens = true;
        let leader = Mutex::new(sim.take_over("first").await.fence);
        let simulated = Simulated { sim, moving: MoveId::new(), leader };
        run("a_lower_rank_is_refused_by_every_effect", &simulated).await;
    });
}
