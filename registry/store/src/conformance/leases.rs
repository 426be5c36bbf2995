//! Leases. Servers round their time up, so cases wait for what must come and never for a length of time.

use std::time::Duration;

use super::{Harness, changes, done, is_refused, key, put, revision, until, value};
use crate::store::{Change, LeaseId, StoreError};
use crate::txn::{Op, Txn};

/// The shortest that etcd grants with its usual election timeout.
const TTL: Duration = Duration::from_secs(2);

fn leased(n: usize, lease: LeaseId) -> Txn {
    Txn::bare().op(Op::Put(key(n), b"leased".to_vec(), Some(lease)))
}

pub(super) async fn a_lease_that_is_not_renewed_takes_its_keys_along(harness: &dyn Harness) {
    let store = harness.store().await;
    let lease = store.grant(TTL).await.expect("a lease");
    done(&*store, put(&key(1), b"stays")).await;
    let at = done(&*store, leased(2, lease)).await;
    assert!(value(&*store, &key(2)).await.is_some());
    let mut watch = store.watch(at.next()).await.expect("a watch");
    until(harness, "the end of the lease", || async { value(&*store, &key(2)).await.is_none() }).await;
    let end = changes(&mut *watch, 1).await.remove(0);
    assert!(matches!(&end, Change::Delete(gone, when) if *gone == key(2) && *when > at), "{end:?}");
    assert!(value(&*store, &key(1)).await.is_some());
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseLost)));
}

pub(super) async fn a_renewed_lease_lives_on(harness: &dyn Harness) {
    let store = harness.store().await;
    // Room for a busy machine between two renewals.
    let lease = store.grant(TTL * 3).await.expect("a lease");
    done(&*store, leased(1, lease)).await;
    for _ in 0..8 {
        harness.pass(TTL / 2).await;
        store.keep_alive(lease).await.expect("a renewal");
        assert!(value(&*store, &key(1)).await.is_some());
    }
    // Nothing may happen later, in the middle of another case.
    store.revoke(lease).await.expect("a revocation");
}

pub(super) async fn a_revoked_lease_takes_all_its_keys_in_one_revision(harness: &dyn Harness) {
    let store = harness.store().await;
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    let other = store.grant(Duration::from_secs(60)).await.expect("a lease");
    assert_ne!(lease, other);
    done(&*store, leased(1, lease)).await;
    done(&*store, leased(2, other)).await;
    let at = done(&*store, leased(3, lease)).await;
    let mut watch = store.watch(at.next()).await.expect("a watch");
    store.revoke(lease).await.expect("a revocation");
    let gone = super::batches(&mut *watch, 2).await;
    assert_eq!(gone.len(), 1, "two keys of one lease end in one batch");
    assert_eq!(gone[0].changes[0].revision(), gone[0].changes[1].revision());
    let left = store.list("").await.expect("a listing").entries;
    assert_eq!(left.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&key(2)]);
    store.keep_alive(other).await.expect("the other lease");
    store.revoke(other).await.expect("a revocation");
}

pub(super) async fn a_lost_lease_carries_no_key(harness: &dyn Harness) {
    let store = harness.store().await;
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    store.revoke(lease).await.expect("a revocation");
    let before = revision(&*store).await;
    let both = leased(1, lease).op(Op::Put(key(2), b"beside".to_vec(), None));
    assert!(matches!(store.commit(both).await, Err(StoreError::LeaseLost)));
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseLost)));
    assert!(matches!(store.revoke(lease).await, Err(StoreError::LeaseLost)));
    assert!(matches!(store.keep_alive(LeaseId(4_711)).await, Err(StoreError::LeaseLost)));
    assert_eq!(revision(&*store).await, before);
    assert!(store.list("").await.expect("a listing").entries.is_empty());
}

pub(super) async fn a_key_leaves_its_lease_with_the_next_put(harness: &dyn Harness) {
    let store = harness.store().await;
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    let other = store.grant(Duration::from_secs(60)).await.expect("a lease");
    for n in 1..=3 {
        done(&*store, leased(n, lease)).await;
    }
    done(&*store, put(&key(1), b"for good")).await;
    done(&*store, leased(2, other)).await;
    store.revoke(lease).await.expect("a revocation");
    let left = store.list("").await.expect("a listing").entries;
    assert_eq!(left.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&key(1), &key(2)]);
    store.revoke(other).await.expect("a revocation");
    assert_eq!(value(&*store, &key(1)).await.expect("it stays"), b"for good");
    assert_eq!(value(&*store, &key(2)).await, None);
}

pub(super) async fn a_lease_needs_a_time_to_live(harness: &dyn Harness) {
    assert!(is_refused(&harness.store().await.grant(Duration::ZERO).await));
}
