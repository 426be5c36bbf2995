//! The store on real files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::{CellId, Epoch, HostPattern, Placement, Revision, TenantId, World};
use domicile_store::codec::decode;
use domicile_store::conformance::{ReadOnlyHarness, run_read_only};
use domicile_store::{Change, Key, Store, StoreError};
use tempfile::TempDir;

use crate::{FileStore, OpenError};

const REGIONS: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }
eu-west-1 = { country = "IE", ingress = ["10.2.1.10:8443"] }
"#;

fn text(primary: &str, dr: &str, more: &str) -> String {
    format!(
        "{REGIONS}\n[tenants.mercy]\nprimary = \"{primary}\"\ndr = \"{dr}\"\nhosts = [\"m.example.com\"]\n{more}"
    )
}

struct Site {
    _dir: TempDir,
    path: PathBuf,
    store: Arc<FileStore>,
}

impl Site {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("regions.toml");
        std::fs::write(&path, text("us-east-1", "us-west-2", "")).unwrap();
        let store = Arc::new(FileStore::open(&path).unwrap());
        Self { _dir: dir, path, store }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    /// The revision after the next change that is taken over.
    async fn next_revision(&self, after: Revision) -> Revision {
        let mut watch = self.store.watch(after.next()).await.unwrap();
        let batch =
            tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("a change").unwrap();
        batch.header.revision
    }

    async fn placement(&self) -> Placement {
        let key = Key::Placement(CellId::new("mercy").unwrap());
        let (_, entries) = self.store.read(&[key]).await.unwrap();
        decode(&entries[0].as_ref().unwrap().value).unwrap()
    }

    /// Waits until the store says that the file is wrong, and how.
    async fn error(&self) -> Arc<str> {
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Some(why) = self.store.last_error() {
                    return why;
                }
                domicile_model::clock::pause(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("a report")
    }
}

#[async_trait]
impl ReadOnlyHarness for Site {
    async fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn changing(&self) -> Key {
        Key::Host(HostPattern::new("new.example.com").unwrap())
    }

    async fn change(&self) {
        let more = "[tenants.new]\ncell = \"mercy\"\nhosts = [\"new.example.com\"]\n";
        self.write(&text("us-east-1", "us-west-2", more));
    }
}

#[tokio::test]
async fn it_keeps_what_read_only_stores_promise() {
    run_read_only(|| async { Site::open() }).await;
}

#[tokio::test]
async fn a_file_becomes_a_registry() {
    let site = Site::open();
    let listing = site.store.list("").await.unwrap();
    let keys: Vec<String> = listing.entries.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(
        keys,
        [
            "cells/mercy",
            "hosts/m.example.com",
            "placements/mercy",
            "regions/eu-west-1",
            "regions/us-east-1",
            "regions/us-west-2",
            "tenants/mercy",
            "world",
        ]
    );
    let placement = site.placement().await;
    assert_eq!(placement.epoch, Epoch::FIRST);
    assert_eq!(placement.holder.unwrap().as_str(), "us-east-1");
    assert_eq!(placement.standby.unwrap().as_str(), "us-west-2");
    // The same file is the same world, in another process too.
    let world = |store: Arc<FileStore>| async move {
        let (header, entries) = store.read(&[Key::World]).await.unwrap();
        (header.cluster, decode::<World>(&entries[0].as_ref().unwrap().value).unwrap().id)
    };
    let again = Arc::new(FileStore::open(&site.path).unwrap());
    assert_eq!(world(site.store.clone()).await, world(again).await);
}

#[tokio::test]
async fn every_change_of_the_regions_raises_the_epoch_and_nothing_else_does() {
    let site = Site::open();
    let mut revision = Revision(1);
    for (primary, dr, more, epoch) in [
        ("us-west-2", "us-east-1", "", 2),
        ("us-east-1", "us-west-2", "", 3),
        ("us-east-1", "us-west-2", "name = \"Mercy\"", 3),
        ("us-east-1", "eu-west-1", "", 4),
    ] {
        site.write(&text(primary, dr, more));
        revision = site.next_revision(revision).await;
        let placement = site.placement().await;
        assert_eq!((placement.epoch, placement.holder.unwrap().as_str()), (Epoch(epoch), primary));
    }
}

#[tokio::test]
async fn a_cell_that_comes_back_is_above_its_old_epoch() {
    let site = Site::open();
    site.write(REGIONS);
    let gone = site.next_revision(Revision(1)).await;
    let key = Key::Tenant(TenantId::new("mercy").unwrap());
    assert_eq!(site.store.read(&[key]).await.unwrap().1, [None]);
    site.write(&text("us-east-1", "us-west-2", ""));
    site.next_revision(gone).await;
    assert_eq!(site.placement().await.epoch, Epoch(2));
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_says_so_until_it_is_mended() {
    let site = Site::open();
    let before = site.store.list("").await.unwrap();
    site.write(&text("us-east-9", "us-west-2", "color = 1"));
    let why = site.error().await;
    assert!(
        why.contains("region `us-east-9` does not exist") && why.contains("unknown key `color`"),
        "{why}"
    );
    assert_eq!(site.store.list("").await.unwrap().entries, before.entries);
    // Mended to what was there before: no new revision, no error.
    site.write(&text("us-west-2", "us-east-1", ""));
    site.next_revision(Revision(1)).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while site.store.last_error().is_some() {
            domicile_model::clock::pause(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the report to be withdrawn");
    assert_eq!(site.placement().await.epoch, Epoch(2));
}

#[tokio::test]
async fn a_file_that_is_removed_leaves_the_registry_and_is_read_when_it_is_back() {
    let site = Site::open();
    std::fs::remove_file(&site.path).unwrap();
    assert!(site.error().await.contains("can't be read"));
    assert_eq!(site.placement().await.epoch, Epoch::FIRST);
    site.write(&text("us-west-2", "us-east-1", ""));
    site.next_revision(Revision(1)).await;
    assert_eq!(site.placement().await.epoch, Epoch(2));
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told_and_shows_one_edit_as_one_revision() {
    let site = Site::open();
    let mut watch = site.store.watch(Revision(1)).await.unwrap();
    let first = watch.next().await.unwrap();
    assert_eq!(first.changes.len(), 8);
    assert!(first.changes.iter().all(|change| change.revision() == Revision(1)));
    site.write(REGIONS);
    let second = watch.next().await.unwrap();
    assert!(second.changes.iter().all(|c| matches!(c, Change::Delete(_, Revision(2)))), "{second:?}");
    assert_eq!(second.changes.len(), 4);
    assert!(matches!(site.store.watch(Revision(0)).await, Err(StoreError::Compacted(Revision(1)))));
}

#[tokio::test]
async fn what_can_not_be_a_registry_is_refused_with_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("regions.toml");
    assert!(matches!(FileStore::open(&path), Err(OpenError::Read { .. })));
    std::fs::write(&path, b"\xff").unwrap();
    assert!(FileStore::open(&path).unwrap_err().to_string().contains("not UTF-8"));
    std::fs::write(&path, "[regions]\nX = 1").unwrap();
    assert!(matches!(FileStore::open(&path), Err(OpenError::Mistakes(_))));
}
