//! Reads and listings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domicile_model::{CellId, RegionId, TenantId};

use super::{Harness, done, key, put, revision, soon, value};
use crate::key::Key;
use crate::store::Store;
use crate::txn::{Op, Txn};

fn cell(name: &str) -> Key {
    Key::Cell(CellId::new(name).expect("a plain id"))
}

fn tenant(name: &str) -> Key {
    Key::Tenant(TenantId::new(name).expect("a plain id"))
}

pub(super) async fn an_empty_store_has_a_revision(harness: &dyn Harness) {
    let store = harness.store().await;
    let listing = store.list("").await.expect("a listing");
    assert!(listing.entries.is_empty());
    assert!(listing.header.revision.0 > 0 && listing.header.cluster != 0);
    let (header, found) = store.read(&[]).await.expect("a read of nothing");
    assert!(found.is_empty());
    assert_eq!(header.cluster, listing.header.cluster);
    assert!(header.revision >= listing.header.revision);
    assert_eq!(store.read(&[key(1), key(2)]).await.expect("a read").1, [None, None]);
}

pub(super) async fn a_read_shows_what_was_committed_before_it(harness: &dyn Harness) {
    let (writer, reader) = (harness.store().await, harness.store().await);
    for n in 0..20_u8 {
        let at = done(&*writer, put(&key(1), &[n])).await;
        let (header, found) = reader.read(&[key(1)]).await.expect("a read");
        let found = found[0].as_ref().expect("it was just written");
        assert_eq!((found.value.as_slice(), found.modified), (&[n][..], at));
        assert!(header.revision >= at);
        assert!(revision(&*reader).await >= at);
    }
}

/// Two keys that are always written together are seen together, whoever reads.
pub(super) async fn several_keys_are_read_at_one_revision(harness: &dyn Harness) {
    let store = harness.store().await;
    let ends = [cell("a"), tenant("z")];
    let writer = spawn_twins(Arc::clone(&store), ends.clone());
    let mut seen = BTreeSet::new();
    let reading = async {
        while seen.len() < 20 {
            let (header, found) = store.read(&ends).await.expect("a read");
            assert_eq!(found[0].as_ref().map(|e| &e.value), found[1].as_ref().map(|e| &e.value));
            assert!(found.iter().flatten().all(|entry| entry.modified <= header.revision));
            seen.extend(found[0].as_ref().map(|entry| entry.modified));
            tokio::task::yield_now().await;
        }
    };
    soon("twenty states", reading).await;
    writer.stop().await;
}

pub(super) async fn more_keys_than_a_transaction_holds_are_read_in_order(harness: &dyn Harness) {
    let store = harness.store().await;
    done(&*store, put(&key(7), b"seven").op(Op::Put(key(299), b"last".to_vec(), None))).await;
    let mut keys: Vec<Key> = (0..300).map(key).collect();
    keys.push(key(7));
    let (_, found) = store.read(&keys).await.expect("a read");
    assert_eq!(found.len(), 301);
    for (index, entry) in found.iter().enumerate() {
        match index {
            7 | 300 => assert_eq!(entry.as_ref().expect("written").value, b"seven"),
            299 => assert_eq!(entry.as_ref().expect("written").value, b"last"),
            _ => assert_eq!(*entry, None),
        }
    }
}

pub(super) async fn a_prefix_lists_what_begins_with_it_in_order(harness: &dyn Harness) {
    let store = harness.store().await;
    let region = Key::Region(RegionId::new("us-east-1").expect("a plain id"));
    let all = [cell("a"), cell("ab"), cell("b"), Key::Leader, region, tenant("a")];
    for key in all.iter().rev() {
        done(&*store, put(key, key.to_string().as_bytes())).await;
    }
    for (prefix, expected) in [
        ("", &all[..]),
        ("cells/", &all[..3]),
        ("cells/a", &all[..2]),
        ("cells/a/", &[]),
        ("leader", &all[3..4]),
        ("tenants/", &all[5..]),
        ("zebra/", &[]),
    ] {
        let listing = store.list(prefix).await.expect("a listing");
        let keys: Vec<&Key> = listing.entries.iter().map(|entry| &entry.key).collect();
        assert_eq!(keys, expected.iter().collect::<Vec<_>>(), "{prefix:?}");
        assert!(listing.entries.iter().all(|entry| entry.value == entry.key.to_string().as_bytes()));
    }
}

/// Longer than a page of any store, and changed all the while at both ends.
pub(super) async fn a_long_listing_shows_one_revision(harness: &dyn Harness) {
    let store = harness.store().await;
    let names: Vec<usize> = (0..4_500).collect();
    for some in names.chunks(125) {
        let txn = some
            .iter()
            .fold(Txn::bare(), |txn, n| txn.op(Op::Put(key(*n), n.to_string().into_bytes(), None)));
        done(&*store, txn).await;
    }
    let ends = [cell("a"), tenant("z")];
    let writer = spawn_twins(Arc::clone(&store), ends.clone());
    let expected: Vec<Key> = names.iter().map(|n| key(*n)).collect();
    let mut seen = BTreeSet::new();
    let listing = async {
        while seen.len() < 8 {
            let listing = store.list("").await.expect("a listing");
            let end = |key: &Key| listing.entries.iter().find(|e| e.key == *key);
            assert_eq!(end(&ends[0]).map(|e| &e.value), end(&ends[1]).map(|e| &e.value));
            let middle = listing.entries.iter().map(|e| &e.key).filter(|k| matches!(k, Key::Move(_)));
            assert!(middle.eq(&expected));
            assert!(listing.entries.iter().all(|entry| entry.modified <= listing.header.revision));
            seen.extend(end(&ends[0]).map(|entry| entry.modified));
            tokio::task::yield_now().await;
        }
    };
    soon("eight states", listing).await;
    writer.stop().await;
}

pub(super) async fn keys_of_others_are_not_seen(harness: &dyn Harness) {
    let store = harness.store().await;
    let prefix = harness.prefix();
    for other in ["zebra/1", "cells/A", "hosts/A.com", "leader/x", "workflows/x"] {
        harness.put_raw(&format!("{prefix}{other}"), b"other").await;
    }
    // Our prefix is the beginning of theirs, and theirs of ours.
    harness.put_raw(&format!("{}2/cells/a", prefix.trim_end_matches('/')), b"other").await;
    harness.put_raw("/cells/a", b"other").await;
    harness.put_raw("cells/a", b"other").await;
    let at = done(&*store, put(&cell("a"), b"ours")).await;
    let listing = store.list("").await.expect("a listing");
    assert_eq!(listing.entries.len(), 1, "{:?}", listing.entries);
    assert_eq!(listing.entries[0].modified, at);
    assert_eq!(value(&*store, &cell("a")).await.expect("ours"), b"ours");
}

pub(super) async fn values_come_back_byte_for_byte(harness: &dyn Harness) {
    let store = harness.store().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [Vec::new(), every_byte.clone(), every_byte.repeat(4_000), vec![0xff; 1_000_000]] {
        let at = done(&*store, put(&key(1), &value)).await;
        let (_, found) = store.read(&[key(1)]).await.expect("a read");
        assert!(found[0].as_ref().is_some_and(|entry| entry.value == value && entry.modified == at));
        assert!(store.list("").await.expect("a listing").entries[0].value == value);
    }
}

struct Twins {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

/// Writes two keys together, again and again.
fn spawn_twins(store: Arc<dyn Store>, ends: [Key; 2]) -> Twins {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let mut n = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            let value = n.to_string().into_bytes();
            let txn = put(&ends[0], &value).op(Op::Put(ends[1].clone(), value, None));
            done(&*store, txn).await;
            tokio::task::yield_now().await;
        }
    });
    Twins { stop, task }
}

impl Twins {
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer");
    }
}
