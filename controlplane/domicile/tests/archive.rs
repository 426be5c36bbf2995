//! Leaving a real etcd for the archive: as many keys in one transaction as it takes.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::wait::eventually;
use domicile_engine::Options;
use domicile_model::clock::Clock;
use domicile_model::links::AddressMap;
use domicile_model::{FenceConstants, SecretRef};
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use domicile_server::archive::{Keep, Sabotage, Settings};
use domicile_server::{CancellationToken, Config, Limits, Operators, Server, room};
use domicile_store::{Commit, Key, Op, Store, Txn};
use domicile_store_etcd::EtcdStore;

const ENTRIES: u64 = 300;

fn config(dir: &Path) -> Config {
    let hash = "0".repeat(64);
    Config {
        name: "a".to_owned(),
        region: "us-east-1".parse().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        operators: Operators::parse(Path::new("tokens"), &format!("ann {hash}")).unwrap(),
        tokens: None,
        limits: Limits::default(),
        constants: FenceConstants::DEFAULT,
        lease: Duration::from_secs(3),
        links: AddressMap::default(),
        options: Options::default(),
        room: room::Settings { history: Some(Duration::from_secs(1)) },
        facts: None,
        archive: Some(Settings {
            dir: dir.to_owned(),
            keep: Keep { newest: 5, age: Duration::from_secs(3_600) },
            copies: None,
            every: Duration::from_millis(300),
            patience: Duration::from_secs(1),
            sabotage: Sabotage::None,
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_entries_leave_a_real_registry() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let store = EtcdStore::connect(cluster.url().parse().unwrap()).await.unwrap();
    // Of an hour and more ago, by what their ids say; 5 KB each.
    for n in 0..ENTRIES {
        let at = uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000 + n, 0);
        let value = format!("{{\"v\":1,\"data\":{{\"changed\":[\"{}\"]}}}}", "x".repeat(5_000));
        let put = Op::Put(Key::Audit(uuid::Uuid::new_v7(at)), value.into_bytes(), None);
        assert!(matches!(store.commit(Txn::bare().op(put)).await, Ok(Commit::Done(_))));
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = SecretRef::Env("NOT_READ_HERE".to_owned());
    let databases = PostgresDatabases::new(PostgresConfig::new("a", secret), Clock::Machine).unwrap();
    let cancel = CancellationToken::new();
    let server =
        Server::bind(config(dir.path()), Arc::new(store.clone()), Arc::new(databases), Clock::Machine)
            .await
            .unwrap();
    let task = tokio::spawn(server.run(cancel.clone()));
    eventually(Duration::from_secs(30), "all but the newest have left", || async {
        (store.list("audit/").await.ok()?.entries.len() <= 5).then_some(())
    })
    .await
    .unwrap();
    let copy = domicile_archive::Directory::at(dir.path());
    let report = domicile_archive::verify(&copy, &copy.keys().unwrap(), None).unwrap();
    let end = report.end.unwrap();
    assert!(end.head.n >= ENTRIES - 5 && end.segment >= 3, "{end:?}");
    cancel.cancel();
    task.await.unwrap();
}
