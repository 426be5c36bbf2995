//! The PostgreSQL provider and the agent keep the word of `Databases`: the suite that the engine's simulation runs, on real
//! servers, with the registry's part played by the test.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

mod pair;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domicile_api::agent::Consent;
use domicile_chaos_kit::wait::eventually;
use domicile_engine::conformance::{CASES, Harness, run};
use domicile_engine::provider::Databases;
use domicile_model::clock::Clock;
use domicile_model::{
    AgentKey, Cell, CellId, ClosedReason, Database, DatabaseEndpoint, Epoch, FenceConstants, LeaderFence,
    MoveClaim, MoveId, Phase, Placement, RegionId, SecretRef, Token, WitnessSet, World, WorldId,
};
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use domicile_store::codec::decode;
use domicile_store::right::{first_right, take_right};
use domicile_store::{Commit, Key, Op, Store, Txn};
use domicile_store_etcd::EtcdStore;
use pair::{Pair, SLOW};

struct Real {
    pair: Pair,
    store: EtcdStore,
    world: World,
    moving: MoveId,
    leader: Mutex<LeaderFence>,
    cell: Cell,
    databases: Arc<PostgresDatabases>,
}

impl Real {
    async fn start() -> Self {
        let mut pair = Pair::new(512).await.unwrap();
        let store = EtcdStore::connect(pair.etcd.url().parse().unwrap()).await.unwrap();
        let password = pair.file("looker", &pair.spec.domicile_password).unwrap();
        let secret = pair.file("secret", "s").unwrap();
        let region = |name: &str| RegionId::new(name).unwrap();
        let end = |side: &pair::Side| DatabaseEndpoint { address: side.address, agent: side.agent_at };
        let cell = Cell {
            id: CellId::new("c").unwrap(),
            primary: region(pair.a.region),
            dr: region(pair.b.region),
            availability_first: false,
            rpo_ms: Cell::DEFAULT_RPO_MS,
            ingress: BTreeMap::new(),
            application: BTreeMap::new(),
            mllp: BTreeMap::new(),
            database: Some(Database {
                name: pair.spec.database.clone(),
                user: "domicile".into(),
                password: SecretRef::File(password),
                endpoints: [(region(pair.a.region), end(&pair.a)), (region(pair.b.region), end(&pair.b))]
                    .into(),
            }),
        };
        let world = World { id: WorldId::new(), reconciled: true, constants: FenceConstants::DEFAULT };
        let moving = MoveId::new();
        let placement = Placement {
            cell: cell.id.clone(),
            epoch: Epoch::FIRST,
            holder: Some(cell.primary.clone()),
            standby: Some(cell.dr.clone()),
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(BTreeSet::new()),
        };
        let txn = Txn::bare().put(Key::World, &world).put(Key::Move(cell.id.clone()), &MoveClaim { moving });
        let txn = first_right(txn, &placement).unwrap();
        assert!(matches!(store.commit(txn).await.unwrap(), Commit::Done(_)));
        let leader = Mutex::new(lead(&store).await);
        pair.start_agent(false).unwrap();
        pair.start_agent(true).unwrap();
        let config = PostgresConfig::new("cp-1", SecretRef::File(secret));
        let databases = Arc::new(PostgresDatabases::new(config, Clock::Machine).unwrap());
        eventually(SLOW, "the pair is up", || async {
            let (a, b) = (databases.observe(&cell, &cell.primary), databases.observe(&cell, &cell.dr));
            let (a, b) = (a.await, b.await);
            let well = a.problems.is_empty() && b.problems.is_empty();
            well && a.streaming == Some(true) && b.streaming == Some(true)
        })
        .await
        .unwrap();
        for region in [&cell.primary, &cell.dr] {
            let key = databases.observe(&cell, region).await.key.unwrap();
            let agent = AgentKey { cell: cell.id.clone(), region: region.clone(), key, by: None };
            let txn = Txn::in_world(&world).put(Key::Agent(cell.id.clone(), region.clone()), &agent);
            assert!(matches!(store.commit(txn).await.unwrap(), Commit::Done(_)));
        }
        Self { pair, store, world, moving, leader, cell, databases }
    }

    async fn place(&self, change: impl FnOnce(&mut Placement)) -> Epoch {
        let (_, found) = self.store.read(&[Key::Placement(self.cell.id.clone())]).await.unwrap();
        let entry = found[0].clone().unwrap();
        let old: Placement = decode(&entry.value).unwrap();
        let mut new = old.clone();
        change(&mut new);
        let (txn, placed) = take_right(Txn::in_world(&self.world), &old, entry.modified, new).unwrap();
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
        placed.epoch
    }
}

/// Takes the leadership as a campaign would: the key is made anew.
async fn lead(store: &EtcdStore) -> LeaderFence {
    store.commit(Txn::bare().delete(Key::Leader)).await.unwrap();
    let put = Txn::bare().op(Op::Put(Key::Leader, b"a leader".to_vec(), None));
    match store.commit(put).await.unwrap() {
        Commit::Done(revision) => LeaderFence(revision),
        refused @ Commit::Refused { .. } => panic!("{refused:?}"),
    }
}

#[async_trait]
impl Harness for Real {
    fn databases(&self) -> Arc<dyn Databases> {
        self.databases.clone()
    }

    fn cell(&self) -> Cell {
        self.cell.clone()
    }

    fn token(&self, attempt: u64) -> Token {
        Token {
            world: self.world.id,
            leader: *self.leader.lock().unwrap_or_else(PoisonError::into_inner),
            attempt,
            moving: self.moving,
            step: "conformance".to_owned(),
            cell: self.cell.id.clone(),
        }
    }

    async fn another_leader(&self) {
        let leader = lead(&self.store).await;
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
        let b = *region == self.cell.dr;
        self.pair.sql(b, "INSERT INTO t (v) VALUES ('a write')").await.is_ok()
    }

    async fn consents(&self, consent: &Consent) {
        // As far as an agent reads it.
        let record = serde_json::json!({"v": 1, "data": {
            "definition": "failover",
            "request": {
                "cell": self.cell.id, "to": self.cell.dr, "force": true,
                "accept_loss": consent.accept_loss, "accept_unknown": consent.accept_unknown,
            },
        }});
        let record = serde_json::to_vec(&record).unwrap();
        let put = Op::Put(Key::Workflow(self.moving), record, None);
        let txn = Txn::in_world(&self.world).op(put);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    async fn cut_replication(&self) {
        self.pair.replication.control().cut();
    }
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                run(stringify!($case), &Real::start().await).await;
            }
        )*

        #[test]
        fn no_case_is_left_out() {
            let all: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, [$(stringify!($case)),*]);
        }
    };
}

cases![
    a_pair_looks_as_it_is,
    a_fence_stops_writes_and_a_repeat_says_the_same,
    a_lower_rank_is_refused_by_every_effect,
    a_standby_is_promoted_once_and_the_old_primary_follows,
    nothing_is_promoted_too_early,
    a_promoted_server_that_was_shut_opens_on_the_same_order_again,
    what_was_lost_is_listed_before_anything_is_rewound,
];
