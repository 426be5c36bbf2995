//! Transactions.

use std::sync::Arc;

use domicile_model::Revision;
use futures::future::join_all;

use super::{Harness, done, is_refused, key, put, revision, value};
use crate::key::Key;
use crate::store::{Entry, Store};
use crate::txn::{Commit, MOST_BYTES, MOST_OPS, Op, Precondition, Txn};

async fn entry(store: &dyn Store, key: &Key) -> Entry {
    store.read(std::slice::from_ref(key)).await.expect("a read").1.remove(0).expect("an entry")
}

pub(super) async fn revisions_tell_creation_from_change(harness: &dyn Harness) {
    let store = harness.store().await;
    let first = done(&*store, put(&key(1), b"1")).await;
    let made = entry(&*store, &key(1)).await;
    assert_eq!((made.created, made.modified), (first, first));
    let second = done(&*store, put(&key(1), b"2")).await;
    let changed = entry(&*store, &key(1)).await;
    assert_eq!((changed.created, changed.modified), (first, second));
    assert!(second > first);
    let third = done(&*store, Txn::bare().delete(key(1))).await;
    let fourth = done(&*store, put(&key(1), b"1")).await;
    let again = entry(&*store, &key(1)).await;
    assert_eq!((again.created, again.modified), (fourth, fourth));
    assert!(fourth > third && third > second);
}

pub(super) async fn every_kind_of_precondition_holds_and_fails(harness: &dyn Harness) {
    let store = harness.store().await;
    let there = key(1);
    let empty = key(2);
    let absent = key(3);
    let created = done(&*store, put(&there, b"old")).await;
    let modified = done(&*store, put(&there, b"now")).await;
    done(&*store, put(&empty, b"")).await;
    let holds = |key: &Key, value: &[u8]| Precondition::Holds(key.clone(), value.to_vec());
    let cases = [
        (Precondition::Absent(absent.clone()), true),
        (Precondition::Absent(there.clone()), false),
        (Precondition::ModifiedAt(there.clone(), modified), true),
        (Precondition::ModifiedAt(there.clone(), created), false),
        (Precondition::ModifiedAt(there.clone(), Revision::ZERO), false),
        (Precondition::ModifiedAt(absent.clone(), modified), false),
        (Precondition::ModifiedAt(absent.clone(), Revision::ZERO), false),
        (Precondition::ModifiedAt(absent.clone(), Revision(-1)), false),
        (Precondition::CreatedAt(there.clone(), created), true),
        (Precondition::CreatedAt(there.clone(), modified), false),
        (Precondition::CreatedAt(absent.clone(), created), false),
        (Precondition::CreatedAt(absent.clone(), Revision::ZERO), false),
        (holds(&there, b"now"), true),
        (holds(&there, b"old"), false),
        (holds(&there, b"no"), false),
        (holds(&there, b""), false),
        (holds(&empty, b""), true),
        (holds(&absent, b""), false),
        (holds(&absent, b"now"), false),
    ];
    for (n, (precondition, expected)) in cases.into_iter().enumerate() {
        let mark = key(100 + n);
        let commit = store.commit(put(&mark, b"x").when(precondition.clone())).await.expect("an answer");
        assert_eq!(matches!(commit, Commit::Done(_)), expected, "{precondition:?}: {commit:?}");
        assert_eq!(value(&*store, &mark).await.is_some(), expected, "{precondition:?}");
    }
}

pub(super) async fn a_refused_commit_writes_nothing_and_tells_what_is_there(harness: &dyn Harness) {
    let store = harness.store().await;
    done(&*store, put(&key(1), b"one").op(Op::Put(key(2), b"two".to_vec(), None))).await;
    let before = store.list("").await.expect("a listing");
    let txn = put(&key(1), b"changed")
        .delete(key(2))
        .op(Op::Put(key(4), b"new".to_vec(), None))
        .when(Precondition::Holds(key(2), b"two".to_vec()))
        .when(Precondition::Absent(key(3)))
        .when(Precondition::Absent(key(1)))
        .when(Precondition::Holds(key(2), b"other".to_vec()));
    let Commit::Refused { revision, current } = store.commit(txn).await.expect("an answer") else {
        panic!("it should have been refused");
    };
    let (one, two) = (Some(before.entries[0].clone()), Some(before.entries[1].clone()));
    assert_eq!(current, [two.clone(), None, one, two]);
    assert!(revision >= before.header.revision);
    let after = store.list("").await.expect("a listing");
    assert_eq!(after.entries, before.entries);
}

pub(super) async fn a_commit_is_all_or_nothing(harness: &dyn Harness) {
    let store = harness.store().await;
    done(&*store, put(&key(50), b"goes")).await;
    let all = (0..MOST_OPS - 1).fold(Txn::bare(), |txn, n| match n {
        50 => txn.delete(key(50)),
        _ => txn.op(Op::Put(key(n), vec![1], None)),
    });
    let failing = all.clone().when(Precondition::Absent(key(1))).when(Precondition::Absent(key(50)));
    assert!(matches!(store.commit(failing).await, Ok(Commit::Refused { .. })));
    assert_eq!(store.list("").await.expect("a listing").entries.len(), 1);
    let at = done(&*store, all).await;
    let listing = store.list("").await.expect("a listing");
    assert_eq!(listing.entries.len(), MOST_OPS - 2);
    assert!(listing.entries.iter().all(|entry| entry.modified == at && entry.key != key(50)));
}

pub(super) async fn a_deletion_removes_and_needs_nothing_to_remove(harness: &dyn Harness) {
    let store = harness.store().await;
    let made = done(&*store, put(&key(1), b"1")).await;
    let removed = done(&*store, Txn::bare().delete(key(1))).await;
    assert!(removed > made);
    assert_eq!(value(&*store, &key(1)).await, None);
    // Neither a removal of nothing nor a transaction that writes nothing is a revision.
    let before = revision(&*store).await;
    done(&*store, Txn::bare().delete(key(1))).await;
    done(&*store, Txn::bare().when(Precondition::Absent(key(1)))).await;
    assert_eq!(revision(&*store).await, before);
}

pub(super) async fn what_is_too_large_is_refused(harness: &dyn Harness) {
    let store = harness.store().await;
    let large = put(&key(1), &vec![0; MOST_BYTES]);
    let many = (0..=MOST_OPS).fold(Txn::bare(), |txn, n| txn.delete(key(n)));
    let careful = (0..=MOST_OPS).fold(Txn::bare(), |txn, n| txn.when(Precondition::Absent(key(n))));
    let twice = put(&key(1), b"1").op(Op::Put(key(1), b"2".to_vec(), None));
    let both = put(&key(1), b"1").delete(key(1));
    for txn in [large, many, careful, twice, both] {
        assert!(is_refused(&store.commit(txn).await));
    }
    assert!(store.list("").await.expect("a listing").entries.is_empty());
    // The largest that may be, under as many preconditions as may be.
    let room = MOST_BYTES - 2 * (MOST_OPS + 1) * key(0).to_string().len();
    let most =
        (0..MOST_OPS).fold(put(&key(1), &vec![7; room]), |txn, n| txn.when(Precondition::Absent(key(n))));
    done(&*store, most).await;
}

pub(super) async fn no_update_is_lost_between_competitors(harness: &dyn Harness) {
    let store = harness.store().await;
    done(&*store, put(&key(1), b"0")).await;
    let competitors = (0..6).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut added = 0_u64;
            while added < 5 {
                let old = entry(&*store, &key(1)).await;
                let count: u64 = String::from_utf8_lossy(&old.value).parse().expect("a number");
                let txn = put(&key(1), (count + 1).to_string().as_bytes())
                    .when(Precondition::ModifiedAt(key(1), old.modified));
                if let Commit::Done(_) = store.commit(txn).await.expect("an answer") {
                    added += 1;
                }
            }
        })
    });
    for finished in join_all(competitors).await {
        finished.expect("a competitor");
    }
    assert_eq!(value(&*store, &key(1)).await.expect("a count"), b"30");
}

pub(super) async fn one_of_many_creators_wins(harness: &dyn Harness) {
    let store = harness.store().await;
    let creators = (0..12_u8).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let txn = put(&key(1), &[n]).when(Precondition::Absent(key(1)));
            match store.commit(txn).await.expect("an answer") {
                Commit::Done(at) => Some((n, at)),
                Commit::Refused { current, .. } => {
                    assert!(current[0].is_some(), "refused without a reason");
                    None
                }
            }
        })
    });
    let won: Vec<(u8, Revision)> =
        join_all(creators).await.into_iter().filter_map(|done| done.expect("a creator")).collect();
    assert_eq!(won.len(), 1, "{won:?}");
    let made = entry(&*store, &key(1)).await;
    assert_eq!((made.value.as_slice(), made.created), (&[won[0].0][..], won[0].1));
}
