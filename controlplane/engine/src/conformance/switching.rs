//! A planned move: catching up, promoting once, following.

use domicile_model::HandoverToken;
use domicile_model::token::Lsn;

use super::{Bench, refused, soon};

pub(super) async fn a_standby_is_promoted_once_and_the_old_primary_follows(bench: &Bench<'_>) {
    let (databases, cell, a, b) = (&bench.databases, &bench.cell, &bench.a, &bench.b);
    for _ in 0..3 {
        bench.writes(a).await;
    }
    refused("verifying a standby", databases.verify(cell, b, &bench.token(1)).await);
    let epoch = bench.harness.close().await;
    let (handover, clean) = bench.fence(2, epoch).await;
    assert!(clean);
    let caught_up = |replayed: Option<Lsn>| replayed.is_some_and(|at| at > handover.checkpoint);
    bench.seen(b, "the standby has replayed past the handover", |seen| caught_up(seen.replayed)).await;
    let (rank, promoted) = bench.promote(3, epoch, Some(&handover)).await;
    assert_eq!((promoted.timeline, promoted.fork.parent), (2, 1));
    assert_eq!(promoted.system_id, handover.system_id);
    assert!(promoted.fork.at > handover.checkpoint, "the fork lies behind everything of the old primary");
    // The same order, and a later one: the same promotion.
    for attempt in [rank, rank + 1] {
        let (_, again) = bench.promote(attempt, epoch, Some(&handover)).await;
        assert_eq!(again, promoted, "promoted twice");
    }
    let seen = bench.seen(b, "a primary", |seen| seen.writable == Some(true)).await;
    assert_eq!((seen.standby, seen.timeline), (Some(false), Some(2)), "{seen:#?}");
    for attempt in [rank + 2, rank + 2] {
        if let Err(error) = databases.verify(cell, b, &bench.token(attempt)).await {
            panic!("verifying the new primary: {error}");
        }
    }
    refused("verifying a fenced server", databases.verify(cell, a, &bench.token(rank + 2)).await);
    bench.harness.give(b).await;
    bench.writes(b).await;

    let order = bench.token(rank + 3);
    if let Err(error) = databases.follow(cell, a, b, Some(promoted.fork), &order).await {
        panic!("following: {error}");
    }
    let seen = bench
        .seen(a, "the old primary follows", |seen| {
            seen.standby == Some(true)
                && seen.streaming == Some(true)
                && seen.timeline == Some(2)
                && seen.follow.as_ref().is_some_and(|job| job.outcome.is_some())
        })
        .await;
    let job = seen.follow.unwrap_or_else(|| panic!("no job"));
    assert_eq!((job.how.as_str(), job.outcome, job.token), ("attach", Some(Ok(())), order.clone()));
    assert!(seen.fence.is_none() && seen.writable == Some(false));
    assert!(!bench.harness.write(a).await, "the old primary took a write");
    // Ordered again it is what it is.
    if let Err(error) = databases.follow(cell, a, b, Some(promoted.fork), &order).await {
        panic!("following again: {error}");
    }
    bench
        .seen(a, "the old primary follows still", |seen| {
            seen.streaming == Some(true)
                && seen.follow.as_ref().is_some_and(|job| job.outcome == Some(Ok(())))
        })
        .await;
    bench.writes(b).await;
    let at = bench.see(b).await.flushed;
    bench.seen(a, "what is written there arrives here", |seen| seen.replayed >= at).await;
}

pub(super) async fn nothing_is_promoted_too_early(bench: &Bench<'_>) {
    let (databases, cell, a, b) = (&bench.databases, &bench.cell, &bench.a, &bench.b);
    bench.writes(a).await;
    // Before the registry closed the cell.
    let early = databases.promote(cell, b, &bench.token(1), domicile_model::Epoch(2), None, None).await;
    refused("a promotion beside a holder", early);
    let epoch = bench.harness.close().await;
    let (handover, _) = bench.fence(2, epoch).await;
    // On a handover that was changed: it lies ahead of all that was written.
    let ahead = HandoverToken { checkpoint: Lsn(handover.checkpoint.0 + (1 << 40)), ..handover.clone() };
    let early = databases.promote(cell, b, &bench.token(3), epoch, Some(&ahead), None).await;
    let why = refused("a promotion on a changed handover", early);
    assert!(!why.is_empty());
    // A fenced primary is promoted by nobody.
    let fenced = databases.promote(cell, a, &bench.token(3), epoch, Some(&handover), None).await;
    refused("promoting the fenced one", fenced);
    let seen = bench.see(b).await;
    assert_eq!((seen.standby, seen.timeline, seen.writable), (Some(true), Some(1), Some(false)), "{seen:#?}");
    // Asked beforehand, the standby's side says that it would take the real one, and stays what it is.
    if let Err(error) = databases.accepts(cell, b, &bench.token(4), epoch, &handover).await {
        panic!("asking whether the handover would do: {error}");
    }
    assert_eq!(bench.see(b).await.standby, Some(true));
    // Nothing of that is in the way of the real one.
    let (_, promoted) = bench.promote(4, epoch, Some(&handover)).await;
    assert_eq!(promoted.timeline, 2);
}

/// Nobody comes to give the cell away: what was promoted does not stay open for ever, and is no less promoted.
pub(super) async fn a_promoted_server_that_was_shut_opens_on_the_same_order_again(bench: &Bench<'_>) {
    let (databases, cell, b) = (&bench.databases, &bench.cell, &bench.b);
    bench.writes(&bench.a).await;
    let epoch = bench.harness.close().await;
    let (handover, _) = bench.fence(1, epoch).await;
    let (rank, promoted) = bench.promote(2, epoch, Some(&handover)).await;
    soon("the promoted server is shut", || async {
        databases.verify(cell, b, &bench.token(rank)).await.is_err().then_some(())
    })
    .await;
    let (rank, again) = bench.promote(rank + 1, epoch, Some(&handover)).await;
    assert_eq!(again, promoted, "promoted twice");
    if let Err(error) = databases.verify(cell, b, &bench.token(rank)).await {
        panic!("verifying the new primary: {error}");
    }
}
