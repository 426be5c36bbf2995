//! How full a store is, and forgetting its history.

use domicile_model::Revision;

use super::{Harness, changes, done, is_refused, key, put, revision, soon, until, value};
use crate::room::AlarmKind;
use crate::store::StoreError;
use crate::txn::{Commit, Op, Txn};

/// Longest time that a case lets pass for a lease.
const LEASE: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn what_is_written_takes_room(harness: &dyn Harness) {
    let store = harness.store().await;
    let before = store.room().await.expect("an answer").expect("a store that is written to has a size");
    assert!(before.in_use <= before.size && before.alarms.is_empty(), "{before:?}");
    let quota = before.quota.expect("a quota is known");
    assert_eq!(before.left(), Some(quota - before.size));
    // What is overwritten stays until it is forgotten.
    for n in 0..8 {
        done(&*store, put(&key(1), &vec![n; 300_000])).await;
    }
    until(harness, "the size shows what was written", || async {
        let now = store.room().await.expect("an answer").expect("a size");
        now.size >= before.in_use + 2_000_000 && now.left() < before.left().map(|left| left + 1)
    })
    .await;
}

pub(super) async fn what_is_forgotten_is_gone_for_watches_and_nothing_else(harness: &dyn Harness) {
    let store = harness.store().await;
    let first = done(&*store, put(&key(1), b"old")).await;
    done(&*store, put(&key(2), b"kept")).await;
    let last = done(&*store, put(&key(1), b"new")).await;
    store.forget_before(last).await.expect("done");
    store.forget_before(last).await.expect("a repeat does nothing");
    store.forget_before(first).await.expect("what is gone already is no error");
    assert_eq!(value(&*store, &key(1)).await.as_deref(), Some(&b"new"[..]));
    assert_eq!(value(&*store, &key(2)).await.as_deref(), Some(&b"kept"[..]));
    let ended = match store.watch(first).await {
        Ok(mut watch) => soon("an answer", watch.next()).await.err(),
        Err(error) => Some(error),
    };
    assert!(matches!(ended, Some(StoreError::Compacted(_))), "{ended:?}");
    let mut watch = store.watch(last.next()).await.expect("a watch");
    let at = done(&*store, put(&key(3), b"next")).await;
    assert_eq!(changes(&mut *watch, 1).await[0].revision(), at);
    let future = Revision(revision(&*store).await.0 + 1_000);
    assert!(is_refused(&store.forget_before(future).await));
}

/// For stores with a quota of at most a few MiB, which cases that fill one up can't share with others: a put that has no
/// room is refused as [`StoreError::Full`], so is every later one, and only removals are taken.
pub async fn a_full_store_takes_removals_only_and_says_so(harness: &dyn Harness) {
    let store = harness.store().await;
    done(&*store, put(&key(0), b"small")).await;
    let mut refused = None;
    for n in 1..1_000 {
        match store.commit(put(&key(n), &[7; 100_000])).await {
            Ok(Commit::Done(_)) => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert!(matches!(refused, Some(StoreError::Full { .. })), "{refused:?}");
    until(harness, "the alarm is told", || async {
        let room = store.room().await.expect("an answer").expect("a size");
        room.left() == Some(0) && room.alarms.iter().any(|a| a.kind == AlarmKind::NoSpace)
    })
    .await;
    let tiny = store.commit(put(&key(0), b"tiny")).await;
    assert!(matches!(tiny, Err(StoreError::Full { .. })), "{tiny:?}");
    assert!(matches!(store.grant(LEASE).await, Err(StoreError::Full { .. })));
    assert_eq!(value(&*store, &key(0)).await.as_deref(), Some(&b"small"[..]), "nothing was changed");
    let removal = Txn::bare().op(Op::Delete(key(1)));
    assert!(matches!(store.commit(removal).await, Ok(Commit::Done(_))), "removals are how room is made");
}
