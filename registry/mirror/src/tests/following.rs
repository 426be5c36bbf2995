//! List-then-watch over the in-process store: cuts, stalls, compaction, restores, and servers that tell lies.

use std::sync::Arc;
use std::time::Duration;

use domicile_model::Revision;
use domicile_model::clock::{Clock, ManualClock};
use domicile_store::codec::encode;
use domicile_store::memory::MemoryStore;
use domicile_store::{Key, Store};

use crate::testing::*;
use crate::watch::Pace;
use crate::{Mirror, Options, RefreshError, Source};

pub(super) const FAST: Pace = Pace {
    quiet: Duration::from_millis(40),
    answer: Duration::from_millis(200),
    list: Duration::from_secs(10),
    backoff_least: Duration::from_millis(5),
    backoff_most: Duration::from_millis(40),
};

fn mirror(store: &Arc<MemoryStore>) -> Mirror {
    let options = Options { pace: FAST, ..Options::default() };
    Mirror::start(store.clone(), Clock::Machine, options).unwrap()
}

async fn started() -> (Arc<MemoryStore>, Mirror) {
    let store = store(small()).await;
    let mirror = mirror(&store);
    soon("the first table", mirror.started()).await;
    (store, mirror)
}

fn epoch(mirror: &Mirror) -> u64 {
    mirror.table().placement("c").unwrap().placement.epoch.0
}

fn provable(mirror: &Mirror) -> bool {
    let table = mirror.table();
    ["us-east-1", "us-west-2"].iter().any(|region| table.provable("c", &region_id(region)).is_some())
}

#[tokio::test]
async fn changes_arrive_and_can_be_waited_for() {
    let (store, mirror) = started().await;
    assert_eq!(mirror.freshness().source, Source::Live);
    let mut told = mirror.subscribe();
    let revision = write(&store, vec![placement("c", 2, "us-west-2"), tenant("u", "c", "US")]).await;
    soon("the change", mirror.wait_for(revision)).await;
    assert_eq!((epoch(&mirror), mirror.table().applied()), (2, revision));
    assert!(mirror.table().tenant("u").is_some());
    soon("the subscription", told.wait_for(|applied| *applied >= revision)).await.unwrap();
    soon("without a file applied is persisted", mirror.persisted(revision)).await;
}

#[tokio::test]
async fn a_store_that_is_not_there_yet_is_waited_for() {
    let store = store(small()).await;
    store.outage(true);
    let mirror = mirror(&store);
    assert_eq!((mirror.freshness().source, mirror.freshness().age), (Source::None, None));
    store.outage(false);
    soon("the first table", mirror.started()).await;
    assert_eq!(epoch(&mirror), 1);
}

#[tokio::test]
async fn a_cut_watch_is_resumed_without_loss_and_without_listing_again() {
    let (store, mirror) = started().await;
    for n in 2..12 {
        if n % 3 == 0 {
            store.outage(true);
            store.outage(false);
        } else {
            store.cut_watches();
        }
        let revision = write(&store, vec![placement("c", n, "us-west-2"), cell(&format!("d{n}"), 1)]).await;
        soon("the change", mirror.wait_for(revision)).await;
    }
    assert_eq!((epoch(&mirror), mirror.table().cells().count()), (11, 11));
    assert_eq!(mirror.counts().listings, 1, "only the first time");
}

#[tokio::test]
async fn a_removal_during_an_outage_is_honoured() {
    let (store, mirror) = started().await;
    store.pause_watches(true);
    let (key, _) = tenant("t", "c", "US");
    let revision = {
        use domicile_store::{Commit, Txn};
        let Commit::Done(revision) = store.commit(Txn::bare().delete(key)).await.unwrap() else { panic!() };
        write(&store, vec![cell("d", 1)]).await;
        store.compact(revision.next()).unwrap();
        revision
    };
    store.pause_watches(false);
    store.cut_watches();
    soon("the listing", mirror.wait_for(revision)).await;
    assert!(mirror.table().tenant("t").is_none() && mirror.table().cell("d").is_some());
    assert_eq!(mirror.counts().listings, 2, "what was compacted away must be listed");
}

#[tokio::test]
async fn a_silent_watch_is_asked_and_then_dropped() {
    let (store, mirror) = started().await;
    store.pause_watches(true);
    let revision = write(&store, vec![placement("c", 2, "us-west-2")]).await;
    until("the silent stream to be dropped", || mirror.counts().losses > 0).await;
    assert_eq!(epoch(&mirror), 1);
    store.pause_watches(false);
    soon("the change", mirror.wait_for(revision)).await;
    assert_eq!((epoch(&mirror), mirror.counts().listings), (2, 1));
}

#[tokio::test]
async fn a_quiet_registry_keeps_the_table_fresh_and_a_dead_one_lets_it_age() {
    let hand = ManualClock::new();
    let store = store(small()).await;
    let options = Options { pace: FAST, ..Options::default() };
    let mirror = Mirror::start(store.clone(), Clock::Manual(hand.clone()), options).unwrap();
    soon("the first table", mirror.started()).await;
    hand.advance(Duration::from_secs(9));
    until("a sign of life", || mirror.freshness().age == Some(Duration::ZERO)).await;
    assert_eq!(mirror.counts().losses, 0);
    store.outage(true);
    until("the loss", || mirror.counts().losses > 0).await;
    hand.advance(Duration::from_secs(9));
    until("some more losses", || mirror.counts().losses > 3).await;
    assert_eq!(mirror.freshness().age, Some(Duration::from_secs(9)));
    assert_eq!((mirror.freshness().source, epoch(&mirror)), (Source::Live, 1), "the table stays");
}

/// A server whose answers to probes overtake the changes. Returns the epoch that the mirror knows in the end; it is 9
/// in the registry.
async fn overtaken(trusting: bool) -> u64 {
    let (store, mirror) = started().await;
    mirror.trust_progress(trusting);
    store.let_probes_overtake(true);
    for n in 2..10 {
        store.pause_watches(true);
        let probes = mirror.counts().probes;
        until("a probe", || mirror.counts().probes > probes).await;
        let revision = write(&store, vec![placement("c", n, "us-west-2")]).await;
        store.pause_watches(false);
        soon("the change, or what is taken for it", mirror.wait_for(revision)).await;
    }
    store.let_probes_overtake(false);
    let last = write(&store, vec![cell("last", 1)]).await;
    soon("the last change", mirror.wait_for(last)).await;
    epoch(&mirror)
}

#[tokio::test]
async fn a_progress_answer_that_overtakes_changes_costs_none() {
    assert_eq!(overtaken(false).await, 9);
}

#[tokio::test]
async fn trusting_a_progress_answer_would_lose_a_change() {
    assert!(overtaken(true).await < 9, "the test above would not notice");
}

#[tokio::test]
async fn records_of_a_newer_program_stop_neither_the_watch_nor_the_routes() {
    let (store, mirror) = started().await;
    write(&store, vec![newer(Key::Placement(cell_id("c"))), newer(Key::Cell(cell_id("c")))]).await;
    let revision = write(&store, vec![tenant("u", "c", "US")]).await;
    soon("what came after", mirror.wait_for(revision)).await;
    assert_eq!((epoch(&mirror), mirror.table().refused().len()), (1, 2));
    assert!(mirror.table().tenant("u").is_some() && !provable(&mirror));
}

#[tokio::test]
async fn a_restored_registry_lowers_no_epoch() {
    let (store, mirror) = started().await;
    let before = store.snapshot();
    let revision = write(&store, vec![placement("c", 7, "us-west-2")]).await;
    soon("the change", mirror.wait_for(revision)).await;
    assert!(provable(&mirror));
    store.restore(&before);
    until("the other history to be seen", || mirror.table().diverged().is_some()).await;
    assert_eq!((epoch(&mirror), provable(&mirror)), (7, false));
    // Rebuilt as a new world, above everything that was known.
    let rebuilt = vec![(Key::World, encode(&world(2))), placement("c", 1 << 20, "us-west-2")];
    write(&store, rebuilt).await;
    until("the new world", || mirror.table().diverged().is_none() && provable(&mirror)).await;
    assert_eq!(epoch(&mirror), 1 << 20);
}

#[tokio::test]
async fn another_world_behind_a_cut_is_seen_before_its_changes_are_applied() {
    let (store, mirror) = started().await;
    let revision = write(&store, vec![placement("c", 7, "us-west-2")]).await;
    soon("the change", mirror.wait_for(revision)).await;
    // While the watch is away another registry takes the place, further on than ours.
    store.outage(true);
    until("the loss", || mirror.counts().losses > 0).await;
    let other = MemoryStore::new(Clock::Machine);
    let mut records = small();
    records[0].1 = encode(&world(2));
    write(&other, records).await;
    for _ in 0..20 {
        write(&other, vec![cell("filler", 1)]).await;
    }
    store.restore(&other.snapshot());
    store.outage(false);
    until("the other world", || mirror.table().world().is_some_and(|w| w.id == world(2).id)).await;
    assert_eq!((epoch(&mirror), provable(&mirror), mirror.counts().listings), (7, false, 2));
}

#[tokio::test]
async fn another_cluster_is_noticed() {
    let (store, mirror) = started().await;
    store.set_cluster(99);
    store.cut_watches();
    until("the other cluster", || mirror.table().diverged().is_some()).await;
    assert!(!provable(&mirror));
}

#[tokio::test]
async fn a_wiped_registry_does_not_wipe_the_routes() {
    let (store, mirror) = started().await;
    store.restore(&MemoryStore::new(Clock::Machine).snapshot());
    until("the loss of the world", || mirror.table().diverged().is_some()).await;
    assert_eq!((mirror.table().tenant_count(), provable(&mirror)), (1, false));
}

#[tokio::test]
async fn a_placement_can_be_read_ahead_of_a_watch_that_stands_still() {
    let (store, mirror) = started().await;
    store.pause_watches(true);
    let revision = write(&store, vec![placement("c", 2, "us-west-2")]).await;
    let mut told = mirror.subscribe();
    told.borrow_and_update();
    let read = mirror.refresh(&cell_id("c")).await.unwrap().unwrap();
    assert_eq!((read.placement.epoch.0, read.modified, epoch(&mirror)), (2, revision, 2));
    soon("to be told", told.changed()).await.unwrap();
    assert!(mirror.table().applied() < revision && !provable(&mirror));
    store.pause_watches(false);
    soon("the watch", mirror.wait_for(revision)).await;
    assert!(provable(&mirror));
    assert_eq!(mirror.refresh(&cell_id("no-such-cell")).await.unwrap(), None);
    write(&store, vec![newer(Key::Placement(cell_id("c")))]).await;
    assert!(matches!(mirror.refresh(&cell_id("c")).await, Err(RefreshError::Refused { .. })));
}

#[tokio::test]
async fn reading_ahead_from_another_history_lists_again() {
    let (store, mirror) = started().await;
    let before = store.snapshot();
    let revision = write(&store, vec![placement("c", 7, "us-west-2")]).await;
    soon("the change", mirror.wait_for(revision)).await;
    store.pause_watches(true);
    store.restore(&before);
    assert!(matches!(mirror.refresh(&cell_id("c")).await, Err(RefreshError::OtherHistory(_))));
    until("the listing", || mirror.table().diverged().is_some()).await;
    assert_eq!(epoch(&mirror), 7);
}

#[tokio::test]
async fn the_task_ends_with_the_last_handle() {
    let (store, mirror) = started().await;
    let table = Arc::downgrade(&mirror.table());
    let other = mirror.clone();
    drop(mirror);
    let revision = write(&store, vec![cell("d", 1)]).await;
    soon("a clone still follows", other.wait_for(revision)).await;
    drop(other);
    drop(store);
    until("everything to be gone", || table.upgrade().is_none()).await;
    assert!(revision > Revision::ZERO);
}
