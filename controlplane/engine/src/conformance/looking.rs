//! Looking: a primary and a standby as they are.

use domicile_model::FenceLevel;

use super::{Bench, soon};

pub(super) async fn a_pair_looks_as_it_is(bench: &Bench<'_>) {
    bench.writes(&bench.a).await;
    let primary = bench
        .seen(&bench.a, "a primary with its standby", |seen| {
            seen.writable == Some(true) && seen.streaming == Some(true) && seen.loss_slot == Some(true)
        })
        .await;
    assert!(primary.reachable, "{primary:#?}");
    assert_eq!(
        (primary.standby, primary.timeline, primary.fork),
        (Some(false), Some(1), None),
        "{primary:#?}"
    );
    assert!(primary.flushed.is_some() && primary.fence.is_none(), "{primary:#?}");
    assert_eq!((primary.prepared_transactions, primary.can_rewind), (Some(0), Some(true)), "{primary:#?}");
    // What ends its direct writers tells so itself.
    assert!(primary.fence_level.is_some_and(FenceLevel::bounds_direct_writes), "{primary:#?}");
    assert!(primary.problems.is_empty() && primary.follow.is_none(), "{primary:#?}");
    let standby = bench
        .seen(&bench.b, "a standby that streams", |seen| {
            seen.standby == Some(true) && seen.streaming == Some(true)
        })
        .await;
    assert!(standby.reachable && standby.writable == Some(false), "{standby:#?}");
    assert!(
        standby.system_id.is_some() && standby.system_id == primary.system_id,
        "one system: {standby:#?}"
    );
    assert!(standby.replayed.is_some() && standby.not_streaming.is_none(), "{standby:#?}");
    assert!(!bench.harness.write(&bench.b).await, "a standby took a write");

    // Samples: both sides, and the standby comes to where the primary was.
    let then = soon("a sample of both sides", || async {
        let sample = bench.databases.sample(&bench.cell, &bench.a).await;
        sample.primary.zip(sample.standby)
    })
    .await;
    assert!(then.0.next_xid >= then.0.oldest_xid, "{then:?}");
    bench.writes(&bench.a).await;
    let now = soon("a sample that shows the write, and the standby past the first", || async {
        let sample = bench.databases.sample(&bench.cell, &bench.a).await;
        let (primary, standby) = sample.primary.zip(sample.standby)?;
        let wrote = primary.flushed > then.0.flushed && primary.next_xid > then.0.next_xid;
        (wrote && standby.replayed >= then.0.flushed).then_some(primary)
    })
    .await;
    assert!(now.asked >= then.0.asked);
    // Asked as if the standby held the cell, neither side is what it should be.
    let wrong = bench.databases.sample(&bench.cell, &bench.b).await;
    assert!(wrong.primary.is_none() && wrong.standby.is_none(), "{wrong:?}");
}
