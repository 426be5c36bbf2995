//! A real etcd with a small quota: ordinary changes end while there is room for a failover. With nothing kept, which is
//! the switch that breaks it, the same failover finds the registry full.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

use std::sync::Arc;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::wait::eventually;
use domicile_engine::room::MOVE_BYTES;
use domicile_engine::{Engine, Options};
use domicile_model::SecretRef;
use domicile_model::clock::Clock;
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use domicile_server::room::{Keeper, NoRoom, bytes_of};
use domicile_store::{Commit, Key, Op, Store, StoreError, Txn};
use domicile_store_etcd::{EtcdConfig, EtcdStore};

const QUOTA: u64 = 24 << 20;
/// Of an ordinary change, in bytes.
const CHANGE: usize = 100_000;
/// Of one edge of a move: its record, its log entry and the rest.
const EDGE: usize = 8_192;

/// How it was refused, and how many edges were then written before the registry was full.
async fn fill(reserve: u64) -> (Option<NoRoom>, u64) {
    let cluster = EtcdCluster::start_with_quota(1, QUOTA).await.unwrap();
    let mut config = EtcdConfig::new(vec![cluster.endpoints()[0].to_string()]);
    config.quota = QUOTA;
    config.call_timeout = Duration::from_secs(5);
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(config).await.unwrap());
    let secret = SecretRef::Env("NOT_READ_HERE".to_owned());
    let databases = PostgresDatabases::new(PostgresConfig::new("a", secret), Clock::Machine).unwrap();
    let mut options = Options::default();
    options.reserve = Some(reserve);
    let engine = Engine::new(Arc::clone(&store), Arc::new(databases), Clock::Machine, options);
    let keeper = Keeper::new(engine, Clock::Machine);

    let mut refused = None;
    for n in 0..10_000 {
        let change = vec![Op::Put(Key::History("tenant", "t".to_owned(), n), vec![b'x'; CHANGE], None)];
        if let Err(why) = keeper.ordinary(2 * bytes_of(&change)).await {
            refused = Some(why);
            break;
        }
        match store.commit(Txn { when: vec![], then: change }).await {
            Ok(Commit::Done(_)) => {}
            Err(StoreError::Full { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    let edges = MOVE_BYTES / u64::try_from(EDGE).unwrap();
    let mut written = 0;
    for _ in 0..edges {
        let edge = Op::Put(Key::Stop, vec![b'x'; EDGE], None);
        match store.commit(Txn { when: vec![], then: vec![edge] }).await {
            Ok(Commit::Done(_)) => written += 1,
            Err(StoreError::Full { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    if written < edges {
        eventually(Duration::from_secs(10), "the alarm is told", || async {
            store.room().await.ok().flatten().filter(domicile_store::Room::is_full)
        })
        .await
        .unwrap();
    }
    (refused, written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_changes_end_while_a_failover_still_has_room() {
    let (refused, written) = fill(4 << 20).await;
    assert!(matches!(refused, Some(NoRoom::Reserved { .. })), "{refused:?}");
    assert_eq!(written * u64::try_from(EDGE).unwrap(), MOVE_BYTES, "a failover's worth of edges");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_kept_a_failover_meets_a_full_registry() {
    assert_eq!(fill(0).await, (None, 0));
}
