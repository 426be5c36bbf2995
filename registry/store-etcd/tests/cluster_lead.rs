//! Leadership on real servers: a leader that is cut off, one that dies, and a cluster that loses a member.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::wait;
use domicile_model::clock::Clock;
use domicile_model::{CellId, FenceConstants};
use domicile_store::lead::{Attempt, Ended};
use domicile_store::{Candidate, Commit, Key, Op, Store, Txn, init_world, present_leader, read_world};
use domicile_store_etcd::{EtcdConfig, EtcdStore};

const TTL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

async fn store_at(endpoints: &[SocketAddr]) -> EtcdStore {
    EtcdStore::connect(EtcdConfig::new(endpoints.iter().map(ToString::to_string).collect())).await.unwrap()
}

async fn candidate(name: &str, store: &EtcdStore) -> Candidate {
    let world = init_world(store, FenceConstants::DEFAULT).await.unwrap();
    let address = "127.0.0.1:7070".parse().unwrap();
    Candidate::new(Arc::new(store.clone()), Clock::Machine, world, name, address, TTL)
}

fn write(txn: Txn) -> Txn {
    txn.op(Op::Put(Key::Move(CellId::new("c").unwrap()), b"x".to_vec(), None))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_before_the_next_begins_and_is_fenced() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let direct = cluster.endpoints()[0];
    let link = Link::start(direct).await.unwrap();
    let (far, near) = (store_at(&[link.addr()]).await, store_at(&[direct]).await);
    let a = Arc::new(candidate("a", &far).await.campaign().await.unwrap());
    let b = candidate("b", &near).await;
    assert!(matches!(b.try_lead().await.unwrap(), Attempt::Follows(_)));
    let late = write(a.txn().unwrap());
    assert!(matches!(far.commit(late.clone()).await, Ok(Commit::Done(_))));

    let holding = {
        let a = Arc::clone(&a);
        tokio::spawn(async move { (a.hold().await, Clock::Machine.now()) })
    };
    // Beyond one lease: the renewals work.
    assert!(tokio::time::timeout(TTL * 2, b.campaign()).await.is_err());
    assert_eq!(a.ended(), None);
    // Nothing comes through, and nothing is closed: the worst for whoever waits for an error.
    link.stall();
    let next = tokio::time::timeout(PATIENCE, b.campaign()).await.unwrap().unwrap();
    let began = Clock::Machine.now();
    let (ended, stopped) = tokio::time::timeout(PATIENCE, holding).await.unwrap().unwrap();
    assert_eq!(ended, Ended::NotRenewed);
    assert!(stopped < began, "two led for {:?}", stopped.since(began));
    assert!(a.txn().is_err());

    link.heal();
    wait::eventually(PATIENCE, "the old leader reaches the registry again", || async {
        far.read(&[]).await.is_ok()
    })
    .await
    .unwrap();
    assert!(matches!(far.commit(late).await, Ok(Commit::Refused { .. })));
    // Seen to fail: the same write without the fence goes through.
    assert!(matches!(far.commit(write(Txn::in_world(a.world()))).await, Ok(Commit::Done(_))));
    assert!(matches!(near.commit(write(next.txn().unwrap())).await, Ok(Commit::Done(_))));
    assert_eq!(present_leader(&far).await.unwrap().unwrap().record, *next.record());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_is_followed_when_its_lease_ends_and_one_that_resigns_at_once() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let store = store_at(&cluster.endpoints()).await;
    let (a, b) = (candidate("a", &store).await, candidate("b", &store).await);
    let dead = a.campaign().await.unwrap();
    let stale = write(dead.txn().unwrap());
    drop(dead);
    let next = tokio::time::timeout(PATIENCE, b.campaign()).await.unwrap().unwrap();
    assert!(matches!(store.commit(stale).await, Ok(Commit::Refused { .. })));
    next.resign().await.unwrap();
    let again = tokio::time::timeout(TTL / 2, a.campaign()).await.expect("it waited for the lease").unwrap();
    assert!(again.leadership().fence > next.leadership().fence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_outlives_the_death_of_any_member() {
    let mut cluster = EtcdCluster::start(3).await.unwrap();
    let store = store_at(&cluster.endpoints()).await;
    // Longer than an election takes.
    let world = init_world(&store, FenceConstants::DEFAULT).await.unwrap();
    let address = "127.0.0.1:7070".parse().unwrap();
    let ttl = Duration::from_secs(12);
    let a = Candidate::new(Arc::new(store.clone()), Clock::Machine, world.clone(), "a", address, ttl);
    let reign = Arc::new(a.campaign().await.unwrap());
    let until = reign.until();
    let leader = cluster.leader().await.unwrap();
    cluster.kill(leader);
    let holding = {
        let reign = Arc::clone(&reign);
        tokio::spawn(async move { reign.hold().await })
    };
    wait::eventually(PATIENCE, "a renewal after the death", || async { reign.until() > until })
        .await
        .unwrap();
    assert_eq!(reign.ended(), None);
    wait::eventually(PATIENCE, "a write of the leader", || async {
        matches!(store.commit(write(reign.txn().unwrap())).await, Ok(Commit::Done(_)))
    })
    .await
    .unwrap();
    assert_eq!(read_world(&store).await.unwrap(), Some(world));
    reign.resign().await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, holding).await.unwrap().unwrap(), Ended::Resigned);
}
