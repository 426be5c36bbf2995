//! A forced move: what the new primary never saw is listed, and only then overwritten.

use super::{Bench, refused};

pub(super) async fn what_was_lost_is_listed_before_anything_is_rewound(bench: &Bench<'_>) {
    const LOST: usize = 4;
    let (databases, cell, a, b) = (&bench.databases, &bench.cell, &bench.a, &bench.b);
    bench.writes(a).await;
    let at = bench.see(a).await.flushed;
    bench.seen(b, "the standby has it", |seen| seen.replayed >= at).await;
    bench.harness.cut_replication().await;
    for _ in 0..LOST {
        bench.writes(a).await;
    }
    let epoch = bench.harness.close().await;
    let token = bench.token(1);
    let fenced = databases.fence(cell, a, &token, epoch, super::STOP, true).await;
    let (handover, _) = fenced.unwrap_or_else(|e| panic!("the fence: {e}"));
    // A planned promotion would lose them, and is refused; so is one that nothing stands for. A forced one carries consent.
    let bare = databases.promote(cell, b, &bench.token(2), epoch, None, None).await;
    refused("a promotion with neither handover nor consent", bare);
    let planned = databases.promote(cell, b, &bench.token(2), epoch, Some(&handover), None).await;
    refused("a planned promotion without the last writes", planned);
    let (rank, promoted) = bench.promote(3, epoch, None).await;
    assert!(promoted.fork.at <= handover.checkpoint, "the fork lies before the lost writes: {promoted:?}");
    // Numbers that the old primary gave out unseen are not given out again.
    assert!(promoted.sequences.as_ref().is_some_and(|guard| guard.values > 0), "{promoted:?}");
    bench.harness.give(b).await;
    bench.writes(b).await;

    let moving = bench.token(1).moving;
    let none = databases.losses(cell, a, moving).await;
    assert!(matches!(none, Ok(None)), "a list before the export: {none:?}");
    let early = databases.follow(cell, a, b, Some(promoted.fork), &bench.token(rank + 1)).await;
    refused("following before the losses were exported", early);
    let export = bench.token(rank + 2);
    if let Err(error) = databases.export_losses(cell, a, promoted.fork, &export).await {
        panic!("exporting: {error}");
    }
    bench
        .seen(a, "the losses are exported", |seen| {
            seen.losses.as_ref().is_some_and(|job| job.token == export && job.outcome == Some(Ok(())))
        })
        .await;
    let report = match databases.losses(cell, a, moving).await {
        Ok(Some(report)) => report,
        other => panic!("no list after the export: {other:?}"),
    };
    assert_eq!((report.moving, report.fork), (moving, promoted.fork));
    assert!(report.transactions.len() >= LOST, "{} of {LOST} are listed", report.transactions.len());
    assert!(report.transactions.iter().all(|t| t.commit >= promoted.fork.at), "{report:?}");

    if let Err(error) = databases.follow(cell, a, b, Some(promoted.fork), &bench.token(rank + 3)).await {
        panic!("following: {error}");
    }
    let seen = bench
        .seen(a, "the old primary follows", |seen| {
            seen.standby == Some(true)
                && seen.streaming == Some(true)
                && seen.timeline == Some(2)
                && seen.follow.as_ref().is_some_and(|job| job.outcome == Some(Ok(())))
        })
        .await;
    assert!(seen.fence.is_none(), "{seen:#?}");
    assert!(!bench.harness.write(a).await, "the old primary took a write");
    // The list outlives what it lists.
    assert!(matches!(databases.losses(cell, a, moving).await, Ok(Some(again)) if again == report));
}
