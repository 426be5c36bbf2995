//! The suite on real servers: one, one far away, and three of which one is cut off, falls behind and comes back.

mod support;

use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::wait;
use domicile_store::conformance::run_all;
use domicile_store::{Store, StoreError};
use domicile_store_etcd::{EtcdConfig, EtcdStore};
use support::Etcd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let direct = cluster.members()[0].direct();
    run_all(|| Etcd::new(vec![direct], direct)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_behind_a_delay() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let direct = cluster.members()[0].direct();
    let link = Link::start(direct).await.unwrap();
    link.control().delay(Duration::from_millis(12));
    let far = link.addr();
    run_all(|| Etcd::new(vec![far], direct)).await;
}

/// The member that is asked first is cut off and knows nothing newer, then comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_one_of_them_behind_and_back() {
    let cluster = EtcdCluster::start_linked(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let behind = (0..3).find(|i| *i != leader).unwrap();
    let mut all = cluster.endpoints();
    all.swap(0, behind);
    cluster.cut_member(behind);
    let alone = EtcdStore::connect(EtcdConfig::new(vec![all[0].to_string()])).await.unwrap();
    // Until it has noticed, a commit given to it is of unknown outcome, which the suite takes for an error.
    wait::eventually(Duration::from_secs(20), "the member knows that it has no leader", || async {
        matches!(alone.read(&[]).await, Err(StoreError::Unavailable { why, .. }) if why.contains("no leader"))
    })
    .await
    .unwrap();
    let direct = cluster.members()[leader].direct();
    run_all(|| Etcd::new(all.clone(), direct)).await;
    cluster.heal_member(behind);
    wait::eventually(Duration::from_secs(20), "the member is back", || async {
        alone.read(&[]).await.is_ok()
    })
    .await
    .unwrap();
    run_all(|| Etcd::new(vec![all[0]], direct)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_one_of_them_dead() {
    let mut cluster = EtcdCluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let dead = (0..3).find(|i| *i != leader).unwrap();
    let mut all = cluster.endpoints();
    all.swap(0, dead);
    cluster.kill(dead);
    let direct = cluster.members()[leader].direct();
    run_all(|| Etcd::new(all.clone(), direct)).await;
}
