//! Watches.

use std::sync::Arc;
use std::time::Duration;

use domicile_model::Revision;
use futures::future::join_all;

use super::{Harness, batches, changes, done, key, nothing_before_marker, put, revision, soon};
use crate::store::{Change, StoreError};
use crate::txn::{Op, Txn};

fn put_five(value: &[u8]) -> Txn {
    (0..5).fold(Txn::bare(), |txn, n| txn.op(Op::Put(key(n), value.to_vec(), None)))
}

pub(super) async fn a_watch_tells_everything_from_a_past_revision_on(harness: &dyn Harness) {
    let store = harness.store().await;
    let mut at = Vec::new();
    for n in 0..6 {
        at.push(done(&*store, put(&key(n), &[1])).await);
    }
    let mut watches = Vec::new();
    for from in 0..6 {
        let mut watch = store.watch(at[from]).await.expect("a watch");
        let told = changes(&mut *watch, 6 - from).await;
        for (n, change) in told.iter().enumerate() {
            let Change::Put(entry) = change else { panic!("{change:?}") };
            assert_eq!(
                (&entry.key, entry.created, entry.modified),
                (&key(from + n), at[from + n], at[from + n])
            );
            assert_eq!(entry.value, [1]);
        }
        watches.push(watch);
    }
    let marker = done(&*store, put(&key(7), b"marker")).await;
    for mut watch in watches {
        assert_eq!(changes(&mut *watch, 1).await[0].revision(), marker);
    }
}

pub(super) async fn changes_of_one_revision_stand_in_one_batch(harness: &dyn Harness) {
    let store = harness.store().await;
    let first = done(&*store, put_five(b"1")).await;
    let second = done(&*store, put_five(b"2")).await;
    // From the past, and as it happens.
    let mut watch = store.watch(first).await.expect("a watch");
    let past = batches(&mut *watch, 10).await;
    let third = done(&*store, put_five(b"3").delete(key(7))).await;
    let live = batches(&mut *watch, 5).await;
    assert_eq!(live.len(), 1);
    for revision in [first, second, third] {
        let holding = past.iter().chain(&live).filter(|b| b.changes.iter().any(|c| c.revision() == revision));
        let sizes: Vec<usize> =
            holding.map(|b| b.changes.iter().filter(|c| c.revision() == revision).count()).collect();
        assert_eq!(sizes, [5], "revision {revision}");
    }
    for batch in past.iter().chain(&live) {
        assert!(batch.changes.is_sorted_by_key(Change::revision));
        assert!(batch.changes.iter().all(|change| change.revision() <= batch.header.revision));
    }
}

pub(super) async fn a_deletion_is_told_with_its_revision(harness: &dyn Harness) {
    let store = harness.store().await;
    let made = done(&*store, put(&key(1), b"")).await;
    let mut watch = store.watch(made).await.expect("a watch");
    let gone = done(&*store, Txn::bare().delete(key(1)).op(Op::Put(key(2), Vec::new(), None))).await;
    let told = changes(&mut *watch, 3).await;
    // An empty value is a value and no deletion.
    assert!(matches!(&told[0], Change::Put(entry) if entry.value.is_empty() && entry.modified == made));
    assert_eq!(told.iter().filter(|c| **c == Change::Delete(key(1), gone)).count(), 1, "{told:?}");
}

pub(super) async fn a_watch_from_the_future_tells_nothing_earlier(harness: &dyn Harness) {
    let store = harness.store().await;
    let now = revision(&*store).await;
    let mut watch = store.watch(Revision(now.0 + 3)).await.expect("a watch");
    let mut at = Vec::new();
    for _ in 0..5 {
        at.push(done(&*store, put(&key(1), &[1])).await);
    }
    // At least three of the five; others may have written to the server too.
    at.retain(|at| at.0 >= now.0 + 3);
    let told = changes(&mut *watch, at.len()).await;
    assert_eq!(told.iter().map(Change::revision).collect::<Vec<_>>(), at);
}

pub(super) async fn compaction_is_reported(harness: &dyn Harness) {
    let store = harness.store().await;
    let mut at = Vec::new();
    for n in 0..5 {
        at.push(done(&*store, put(&key(n), &[1])).await);
    }
    // The deletion is at the very revision of the compaction: it can be gone without a trace.
    at.push(done(&*store, Txn::bare().delete(key(0))).await);
    at.push(done(&*store, put(&key(9), &[1])).await);
    harness.compact(at[5]).await;
    for gone in &at[..=5] {
        let first = match store.watch(*gone).await {
            Ok(mut watch) => soon("an answer", watch.next()).await,
            Err(error) => Err(error),
        };
        let Err(StoreError::Compacted(left)) = first else { panic!("from {gone}: {first:?}") };
        assert_eq!(left, at[5]);
    }
    let mut watch = store.watch(at[6]).await.expect("a watch");
    assert_eq!(changes(&mut *watch, 1).await[0].revision(), at[6]);
    // What is there is still read.
    assert_eq!(store.list("").await.expect("a listing").entries.len(), 5);
}

pub(super) async fn a_probe_brings_a_sign_of_life(harness: &dyn Harness) {
    let store = harness.store().await;
    let now = done(&*store, put(&key(1), b"")).await;
    let mut watch = store.watch(now.next()).await.expect("a watch");
    for _ in 0..3 {
        watch.probe().await.expect("a running watch");
        let sign = soon("a sign of life", watch.next()).await.expect("a running watch");
        assert!(sign.changes.is_empty());
        assert!(sign.header.revision >= now && sign.header.cluster != 0);
    }
    nothing_before_marker(&*store, &mut *watch).await;
}

pub(super) async fn a_dropped_call_loses_nothing(harness: &dyn Harness) {
    let store = harness.store().await;
    let from = revision(&*store).await.next();
    let mut watch = store.watch(from).await.expect("a watch");
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..40 {
                done(&*store, put(&key(n), &[1])).await;
            }
        })
    };
    let mut told = Vec::new();
    let reading = async {
        while told.len() < 40 {
            if let Ok(batch) = tokio::time::timeout(Duration::from_micros(300), watch.next()).await {
                told.extend(batch.expect("a running watch").changes);
            }
            tokio::task::yield_now().await;
        }
    };
    soon("all changes", reading).await;
    writer.await.expect("the writer");
    let keys: Vec<_> = told.iter().map(|change| change.key().clone()).collect();
    assert_eq!(keys, (0..40).map(key).collect::<Vec<_>>());
}

pub(super) async fn many_changes_come_in_order_to_everyone(harness: &dyn Harness) {
    let store = harness.store().await;
    let from = revision(&*store).await.next();
    let mut early = store.watch(from).await.expect("a watch");
    let writers = (0..10).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..30 {
                done(&*store, put(&key(writer), &[n])).await;
            }
        })
    });
    for finished in join_all(writers).await {
        finished.expect("a writer");
    }
    let mut late = store.watch(from).await.expect("a watch");
    let (one, two) = (changes(&mut *early, 300).await, changes(&mut *late, 300).await);
    assert_eq!(one, two);
    assert!(one.windows(2).all(|pair| pair[0].revision() < pair[1].revision()));
    for writer in 0..10 {
        let values: Vec<Vec<u8>> = one
            .iter()
            .filter_map(|change| match change {
                Change::Put(entry) if entry.key == key(writer) => Some(entry.value.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(values, (0..30).map(|n| vec![n]).collect::<Vec<_>>());
    }
}

pub(super) async fn a_watch_skips_keys_of_others(harness: &dyn Harness) {
    let store = harness.store().await;
    let prefix = harness.prefix();
    let from = revision(&*store).await.next();
    let mut watch = store.watch(from).await.expect("a watch");
    harness.put_raw(&format!("{prefix}zebra/1"), b"other").await;
    harness.put_raw(&format!("{}2/cells/a", prefix.trim_end_matches('/')), b"other").await;
    harness.put_raw("cells/a", b"other").await;
    nothing_before_marker(&*store, &mut *watch).await;
}
