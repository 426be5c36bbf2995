//! The suite on real servers: one, one far away, and three of which one is cut off, falls behind and comes back.

mod support;

use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Link;
use domicile_store::conformance::run_all;
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
