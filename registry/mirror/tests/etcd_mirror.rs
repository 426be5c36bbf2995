//! The mirror over real etcd servers: cut and stalled links, compaction, and a member that falls behind and rejoins.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Control;
use domicile_mirror::watch::Pace;
use domicile_mirror::{Mirror, Options};
use domicile_model::clock::{Clock, pause};
use domicile_model::{
    CellId, Epoch, FenceConstants, Phase, Placement, RegionId, Revision, WitnessSet, World, WorldId,
};
use domicile_store::{Commit, Key, Store, StoreError, Txn};
use domicile_store_etcd::{EtcdConfig, EtcdStore};

/// Longest that anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(40);

async fn store_at(endpoints: &[SocketAddr]) -> EtcdStore {
    EtcdStore::connect(EtcdConfig::new(endpoints.iter().map(ToString::to_string).collect())).await.unwrap()
}

fn cell() -> CellId {
    CellId::new("c").unwrap()
}

fn placement(epoch: u64) -> Placement {
    Placement {
        cell: cell(),
        epoch: Epoch(epoch),
        holder: Some(RegionId::new(if epoch.is_multiple_of(2) { "us-west-2" } else { "us-east-1" }).unwrap()),
        standby: None,
        phase: Phase::Serving,
        moving: None,
        availability_first: false,
        witnesses: WitnessSet::of([].into()),
    }
}

/// Writes until it is done. What is written here may be written twice: a busy machine, or an election, can cost a
/// commit its answer.
async fn done(store: &EtcdStore, txn: Txn) -> Revision {
    soon("a commit", async {
        loop {
            match store.commit(txn.clone()).await {
                Ok(Commit::Done(at)) => return at,
                Err(StoreError::Unavailable { .. } | StoreError::UnknownOutcome { .. }) => {
                    pause(Duration::from_millis(50)).await;
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

async fn fill(store: &EtcdStore) {
    let world = World { id: WorldId::from_u128(1), reconciled: true, constants: FenceConstants::DEFAULT };
    let key = Key::Placement(cell());
    done(store, Txn::bare().put(Key::World, &world).put(key, &placement(1))).await;
}

async fn raise(store: &EtcdStore, epoch: u64) -> Revision {
    done(store, Txn::bare().put(Key::Placement(cell()), &placement(epoch))).await
}

/// A mirror behind these addresses, with its first table.
async fn mirror_at(endpoints: &[SocketAddr]) -> Mirror {
    let pace = Pace {
        quiet: Duration::from_millis(200),
        answer: Duration::from_millis(800),
        backoff_most: Duration::from_millis(200),
        ..Pace::default()
    };
    let store: Arc<dyn Store> = Arc::new(store_at(endpoints).await);
    let mirror = Mirror::start(store, Clock::Machine, Options { pace, ..Options::default() }).unwrap();
    soon("the first table", mirror.started()).await;
    mirror
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("never came: {what}"),
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    soon(what, async {
        while !is() {
            pause(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn epoch(mirror: &Mirror) -> u64 {
    mirror.table().placement("c").unwrap().placement.epoch.0
}

/// Follows every table that the mirror shows; the highest epoch, or the first fall.
fn witness_of_epochs(mirror: &Mirror) -> tokio::task::JoinHandle<Result<u64, (u64, u64)>> {
    let mut told = mirror.subscribe();
    let mirror = mirror.clone();
    tokio::spawn(async move {
        let mut highest = 0;
        loop {
            let now = epoch(&mirror);
            if now < highest {
                return Err((highest, now));
            }
            highest = now;
            let last =
                mirror.table().cell("c").is_none() && mirror.table().world().is_some_and(|w| !w.reconciled);
            if last || told.changed().await.is_err() {
                return Ok(highest);
            }
        }
    })
}

/// Tells [`witness_of_epochs`] that it has seen everything.
async fn end(store: &EtcdStore) -> Revision {
    let world = World { id: WorldId::from_u128(1), reconciled: false, constants: FenceConstants::DEFAULT };
    done(store, Txn::bare().put(Key::World, &world)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_behind_a_bad_link_resumes_without_loss_and_without_listing_again() {
    let cluster = EtcdCluster::start_linked(1).await.unwrap();
    let member = &cluster.members()[0];
    let direct = store_at(&[member.direct()]).await;
    fill(&direct).await;
    let mirror = mirror_at(&cluster.endpoints()).await;
    let epochs = witness_of_epochs(&mirror);
    let link = member.client_link().unwrap().control();
    let faults: [fn(&Control); 3] = [Control::cut, Control::stall, Control::cut_backward];
    for (n, fault) in (2..).zip(faults) {
        let losses = mirror.counts().losses;
        fault(link);
        let revision = raise(&direct, n).await;
        until("the loss", || mirror.counts().losses > losses).await;
        assert_eq!(epoch(&mirror), n - 1, "it can't know");
        link.heal();
        soon("the change", mirror.wait_for(revision)).await;
        assert_eq!(epoch(&mirror), n);
    }
    assert_eq!(mirror.counts().listings, 1);
    soon("the end", mirror.wait_for(end(&direct).await)).await;
    assert_eq!(soon("the witness", epochs).await.unwrap(), Ok(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_away_is_listed() {
    let cluster = EtcdCluster::start_linked(1).await.unwrap();
    let member = &cluster.members()[0];
    let direct = store_at(&[member.direct()]).await;
    fill(&direct).await;
    let gone = Key::Move(cell());
    done(&direct, Txn::bare().put(gone.clone(), &placement_claim())).await;
    let mirror = mirror_at(&cluster.endpoints()).await;
    let link = member.client_link().unwrap().control();
    let losses = mirror.counts().losses;
    link.cut();
    until("the loss", || mirror.counts().losses > losses).await;
    let mut revision = done(&direct, Txn::bare().delete(gone)).await;
    for n in 2..20 {
        revision = raise(&direct, n).await;
    }
    let compacted = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args([&format!("--endpoints={}", member.direct()), "compact", &revision.to_string()])
        .output()
        .unwrap();
    assert!(compacted.status.success(), "{compacted:?}");
    link.heal();
    soon("the listing", mirror.wait_for(revision)).await;
    assert_eq!((epoch(&mirror), mirror.counts().listings), (19, 2));
    assert_eq!(mirror.table().diverged(), None, "the same history");
    let revision = raise(&direct, 20).await;
    soon("the watch goes on", mirror.wait_for(revision)).await;
    assert_eq!(mirror.counts().listings, 2);
}

fn placement_claim() -> domicile_model::MoveClaim {
    domicile_model::MoveClaim { moving: domicile_model::MoveId::from_u128(1) }
}

/// The mirror asks a member first that is cut off from the others, falls behind and rejoins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_falls_behind_and_rejoins_turns_nothing_back() {
    let cluster = EtcdCluster::start_linked(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let lagging = (0..3).find(|i| *i != leader).unwrap();
    let others: Vec<SocketAddr> = (0..3).filter(|i| *i != lagging).map(|i| cluster.endpoints()[i]).collect();
    let direct = store_at(&others).await;
    fill(&direct).await;
    let mut all = cluster.endpoints();
    all.swap(0, lagging);
    let mirror = mirror_at(&all).await;
    let epochs = witness_of_epochs(&mirror);
    let mut highest = 1;
    for round in 0..3 {
        cluster.cut_member(lagging);
        let mut revision = Revision::ZERO;
        for _ in 0..10 {
            highest += 1;
            revision = raise(&direct, highest).await;
        }
        if round != 1 {
            // Once it rejoins while the mirror still hangs on it, twice after the mirror went elsewhere.
            soon("the changes by the other members", mirror.wait_for(revision)).await;
        }
        cluster.heal_member(lagging);
        soon("the cluster", cluster.until_healthy()).await.unwrap();
        highest += 1;
        let revision = raise(&direct, highest).await;
        soon("the changes", mirror.wait_for(revision)).await;
        assert_eq!(epoch(&mirror), highest);
        assert_eq!(mirror.table().diverged(), None, "a member that lags behind is no other history");
    }
    soon("the end", mirror.wait_for(end(&direct).await)).await;
    assert_eq!(soon("the witness", epochs).await.unwrap(), Ok(highest));
}
