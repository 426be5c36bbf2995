//! Copies of the history: what is taken once, given back, and survives.

use domicile_facts::{Batch, BatchId, ClockBound, Fact, Head, Minute, Moments, Tally, VERSION};
use domicile_model::{BootId, RegionId, Role, RouterId, TenantId};

use crate::{Cursor, History, HistoryError, Stored};

pub(super) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(super) fn batch(router: &str, number: u64, minute: u64, tenants: &[&str]) -> Batch {
    let id = BatchId { router: RouterId::new(router).unwrap(), boot: BootId::from_u128(5), number };
    let region = RegionId::new("us-east-1").unwrap();
    let clock = Some(ClockBound { ahead_ms: 3, within_ms: 2 });
    let head = Head {
        version: VERSION,
        id,
        role: Role::Edge,
        region: region.clone(),
        minute: Minute(minute),
        facts: tenants.len(),
        clock,
    };
    let fact = |name: &&str| Fact {
        tenant: Some(tenant(name)),
        region: Some(region.clone()),
        tally: Tally {
            good: number + 1,
            at: Moments { first_good_write: Some(7), ..Moments::default() },
            ..Tally::default()
        },
    };
    Batch { head, facts: tenants.iter().map(fact).collect() }
}

fn some() -> Vec<Batch> {
    let mut all = Vec::new();
    for minute in 100..110 {
        all.push(batch("edge-1", minute, minute, &["a", "b"]));
        all.push(batch("edge-2", minute, minute, if minute % 2 == 0 { &[] } else { &["b"] }));
    }
    all
}

async fn answers(history: &History) -> String {
    let (from, to) = (Minute(0), Minute(1_000));
    let mut all = Vec::new();
    for name in ["a", "b"] {
        all.push(history.rows(Some(&tenant(name)), from, to).await.unwrap());
    }
    all.push(history.rows(None, from, to).await.unwrap());
    format!("{all:?} {:?}", history.coverage(from, to).await.unwrap())
}

#[tokio::test]
async fn copies_that_took_the_same_in_another_order_answer_the_same_and_give_it_back() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, other) =
        (History::open(dirs[0].path()).await.unwrap(), History::open(dirs[1].path()).await.unwrap());
    let batches = some();
    for batch in &batches {
        assert_eq!(one.store(batch).await.unwrap(), Stored::New);
        assert_eq!(one.store(batch).await.unwrap(), Stored::Already);
    }
    // As another control plane copies it: by name, a few at a time, from the end.
    let (mut names, mut at) = (Vec::new(), Cursor::default());
    loop {
        let (some, end) = one.taken_after(at, 3).await.unwrap();
        if some.is_empty() {
            break;
        }
        names.extend(some);
        at = end;
    }
    assert_eq!(names.len(), batches.len());
    assert_eq!(other.lacks(&names).await.unwrap(), names);
    for id in names.iter().rev() {
        let batch = one.batch(id).await.unwrap().unwrap();
        assert_eq!(other.store(&batch).await.unwrap(), Stored::New);
    }
    assert!(other.lacks(&names).await.unwrap().is_empty());
    for batch in &batches {
        assert_eq!(other.batch(&batch.head.id).await.unwrap().unwrap().encode(), batch.encode());
    }
    assert_eq!(answers(&one).await, answers(&other).await);
    let rows = one.rows(Some(&tenant("b")), Minute(101), Minute(103)).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|r| (r.minute.0, r.router.as_str(), r.fact.tally.good)).collect();
    assert_eq!(rows, [(101, "edge-1", 102), (101, "edge-2", 102), (102, "edge-1", 103)]);
    let told = one.coverage(Minute(0), Minute(1_000)).await.unwrap();
    assert!(
        told.routers.values().all(|minutes| minutes.len() == 10),
        "an empty minute is told as well: {told:?}"
    );
}

#[tokio::test]
async fn what_was_told_first_stays() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).await.unwrap();
    let first = batch("edge-1", 1, 100, &["a"]);
    let mut other = first.clone();
    other.facts[0].tally.failed = 1;
    assert_eq!(history.store(&first).await.unwrap(), Stored::New);
    assert_eq!(history.store(&other).await.unwrap(), Stored::Differs);
    assert_eq!(history.batch(&first.head.id).await.unwrap().unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tell_at_once_and_each_batch_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).await.unwrap();
    let tasks = (0..8).map(|_| {
        let history = history.clone();
        tokio::spawn(async move {
            let mut new = 0;
            for batch in some() {
                new += u32::from(history.store(&batch).await.unwrap() == Stored::New);
            }
            new
        })
    });
    let mut new = 0;
    for task in tasks.collect::<Vec<_>>() {
        new += task.await.unwrap();
    }
    assert_eq!((new, history.size().await.unwrap().batches), (20, 20));
}

/// A copy of the files is what another life of the process finds after this one was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_was_acknowledged_is_there_after_a_kill_and_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).await.unwrap();
    for n in 0..30 {
        let large: Vec<String> = (0..200).map(|t| format!("t{t:03}")).collect();
        let names: Vec<&str> = large.iter().map(String::as_str).collect();
        let (done, going) =
            (batch("edge-1", 2 * n, 100 + n, &["a"]), batch("edge-1", 2 * n + 1, 100 + n, &names));
        assert_eq!(history.store(&done).await.unwrap(), Stored::New);
        let writing = {
            let (history, going) = (history.clone(), going.clone());
            tokio::spawn(async move { history.store(&going).await })
        };
        let killed = tempfile::tempdir().unwrap();
        // The log first: it may only be newer than the file that it belongs to.
        for file in ["history.sqlite", "history.sqlite-wal"] {
            std::fs::copy(dir.path().join(file), killed.path().join(file)).unwrap();
        }
        writing.await.unwrap().unwrap();
        let found = History::open(killed.path()).await.unwrap();
        assert_eq!(found.batch(&done.head.id).await.unwrap().as_ref(), Some(&done), "{n}");
        if let Some(there) = found.batch(&going.head.id).await.unwrap() {
            assert_eq!(there, going, "whole or not at all");
        }
        found.close().await;
    }
}

#[tokio::test]
async fn old_minutes_are_forgotten_with_their_facts() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).await.unwrap();
    for n in 0..500 {
        history.store(&batch("edge-1", n, 100 + n, &["a"])).await.unwrap();
    }
    assert_eq!(history.forget(Minute(550)).await.unwrap(), 450);
    assert_eq!(history.forget(Minute(550)).await.unwrap(), 0);
    let size = history.size().await.unwrap();
    assert_eq!((size.batches, size.oldest, size.newest), (50, Some(Minute(550)), Some(Minute(599))));
    assert_eq!(history.rows(Some(&tenant("a")), Minute(0), Minute(9_999)).await.unwrap().len(), 50);
    // Told again after that, it is new again, and forgotten again.
    assert_eq!(history.store(&batch("edge-1", 1, 101, &["a"])).await.unwrap(), Stored::New);
    assert_eq!(history.forget(Minute(550)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_damaged_file_and_one_of_a_newer_program_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("history.sqlite");
    std::fs::write(&file, vec![b'x'; 8192]).unwrap();
    assert!(matches!(History::open(dir.path()).await, Err(HistoryError::Damaged { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), vec![b'x'; 8192]);
    std::fs::remove_file(&file).unwrap();

    let history = History::open(dir.path()).await.unwrap();
    history.store(&batch("edge-1", 1, 100, &["a"])).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&history.writer).await.unwrap();
    history.close().await;
    let newer = History::open(dir.path()).await;
    assert!(matches!(newer, Err(HistoryError::Newer { found: 99, known: 1, .. })), "{newer:?}");

    let nowhere = History::open(&file.join("below")).await;
    assert!(matches!(nowhere, Err(HistoryError::Directory { .. })), "{nowhere:?}");
}
