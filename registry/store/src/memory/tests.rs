//! The hooks that only the twin has. What it shares with the other stores is in the conformance suite.

use std::time::Duration;

use domicile_model::clock::{Clock, ManualClock};
use domicile_model::{CellId, Revision};

use super::{LostAnswer, MemoryStore};
use crate::key::Key;
use crate::store::{Change, Store, StoreError};
use crate::txn::{Commit, Op, Precondition, Txn};

fn key(n: u32) -> Key {
    Key::Move(CellId::new(&format!("cell-{n}")).unwrap())
}

fn put(n: u32) -> Txn {
    Txn::bare().op(Op::Put(key(n), vec![1], None))
}

fn store() -> (MemoryStore, ManualClock) {
    let hand = ManualClock::new();
    (MemoryStore::new(Clock::Manual(hand.clone())), hand)
}

#[tokio::test]
async fn calls_fail_as_often_as_asked() {
    let (store, _) = store();
    store.fail_next(2);
    assert!(store.list("").await.unwrap_err().is_retryable());
    assert!(store.commit(put(1)).await.unwrap_err().is_retryable());
    assert!(store.list("").await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn an_outage_lasts_until_it_ends_and_cuts_watches() {
    let (store, _) = store();
    let mut watch = store.watch(Revision(2)).await.unwrap();
    store.outage(true);
    assert!(watch.next().await.unwrap_err().is_retryable());
    assert!(store.list("").await.is_err());
    assert!(store.watch(Revision(2)).await.is_err());
    store.outage(false);
    assert!(store.list("").await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_is_applied_or_not_and_says_neither() {
    for (how, there) in [(LostAnswer::Applied, true), (LostAnswer::NotApplied, false)] {
        let (store, _) = store();
        store.lose_next_answer(how);
        assert!(matches!(store.commit(put(1)).await, Err(StoreError::UnknownOutcome { .. })));
        assert_eq!(store.read(&[key(1)]).await.unwrap().1[0].is_some(), there);
        assert!(matches!(store.commit(put(2)).await, Ok(Commit::Done(_))));
    }
}

#[tokio::test]
async fn a_paused_watch_says_nothing_and_loses_nothing() {
    let (store, _) = store();
    let mut watch = store.watch(Revision(2)).await.unwrap();
    store.pause_watches(true);
    store.commit(put(1)).await.unwrap();
    watch.probe().await.unwrap();
    // Cancelled: must lose nothing.
    assert!(tokio::time::timeout(Duration::from_millis(20), watch.next()).await.is_err());
    store.pause_watches(false);
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    assert!(watch.next().await.unwrap().changes.is_empty());
}

#[tokio::test]
async fn a_cut_watch_ends() {
    let (store, _) = store();
    let mut watch = store.watch(Revision(2)).await.unwrap();
    store.cut_watches();
    assert!(watch.next().await.is_err());
    assert!(watch.probe().await.is_err());
    assert!(store.watch(Revision(2)).await.is_ok());
}

#[tokio::test]
async fn an_overtaking_probe_shows_a_header_past_what_was_told() {
    let (store, _) = store();
    store.let_probes_overtake(true);
    let mut watch = store.watch(Revision(2)).await.unwrap();
    store.commit(put(1)).await.unwrap();
    watch.probe().await.unwrap();
    let early = watch.next().await.unwrap();
    assert!(early.changes.is_empty());
    assert_eq!(early.header.revision, Revision(2));
    assert_eq!(watch.next().await.unwrap().changes[0].revision(), Revision(2));
}

#[tokio::test]
async fn a_restored_snapshot_repeats_revisions_and_cuts_watches() {
    let (store, _) = store();
    store.commit(put(1)).await.unwrap();
    let old = store.snapshot();
    store.commit(put(2)).await.unwrap();
    let mut watch = store.watch(Revision(2)).await.unwrap();
    store.restore(&old);
    assert!(watch.next().await.is_err());
    assert_eq!(store.revision(), Revision(2));
    assert_eq!(store.commit(put(3)).await.unwrap(), Commit::Done(Revision(3)));
    assert_eq!(store.list("").await.unwrap().header.cluster, 1);
    store.set_cluster(7);
    assert_eq!(store.list("").await.unwrap().header.cluster, 7);
}

#[tokio::test]
async fn leases_end_by_the_injected_clock_and_in_one_revision() {
    let (store, hand) = store();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let two = Txn::bare().op(Op::Put(key(1), vec![1], Some(lease))).op(Op::Put(key(2), vec![1], Some(lease)));
    store.commit(two).await.unwrap();
    let mut watch = store.watch(Revision(3)).await.unwrap();
    hand.advance(Duration::from_secs(4));
    store.keep_alive(lease).await.unwrap();
    hand.advance(Duration::from_secs(4));
    store.tick();
    assert_eq!(store.list("").await.unwrap().entries.len(), 2);
    hand.advance(Duration::from_secs(1));
    store.tick();
    let gone = watch.next().await.unwrap().changes;
    assert_eq!(gone, [Change::Delete(key(1), Revision(3)), Change::Delete(key(2), Revision(3))]);
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseLost)));
}

#[tokio::test]
async fn on_the_machines_clock_a_watch_sees_a_lease_end_while_nobody_calls() {
    let store = MemoryStore::new(Clock::Machine);
    let lease = store.grant(Duration::from_millis(30)).await.unwrap();
    store.commit(Txn::bare().op(Op::Put(key(1), vec![1], Some(lease)))).await.unwrap();
    let mut watch = store.watch(Revision(3)).await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap();
    assert_eq!(batch.changes, [Change::Delete(key(1), Revision(3))]);
}

#[tokio::test]
async fn an_expired_lease_is_gone_at_once() {
    let (store, _) = store();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    store.commit(Txn::bare().op(Op::Put(key(1), vec![1], Some(lease)))).await.unwrap();
    store.expire(lease).unwrap();
    assert!(store.list("").await.unwrap().entries.is_empty());
    assert!(store.expire(lease).is_err());
}

#[tokio::test]
async fn what_a_server_would_refuse_is_refused_before_anything_happens() {
    let (store, _) = store();
    let large = Txn::bare().op(Op::Put(key(1), vec![0; crate::txn::MOST_BYTES], None));
    let many = (0..=u32::try_from(crate::txn::MOST_OPS).unwrap())
        .fold(Txn::bare(), |txn, n| txn.when(Precondition::Absent(key(n))));
    let twice = put(1).delete(key(1));
    for txn in [large, many, twice] {
        assert!(matches!(store.commit(txn).await, Err(StoreError::Refused(_))));
    }
    assert_eq!(store.revision(), Revision(1));
}
