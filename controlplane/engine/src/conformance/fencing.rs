//! Fence, unfence, and the rank of tokens.

use domicile_api::agent::Fork;
use domicile_model::token::Lsn;

use super::{Bench, STOP, deposed};

pub(super) async fn a_fence_stops_writes_and_a_repeat_says_the_same(bench: &Bench<'_>) {
    let (databases, cell, a) = (&bench.databases, &bench.cell, &bench.a);
    bench.writes(a).await;
    let before = bench.see(a).await;
    if let Err(error) = databases.settle(cell, a, &bench.token(1)).await {
        panic!("settling: {error}");
    }
    let epoch = bench.harness.close().await;
    let (handover, clean) = bench.fence(2, epoch).await;
    assert!(clean, "the stop of a healthy primary is clean");
    assert_eq!((&handover.cell, handover.epoch, handover.timeline), (&cell.id, epoch, 1));
    assert_eq!(Some(&handover.system_id), before.system_id.as_ref());
    assert!(Some(handover.checkpoint) >= before.flushed, "the stop comes after everything that was written");
    assert_eq!(handover.token, bench.token(2));
    assert!(!bench.harness.write(a).await, "a fenced primary took a write");
    let seen = bench.see(a).await;
    assert_eq!((seen.writable, seen.standby), (Some(false), Some(false)), "{seen:#?}");
    assert_eq!(seen.fence, Some((handover.clone(), true)), "{seen:#?}");
    assert_eq!(seen.highest, Some(bench.token(2)), "{seen:#?}");

    // The same order again, and a later one: the same stop.
    assert_eq!(bench.fence(2, epoch).await, (handover.clone(), true));
    let (again, clean) = bench.fence(3, epoch).await;
    assert!(clean);
    assert_eq!((again.checkpoint, again.timeline, again.epoch), (handover.checkpoint, 1, epoch));
    assert_eq!(again.token, bench.token(3), "the newest order stands for the stop");

    // Turned back, twice: writes go on once the registry gives the cell back.
    for attempt in [4, 5] {
        if let Err(error) = databases.unfence(cell, a, &bench.token(attempt)).await {
            panic!("unfencing: {error}");
        }
    }
    bench
        .seen(a, "a primary without a fence", |seen| seen.fence.is_none() && seen.writable == Some(true))
        .await;
    bench.harness.give(a).await;
    bench.writes(a).await;
    bench.seen(a, "a primary with its standby", |seen| seen.streaming == Some(true)).await;
}

pub(super) async fn a_lower_rank_is_refused_by_every_effect(bench: &Bench<'_>) {
    let (databases, cell, a) = (&bench.databases, &bench.cell, &bench.a);
    bench.writes(a).await;
    let epoch = bench.harness.close().await;
    let (handover, _) = bench.fence(5, epoch).await;
    let fork = Fork { parent: 1, at: Lsn(1) };
    // First a lower rank under one leader, then the highest rank of a leader that was followed by another.
    for round in 0..2 {
        let late = bench.token(if round == 0 { 4 } else { 1_000 });
        if round == 1 {
            bench.harness.another_leader().await;
            bench.fence(5, epoch).await;
        }
        deposed("settle", databases.settle(cell, a, &late).await);
        deposed("fence", databases.fence(cell, a, &late, epoch, STOP, true).await);
        deposed("unfence", databases.unfence(cell, a, &late).await);
        deposed("promote", databases.promote(cell, a, &late, epoch, None, None).await);
        deposed("follow", databases.follow(cell, a, &bench.b, Some(fork), &late).await);
        deposed("export", databases.export_losses(cell, a, fork, &late).await);
        let seen = bench.see(a).await;
        let fence = seen.fence.unwrap_or_else(|| panic!("a late order ended the fence"));
        assert_eq!(fence.0.checkpoint, handover.checkpoint);
        assert_eq!(seen.highest, Some(bench.token(5)), "a late order was remembered");
        assert!(seen.follow.is_none() && seen.losses.is_none(), "a late order began a job");
        assert!(!bench.harness.write(a).await, "a fenced primary took a write");
    }
    // The other server has its own memory: there the same order is none too late, and harmless.
    let other = bench.databases.observe(cell, &bench.b).await;
    assert_eq!((other.standby, other.timeline), (Some(true), Some(1)), "{other:#?}");
}
