//! A real cluster that is full: it refuses what the twin refuses, and says so.

mod support;

use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::wait;
use domicile_store::Store;
use domicile_store::conformance::{Harness, a_full_store_takes_removals_only_and_says_so};
use domicile_store_etcd::{EtcdConfig, EtcdStore};
use support::Etcd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cluster_takes_removals_only_and_says_so() {
    const QUOTA: u64 = 4 << 20;
    let cluster = EtcdCluster::start_with_quota(1, QUOTA).await.unwrap();
    let direct = cluster.members()[0].direct();
    let etcd = Etcd::new(vec![direct], direct).await;
    a_full_store_takes_removals_only_and_says_so(&etcd).await;
    let told = etcd.store().await.room().await.unwrap().unwrap();
    // More than its quota: the server counts what it has written to disk, a tenth of a second later.
    assert!(told.size >= QUOTA, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_away_is_named_and_the_others_tell() {
    let mut cluster = EtcdCluster::start(3).await.unwrap();
    let dead = cluster.endpoints()[0].to_string();
    cluster.kill(0);
    let mut config = EtcdConfig::new(cluster.endpoints().iter().map(ToString::to_string).collect());
    config.quota = 10 << 20;
    let store = EtcdStore::connect(config).await.unwrap();
    let told =
        wait::eventually(Duration::from_secs(20), "the rest has elected a leader and tells", || async {
            store.room().await.ok().flatten()
        })
        .await
        .unwrap();
    assert_eq!(told.silent, [dead]);
    assert_eq!((told.quota, told.alarms.len()), (Some(10 << 20), 0));
    assert!(told.size > 0 && told.in_use > 0 && told.in_use <= told.size, "{told:?}");
}
