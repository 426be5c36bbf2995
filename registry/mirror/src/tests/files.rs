//! What a router starts from when the registry is away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::Clock;
use domicile_model::{Epoch, Revision};
use domicile_store::memory::MemoryStore;
use domicile_store::{Change, Commit, Key, Store, Txn};
use tempfile::TempDir;

use super::following::FAST;
use crate::testing::*;
use crate::{LastGoodError, Mirror, Options, Source};

struct Site {
    _dir: TempDir,
    path: PathBuf,
    store: Arc<MemoryStore>,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last-good");
        Self { _dir: dir, path, store: store([small(), vec![witness("gate-0", 3)]].concat()).await }
    }

    fn try_start(&self) -> Result<Mirror, LastGoodError> {
        let options = Options {
            pace: FAST,
            last_good: Some(self.path.clone()),
            fallback_after: Duration::from_millis(50),
        };
        Mirror::start(self.store.clone(), Clock::Machine, options)
    }

    async fn start(&self) -> Mirror {
        let mirror = self.try_start().unwrap();
        soon("a table", mirror.started()).await;
        mirror
    }

    /// Stops a mirror: its thread lets go of the files a little after its last handle.
    async fn stop(&self, mirror: Mirror) {
        drop(mirror);
        let path = self.path.clone();
        until("the files to be let go", || crate::lastgood::LastGood::claim(path.clone()).is_ok()).await;
    }

    /// Writes one revision and waits until it may be acknowledged.
    async fn commit(&self, mirror: &Mirror, records: Vec<(Key, Vec<u8>)>) -> Revision {
        let revision = write(&self.store, records).await;
        soon("the disk", mirror.persisted(revision)).await;
        revision
    }

    fn journal(&self) -> PathBuf {
        PathBuf::from(format!("{}.journal", self.path.display()))
    }
}

fn snapshot_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_start_without_the_registry_has_the_table_of_before() {
    let site = Site::new().await;
    let mirror = site.start().await;
    site.commit(&mirror, vec![placement("c", 2, "us-west-2"), tenant("u", "c", "US")]).await;
    let (key, _) = tenant("t", "c", "US");
    let Commit::Done(revision) = site.store.commit(Txn::bare().delete(key)).await.unwrap() else { panic!() };
    soon("the disk", mirror.persisted(revision)).await;
    let before = shown(&mirror.table());
    let applied = mirror.table().applied();
    site.stop(mirror).await;

    site.store.outage(true);
    let mirror = site.start().await;
    assert_eq!(shown(&mirror.table()), before, "witnesses included");
    assert_eq!((mirror.freshness().source, mirror.table().applied()), (Source::LastGood, applied));
    assert!(mirror.freshness().age.unwrap() < Duration::from_secs(60));
    // The registry returns.
    site.store.outage(false);
    let revision = site.commit(&mirror, vec![placement("c", 3, "us-east-1")]).await;
    assert_eq!((mirror.freshness().source, mirror.table().applied()), (Source::Live, revision));
}

/// Two processes of one router, one after the other: never both.
#[tokio::test]
async fn a_file_that_is_let_go_of_is_anothers_until_that_gives_it_back() {
    let site = Site::new().await;
    let mirror = site.start().await;
    site.commit(&mirror, vec![placement("c", 2, "us-west-2")]).await;
    assert!(matches!(site.try_start(), Err(LastGoodError::InUse { .. })));
    mirror.let_go().await;
    let other = site.start().await;
    let revision = site.commit(&other, vec![placement("c", 3, "us-east-1")]).await;
    soon("the table goes on", mirror.wait_for(revision)).await;
    let kept = tokio::time::timeout(Duration::from_millis(100), mirror.persisted(revision)).await;
    assert!(kept.is_err(), "it is another's to say");
    assert!(matches!(mirror.take_back(), Err(LastGoodError::InUse { .. })));
    site.stop(other).await;
    mirror.take_back().unwrap();
    soon("the disk", mirror.persisted(revision)).await;
    site.commit(&mirror, vec![placement("c", 4, "us-west-2")]).await;
    let before = shown(&mirror.table());
    site.stop(mirror).await;
    site.store.outage(true);
    assert_eq!(shown(&site.start().await.table()), before);
}

/// At each acknowledged revision: what the disk holds at that very moment, read back by another start.
async fn acknowledged_but_not_on_disk(early: bool) -> usize {
    let site = Site::new().await;
    let mirror = site.start().await;
    mirror.acknowledge_early(early);
    let mut behind = 0;
    for epoch in 2..30 {
        let revision = site.commit(&mirror, vec![placement("c", epoch, "us-west-2")]).await;
        // What would be left if the machine lost its power now.
        let files = snapshot_of(site.path.parent().unwrap());
        let copy = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
        }
        let left =
            crate::lastgood::LastGood::claim(copy.path().join("last-good")).unwrap().load(NOW).unwrap();
        let found = left.and_then(|l| l.table.placement("c").map(|p| (p.placement.epoch, l.table.applied())));
        behind += usize::from(found != Some((Epoch(epoch), revision)));
    }
    behind
}

#[tokio::test]
async fn what_may_be_acknowledged_is_on_disk() {
    assert_eq!(acknowledged_but_not_on_disk(false).await, 0);
}

#[tokio::test]
async fn an_acknowledgement_before_the_disk_is_caught() {
    assert!(acknowledged_but_not_on_disk(true).await > 0, "the test above would not notice");
}

#[tokio::test]
async fn a_restore_while_the_router_was_down_lowers_no_epoch() {
    let site = Site::new().await;
    let before = site.store.snapshot();
    let mirror = site.start().await;
    site.commit(&mirror, vec![placement("c", 7, "us-west-2")]).await;
    site.stop(mirror).await;
    site.store.restore(&before);
    for _ in 0..2 {
        // Also at the second start: that the history is another one is kept on disk.
        let mirror = site.start().await;
        until("the other history", || mirror.table().diverged().is_some()).await;
        assert_eq!(mirror.table().placement("c").unwrap().placement.epoch, Epoch(7));
        assert!(mirror.table().provable("c", &region_id("us-west-2")).is_none());
        soon("the disk", mirror.persisted(mirror.table().applied())).await;
        site.stop(mirror).await;
    }
    site.store.outage(true);
    let mirror = site.start().await;
    assert!(mirror.table().diverged().is_some());
    assert_eq!(mirror.table().placement("c").unwrap().placement.epoch, Epoch(7));
    assert!(mirror.table().placement("c").unwrap().doubt.is_some());
}

#[tokio::test]
async fn what_was_refused_does_not_take_the_old_value_from_the_disk() {
    let site = Site::new().await;
    let mirror = site.start().await;
    let refused = vec![newer(Key::Placement(cell_id("c"))), newer(Key::Cell(cell_id("c")))];
    site.commit(&mirror, refused).await;
    let before = shown(&mirror.table());
    for _ in 0..2 {
        // From the journal first, then from a snapshot made of a listing that holds only the newer records.
        mirror.relist();
        let revision = site.commit(&mirror, vec![witness("gate-0", 4)]).await;
        assert!(mirror.table().applied() >= revision);
    }
    site.stop(mirror).await;
    site.store.outage(true);
    let mirror = site.start().await;
    let expect = |lines: Vec<String>| {
        lines.into_iter().filter(|l| !l.contains("Quiet") && !l.contains("quiet")).count()
    };
    assert_eq!(expect(shown(&mirror.table())), expect(before));
    assert_eq!(mirror.table().cell("c").unwrap().cell.rpo_ms, 1);
    assert!(mirror.table().placement("c").unwrap().doubt.is_some(), "in doubt still");
}

#[tokio::test]
async fn a_journal_that_a_crash_cut_short_loses_only_what_was_not_acknowledged() {
    let site = Site::new().await;
    let mirror = site.start().await;
    for epoch in 2..6 {
        site.commit(&mirror, vec![placement("c", epoch, "us-west-2")]).await;
    }
    site.stop(mirror).await;
    let whole = fs::read(site.journal()).unwrap();
    let files = crate::lastgood::LastGood::claim(site.path.clone()).unwrap();
    let mut seen = Vec::new();
    for cut in 0..=whole.len() {
        fs::write(site.journal(), &whole[..cut]).unwrap();
        let loaded = files.load(NOW).unwrap_or_else(|why| panic!("cut at {cut}: {why}")).unwrap();
        seen.push(loaded.table.placement("c").unwrap().placement.epoch.0);
    }
    assert!(seen.is_sorted() && seen[0] == 1 && *seen.last().unwrap() == 5, "{seen:?}");
}

#[tokio::test]
async fn damage_anywhere_is_refused_and_never_half_loaded() {
    let site = Site::new().await;
    let mirror = site.start().await;
    for epoch in 2..4 {
        site.commit(&mirror, vec![placement("c", epoch, "us-west-2")]).await;
    }
    let good = shown(&mirror.table());
    site.stop(mirror).await;
    let files = crate::lastgood::LastGood::claim(site.path.clone()).unwrap();
    let snapshot = fs::read(&site.path).unwrap();
    for at in 0..snapshot.len() {
        let mut bad = snapshot.clone();
        bad[at] ^= 0x11;
        fs::write(&site.path, &bad).unwrap();
        assert!(files.load(NOW).is_err(), "a changed byte at {at} must be seen");
        fs::write(&site.path, &snapshot[..at]).unwrap();
        assert!(files.load(NOW).is_err(), "a file cut at {at} must be seen");
    }
    fs::write(&site.path, &snapshot).unwrap();
    let journal = fs::read(site.journal()).unwrap();
    let last_frame = String::from_utf8_lossy(&journal).rfind("{\"cluster\"").unwrap();
    for at in 0..last_frame - 200 {
        let mut bad = journal.clone();
        bad[at] ^= 0x11;
        fs::write(site.journal(), &bad).unwrap();
        // A journal of another snapshot is not read; anything else must add up.
        match files.load(NOW) {
            Err(_) => {}
            Ok(loaded) => {
                let first_line = journal.iter().position(|b| *b == b'\n').unwrap();
                let epoch = loaded.unwrap().table.placement("c").unwrap().placement.epoch.0;
                assert!(at <= first_line && epoch == 1, "a changed byte at {at} went unseen");
            }
        }
    }
    fs::write(site.journal(), &journal).unwrap();
    assert_eq!(shown(&files.load(NOW).unwrap().unwrap().table), good);
}

#[tokio::test]
async fn a_refused_file_is_moved_aside_and_said() {
    let site = Site::new().await;
    for bad in ["domicile last-good 1\n{\"mark\"", "domicile last-good 2\nwhatever"] {
        fs::write(&site.path, bad).unwrap();
        let mirror = site.start().await;
        let why = mirror.refused_file().unwrap();
        assert!(why.contains("is refused: it is"), "{why}");
        let aside = format!("{}.refused", site.path.display());
        assert_eq!(fs::read_to_string(aside).unwrap(), bad);
        let revision = mirror.table().applied();
        soon("a new file", mirror.persisted(revision)).await;
        site.stop(mirror).await;
    }
}

#[tokio::test]
async fn a_file_of_somebody_else_is_left_alone() {
    let site = Site::new().await;
    fs::write(&site.path, "[regions]\n").unwrap();
    assert!(matches!(site.try_start().err(), Some(LastGoodError::Foreign { .. })));
    assert_eq!(fs::read_to_string(&site.path).unwrap(), "[regions]\n");
    fs::remove_file(&site.path).unwrap();
    let first = site.start().await;
    assert!(matches!(site.try_start().err(), Some(LastGoodError::InUse { .. })));
    drop(first);
}

#[tokio::test]
async fn a_disk_that_fails_is_said_nothing_is_acknowledged_and_it_mends_itself() {
    let site = Site::new().await;
    let mirror = site.start().await;
    site.commit(&mirror, vec![placement("c", 2, "us-west-2")]).await;
    // A folder where the new snapshot would be written, and a journal that fails.
    let in_the_way = PathBuf::from(format!("{}.new", site.path.display()));
    fs::create_dir(&in_the_way).unwrap();
    mirror.relist();
    until("the failure to be said", || mirror.file_error().is_some()).await;
    let revision = write(&site.store, vec![placement("c", 3, "us-east-1")]).await;
    soon("routing goes on", mirror.wait_for(revision)).await;
    let waiting = tokio::time::timeout(Duration::from_millis(200), mirror.persisted(revision)).await;
    assert!(waiting.is_err(), "what is not on disk must not be acknowledged");
    fs::remove_dir(&in_the_way).unwrap();
    soon("the disk", mirror.persisted(revision)).await;
    assert_eq!(mirror.file_error(), None);
}

#[tokio::test]
async fn a_long_journal_becomes_a_snapshot() {
    let site = Site::new().await;
    let mirror = site.start().await;
    // The journal is worth a snapshot at 4 MiB.
    let padded = |n: u64| {
        let mut record = cell("c", n);
        record.1.extend(std::iter::repeat_n(b' ', 300_000));
        record
    };
    soon("the first snapshot", mirror.persisted(mirror.table().applied())).await;
    let before = fs::read(&site.path).unwrap();
    for n in 0..20 {
        site.commit(&mirror, vec![padded(n)]).await;
    }
    assert!(fs::metadata(site.journal()).unwrap().len() < 4 << 20);
    assert_ne!(fs::read(&site.path).unwrap(), before, "the snapshot is a new one");
    let good = shown(&mirror.table());
    site.stop(mirror).await;
    site.store.outage(true);
    assert_eq!(shown(&site.start().await.table()), good);
}

#[tokio::test]
async fn old_changes_of_a_member_that_rejoined_do_not_come_back_from_the_disk() {
    let site = Site::new().await;
    let mirror = site.start().await;
    let revision = site.commit(&mirror, vec![cell("c", 9)]).await;
    let old = Change::Put(entry(cell("c", 1), revision.0 - 1));
    mirror.hear(vec![old, put(witness("gate-1", 1), revision.0 + 1)]);
    soon("the disk", mirror.persisted(revision.next())).await;
    assert_eq!(mirror.table().cell("c").unwrap().cell.rpo_ms, 9);
    drop(mirror);
    let path = site.path.clone();
    until("the files to be let go", || crate::lastgood::LastGood::claim(path.clone()).is_ok()).await;
    let files = crate::lastgood::LastGood::claim(site.path.clone()).unwrap();
    assert_eq!(files.load(NOW).unwrap().unwrap().table.cell("c").unwrap().cell.rpo_ms, 9);
}
