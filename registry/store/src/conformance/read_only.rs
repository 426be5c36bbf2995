//! The part of the suite that also holds for a store that can't be written to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{put, soon};
use crate::key::Key;
use crate::store::{Change, LeaseId, Store, StoreError};

/// How the suite gets at a store that can't be written to. Its content is up to the harness, but not empty.
#[async_trait]
pub trait ReadOnlyHarness: Send + Sync {
    /// A handle on the store.
    async fn store(&self) -> Arc<dyn Store>;

    /// A key that [`Self::change`] changes, creates or removes.
    fn changing(&self) -> Key;

    /// Changes the content from outside.
    async fn change(&self);
}

/// Runs the cases for a read-only store, each on a harness of its own.
///
/// # Panics
/// At the first case that fails.
pub async fn run_read_only<H, F, Made>(make: F)
where
    H: ReadOnlyHarness,
    F: Fn() -> Made,
    Made: Future<Output = H>,
{
    reads_and_listings_agree(&make().await).await;
    every_write_is_refused(&make().await).await;
    a_change_is_told_and_read(&make().await).await;
    a_probe_brings_a_sign_of_life(&make().await).await;
    it_never_fills_up(&make().await).await;
}

async fn reads_and_listings_agree(harness: &dyn ReadOnlyHarness) {
    let store = harness.store().await;
    let all = store.list("").await.expect("a listing");
    assert!(!all.entries.is_empty() && all.header.revision.0 > 0);
    assert!(all.entries.windows(2).all(|pair| pair[0].key.to_string() < pair[1].key.to_string()));
    assert!(all.entries.iter().all(|e| e.created <= e.modified && e.modified <= all.header.revision));
    let keys: Vec<Key> = all.entries.iter().map(|entry| entry.key.clone()).collect();
    let (header, found) = store.read(&keys).await.expect("a read");
    assert_eq!(header, all.header);
    assert_eq!(found, all.entries.iter().cloned().map(Some).collect::<Vec<_>>());
    let absent = Key::History("cell", "no-such-cell".to_owned(), 1);
    assert_eq!(store.read(&[absent]).await.expect("a read").1, [None]);
    for prefix in ["cells/", "tenants/", "w", "zebra/"] {
        let some = store.list(prefix).await.expect("a listing").entries;
        let expected: Vec<_> =
            all.entries.iter().filter(|e| e.key.to_string().starts_with(prefix)).cloned().collect();
        assert_eq!(some, expected, "{prefix:?}");
    }
}

async fn every_write_is_refused(harness: &dyn ReadOnlyHarness) {
    let store = harness.store().await;
    let before = store.list("").await.expect("a listing");
    let lease = LeaseId(1);
    let refused = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::ReadOnly(_))), "{result:?}");
    };
    refused(store.commit(put(&harness.changing(), b"x")).await.map(drop));
    refused(store.grant(Duration::from_secs(5)).await.map(drop));
    refused(store.keep_alive(lease).await);
    refused(store.revoke(lease).await);
    let after = store.list("").await.expect("a listing");
    assert_eq!((after.header, after.entries), (before.header, before.entries));
}

async fn a_change_is_told_and_read(harness: &dyn ReadOnlyHarness) {
    let store = harness.store().await;
    let before = store.list("").await.expect("a listing").header.revision;
    let mut watch = store.watch(before.next()).await.expect("a watch");
    harness.change().await;
    let told = loop {
        let batch = soon("the change", watch.next()).await.expect("a running watch");
        if let Some(change) = batch.changes.iter().find(|change| *change.key() == harness.changing()) {
            assert!(batch.changes.is_sorted_by_key(Change::revision));
            assert!(change.revision() > before && change.revision() <= batch.header.revision);
            break change.clone();
        }
    };
    let (_, found) = store.read(&[harness.changing()]).await.expect("a read");
    match told {
        Change::Put(entry) => assert_eq!(found, [Some(entry)]),
        Change::Delete(..) => assert_eq!(found, [None]),
    }
}

async fn a_probe_brings_a_sign_of_life(harness: &dyn ReadOnlyHarness) {
    let store = harness.store().await;
    let now = store.list("").await.expect("a listing").header;
    let mut watch = store.watch(now.revision.next()).await.expect("a watch");
    watch.probe().await.expect("a running watch");
    let sign = soon("a sign of life", watch.next()).await.expect("a running watch");
    assert!(sign.changes.is_empty());
    assert_eq!(sign.header, now);
}

async fn it_never_fills_up(harness: &dyn ReadOnlyHarness) {
    let store = harness.store().await;
    assert_eq!(store.room().await.expect("an answer"), None);
    let now = store.list("").await.expect("a listing").header.revision;
    store.forget_before(now).await.expect("nothing to do");
}
