//! The in-process twin against the real server: the same random history, and every answer must be the same, to the
//! revision and to the order within one.

use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_model::clock::{Clock, ManualClock};
use domicile_model::{CellId, Revision};
use domicile_store::{
    Change, Commit, Key, LeaseId, MemoryStore, Op, Precondition, Store, StoreError, Txn, Watcher,
};
use domicile_store_etcd::{EtcdConfig, EtcdStore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const STEPS: usize = 400;

/// One of few, so that they meet.
fn key(random: &mut StdRng) -> Key {
    Key::Cell(CellId::new(&format!("cell-{}", random.random_range(0..6))).expect("a plain id"))
}

fn value(random: &mut StdRng) -> Vec<u8> {
    vec![b'v'; random.random_range(0..3)]
}

/// A transaction on the leases at these places of the list; their numbers differ from store to store.
#[derive(Debug, Clone)]
struct Plan {
    when: Vec<Precondition>,
    then: Vec<(Key, Option<Vec<u8>>, Option<usize>)>,
}

impl Plan {
    fn random(random: &mut StdRng, now: Revision, leases: usize) -> Self {
        let when = (0..random.random_range(0..3))
            .map(|_| {
                let key = key(random);
                let at = Revision(random.random_range(now.0 - 8..=now.0));
                match random.random_range(0..4) {
                    0 => Precondition::Absent(key),
                    1 => Precondition::ModifiedAt(key, at),
                    2 => Precondition::CreatedAt(key, at),
                    _ => Precondition::Holds(key, value(random)),
                }
            })
            .collect();
        let then = (0..random.random_range(0..4))
            .map(|_| {
                let written = random.random_bool(0.7).then(|| value(random));
                let lease = (leases > 0 && random.random_bool(0.4)).then(|| random.random_range(0..leases));
                (key(random), written, lease)
            })
            .collect();
        Self { when, then }
    }

    fn txn(&self, leases: &[LeaseId]) -> Txn {
        let then = self.then.iter().map(|(key, written, lease)| match written {
            Some(value) => Op::Put(key.clone(), value.clone(), lease.map(|n| leases[n])),
            None => Op::Delete(key.clone()),
        });
        Txn { when: self.when.clone(), then: then.collect() }
    }
}

/// The parts of an answer that stores have in common.
fn told(answer: Result<Commit, StoreError>) -> String {
    match answer {
        Ok(commit) => format!("{commit:?}"),
        Err(StoreError::LeaseLost) => "lease lost".to_owned(),
        Err(StoreError::Refused(_)) => "refused".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

async fn history(watch: &mut dyn Watcher, until: Revision) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    while all.last().is_none_or(|last| last.revision() < until) {
        let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("changes");
        all.extend(batch.expect("a running watch").changes);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_twin_and_the_server_tell_the_same_story() {
    for seed in [1, 2, 3] {
        // A fresh server begins at revision 1, as the twin does.
        let cluster = EtcdCluster::start(1).await.expect("a server");
        let endpoints = cluster.endpoints().iter().map(ToString::to_string).collect();
        let real = EtcdStore::connect(EtcdConfig::new(endpoints)).await.expect("an address");
        let twin = MemoryStore::new(Clock::Manual(ManualClock::new()));
        let stores: [&dyn Store; 2] = [&real, &twin];
        let mut leases: [Vec<LeaseId>; 2] = [Vec::new(), Vec::new()];
        let mut random = StdRng::seed_from_u64(seed);
        let mut now = Revision(1);
        let mut last_change = Revision(1);
        for step in 0..STEPS {
            let at = format!("seed {seed}, step {step}");
            match random.random_range(0..20) {
                0 => {
                    for (store, leases) in stores.iter().zip(&mut leases) {
                        leases.push(store.grant(Duration::from_secs(600)).await.expect("a lease"));
                    }
                }
                1 if !leases[0].is_empty() => {
                    // Revoked ones stay in the list: what they carry must be refused.
                    let n = random.random_range(0..leases[0].len());
                    let mut ended = Vec::new();
                    for (store, leases) in stores.iter().zip(&leases) {
                        ended.push(store.revoke(leases[n]).await.is_ok());
                    }
                    assert_eq!(ended[0], ended[1], "{at}: revoke");
                }
                _ => {
                    let plan = Plan::random(&mut random, now, leases[0].len());
                    let real = told(stores[0].commit(plan.txn(&leases[0])).await);
                    let twin = told(stores[1].commit(plan.txn(&leases[1])).await);
                    assert_eq!(real, twin, "{at}: {plan:?}");
                }
            }
            let (real, twin) =
                (stores[0].list("").await.expect("a listing"), stores[1].list("").await.expect("a listing"));
            assert_eq!(real.entries, twin.entries, "{at}");
            assert_eq!(real.header.revision, twin.header.revision, "{at}");
            if real.header.revision > now {
                last_change = real.header.revision;
            }
            now = real.header.revision;
        }
        assert!(now.0 > 50, "the history is too thin to tell anything");
        let mut stories = Vec::new();
        for store in stores {
            let mut watch = store.watch(Revision(2)).await.expect("a watch");
            stories.push(history(&mut *watch, last_change).await);
        }
        assert_eq!(stories[0], stories[1], "seed {seed}");
    }
}
