//! Any interleaving of faults, deaths of leaders and a lost region ends in one of three ways, and nothing that must hold
//! is broken on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use domicile_api::moves::MoveKind;
use domicile_model::clock::pause;
use proptest::prelude::*;

use super::happy::{begin, begin_approved, lead, warm_up};
use super::killed::Dying;
use super::{said, simulate};
use crate::testkit::{A, Ended, Fault, Sim, end_of, region};
use crate::{Consent, Options};

#[derive(Debug, Clone)]
struct Story {
    kind: MoveKind,
    faults: Vec<(String, Fault)>,
    /// Each leader dies at this commit, before or after it is applied.
    deaths: Vec<(i64, bool)>,
    lost: bool,
    twice: bool,
    /// Availability comes first in the cell.
    first: bool,
}

fn story() -> impl Strategy<Value = Story> {
    let effect =
        prop::sample::select(vec!["settle", "fence", "unfence", "promote", "verify", "follow", "export"]);
    let fault = prop::sample::select(vec![Fault::Refused, Fault::LostBefore, Fault::LostAfter]);
    let faults = prop::collection::vec((effect, fault, 1usize..20), 0..5);
    let deaths = prop::collection::vec((1i64..12, any::<bool>()), 0..4);
    let kind = prop::sample::select(vec![
        MoveKind::Switchover,
        MoveKind::Switchover,
        MoveKind::Failover,
        MoveKind::Failover,
        MoveKind::Close,
        MoveKind::Open,
    ]);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.3));
    (kind, faults, deaths, flags).prop_map(|(kind, faults, deaths, (lost, twice, first))| Story {
        kind,
        faults: faults.into_iter().flat_map(|(n, f, times)| vec![(n.to_owned(), f); times]).collect(),
        deaths,
        lost: lost && matches!(kind, MoveKind::Failover | MoveKind::Close),
        twice,
        first,
    })
}

async fn tell(story: &Story) -> (Vec<Ended>, Vec<String>, String) {
    let sim = Sim::start().await;
    let healthy = sim.engine(Options::default());
    let mut leadership = sim.take_over("first").await;
    warm_up(story.kind).await;
    sim.prefer(story.first, story.first).await;
    // Where availability comes first a move that can't reach the primary is not begun: it is lost right after.
    if story.lost && !story.first {
        sim.lose_a(true);
    }
    // What a lost primary would cost is not known to a leader that never sampled it: nobody could approve that again.
    let id = if story.lost {
        begin(&sim, &healthy, story.kind, &leadership).await
    } else {
        begin_approved(&sim, &healthy, story.kind, &leadership).await
    };
    if story.lost && story.first {
        sim.lose_a(true);
    }
    sim.world().faults.clone_from(&story.faults);
    sim.world().twice = story.twice;
    for (commit, after) in &story.deaths {
        let dead = Arc::new(AtomicBool::new(false));
        let left = AtomicI64::new(*commit);
        let store = Dying { inner: sim.store.clone(), left, after: *after, dead: dead.clone() };
        let engine = sim.engine_on(Arc::new(store), Options::default());
        let leading = lead(&engine, &leadership, &sim);
        for _ in 0..1_500 {
            if dead.load(Ordering::SeqCst) || healthy.view(id).await.unwrap().unwrap().status.is_final() {
                break;
            }
            pause(Duration::from_millis(10)).await;
        }
        drop(leading);
        leadership = sim.take_over("next").await;
    }
    let _leading = lead(&healthy, &leadership, &sim);
    let mut ends = Vec::new();
    let mut found = Vec::new();
    if story.lost {
        pause(Duration::from_secs(20)).await;
        if !story.first {
            sim.world().servers.get_mut(&region(A)).unwrap().writable = false;
        }
        sim.return_a();
    }
    loop {
        let (ended, view) = end_of(&healthy, id).await;
        found.extend(sim.judge(ended, &view).await);
        ends.push(ended);
        if ended != Ended::Stuck || ends.len() > 3 {
            return (ends, found, format!("{view:#?}"));
        }
        // A person mends what was wrong and lets it try again.
        sim.world().faults.clear();
        healthy.retry(id, Consent::default(), said(&leadership, &sim)).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_story_ends_well_or_waits_for_a_person(story in story()) {
        let (ends, found, view) = simulate(tell(&story));
        prop_assert_eq!(found, Vec::<String>::new(), "{}", view);
        prop_assert!(ends.last() != Some(&Ended::Stuck), "stuck for good: {:?} {}", ends, view);
    }
}
