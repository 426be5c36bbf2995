//! What stops direct writers of the old primary decides what a forced move can promise.

use std::time::Duration;

use domicile_api::moves::{MoveKind, MoveStatus, MoveView, Verdict};
use domicile_model::FenceLevel;
use domicile_model::clock::pause;

use super::happy::{ask, begin, lead, warm_up};
use super::simulate;
use crate::options::Sabotage;
use crate::testkit::{A, B, Ended, Sim, end_of, region};
use crate::{MoveError, Options};

async fn of_level(level: Option<FenceLevel>) -> Sim {
    let sim = Sim::start().await;
    sim.world().planned = false;
    sim.world().servers.get_mut(&region(A)).unwrap().fence_level = level;
    sim
}

/// A forced move away from a primary at gate-only that is cut off and written to directly until a person comes. Returns
/// what was consented to before it began, what was written there that nobody else has, and the move.
async fn written_to_directly(sabotage: Sabotage, unknown: bool) -> Result<(u64, u64, MoveView), MoveError> {
    let sim = of_level(Some(FenceLevel::GateOnly)).await;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("one").await;
    let _leading = lead(&engine, &leadership, &sim);
    warm_up(MoveKind::Failover).await;
    sim.lose_a(true);
    pause(Duration::from_secs(1)).await;
    let mut request = ask(&sim, MoveKind::Failover);
    let preview = engine.plan(&request).await?.preview.unwrap();
    assert!(preview.sampled_transactions.is_some(), "the first part is known in any case: {preview:?}");
    let consented = preview.total().unwrap_or(10_000_000);
    (request.accept_loss, request.accept_unknown) = (Some(consented), unknown);
    let id = engine.request(&request, "an operator", &leadership, &sim.registry).await?;
    while engine.view(id).await?.is_none_or(|v| v.step != "return" && v.status == MoveStatus::Running) {
        pause(Duration::from_millis(50)).await;
    }
    pause(Duration::from_secs(60)).await;
    let only_there = {
        let world = sim.world();
        let fork = world.servers[&region(B)].fork.map_or(u64::MAX, |f| f.at.0);
        world.servers[&region(A)].flushed.saturating_sub(fork) / 100
    };
    Ok((consented, only_there, engine.view(id).await?.unwrap()))
}

#[test]
fn at_gate_only_elapsed_time_bounds_nothing_and_the_record_says_so() {
    simulate(async {
        let refused = written_to_directly(Sabotage::default(), false).await.unwrap_err();
        assert!(matches!(refused, MoveError::Consent { .. }), "{refused}");
        assert!(refused.to_string().contains("--accept-unknown"), "{refused}");
        assert!(refused.to_string().contains("gate-only"), "{refused}");
    });
    simulate(async {
        let (_, _, view) = written_to_directly(Sabotage::default(), true).await.unwrap();
        assert_eq!(view.step, "return", "{view:#?}");
        let facts = &view.facts;
        assert_eq!(facts.fence_level, Some(FenceLevel::GateOnly));
        assert_eq!(facts.stopped_by.as_deref(), Some("lapsed"));
        for preview in [facts.preview.as_ref(), facts.preview_at_promotion.as_ref()] {
            let preview = preview.unwrap();
            assert!(preview.sampled_transactions.is_some() && preview.until_stopped_transactions.is_none());
        }
        assert!(
            view.log.iter().any(|e| e.step == "fence" && e.note.contains("unbounded loss")),
            "{:#?}",
            view.log
        );
    });
    // The counterpart: whoever takes elapsed time for the end of all writes promises what is not so.
    simulate(async {
        let broken = Sabotage { any_fence_level: true, ..Sabotage::default() };
        let (consented, lost, view) = written_to_directly(broken, false).await.unwrap();
        assert!(view.step == "return" && lost > consented, "{lost} of {consented}: {view:#?}");
    });
}

#[test]
fn its_own_word_bounds_what_a_primary_took_whatever_its_level() {
    simulate(async {
        let sim = of_level(Some(FenceLevel::GateOnly)).await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        let mut request = ask(&sim, MoveKind::Failover);
        request.accept_unknown = true;
        let id = engine.request(&request, "an operator", &leadership, &sim.registry).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
        assert_eq!((ended, view.facts.stopped_by.as_deref()), (Ended::Done, Some("fenced")));
        assert!(view.facts.preview_at_promotion.unwrap().total().is_some());
    });
}

#[test]
fn the_level_stands_in_the_plan_and_blocks_only_a_planned_move_that_knows_none() {
    for (level, planned, forced) in [
        (Some(FenceLevel::Watchdog), Verdict::Passed, Verdict::Passed),
        (Some(FenceLevel::Supervisor), Verdict::Passed, Verdict::Passed),
        (Some(FenceLevel::DeadMan), Verdict::Passed, Verdict::Passed),
        (Some(FenceLevel::GateOnly), Verdict::Noted, Verdict::Noted),
        (None, Verdict::Unknown, Verdict::Noted),
    ] {
        simulate(async {
            let sim = of_level(level).await;
            let engine = sim.engine(Options::default());
            warm_up(MoveKind::Failover).await;
            for (kind, verdict) in [(MoveKind::Switchover, planned), (MoveKind::Failover, forced)] {
                let plan = engine.plan(&ask(&sim, kind)).await.unwrap();
                let check = plan.checks.iter().find(|c| c.name == "fence-level").unwrap();
                assert_eq!(check.verdict, verdict, "{level:?} {kind:?}: {}", check.why);
                let bounded = level.is_some_and(FenceLevel::bounds_direct_writes);
                if let Some(preview) = plan.preview {
                    assert_eq!(
                        preview.until_stopped_transactions.is_some(),
                        bounded,
                        "{level:?}: {preview:?}"
                    );
                }
            }
        });
    }
}

#[test]
fn what_a_primary_told_counts_when_it_is_gone_also_for_the_next_leader() {
    simulate(async {
        let sim = of_level(Some(FenceLevel::Supervisor)).await;
        let first = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let leading = lead(&first, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        sim.lose_a(false);
        pause(Duration::from_secs(20)).await;
        let id = begin(&sim, &first, MoveKind::Failover, &leadership).await;
        pause(Duration::from_secs(1)).await;
        drop(leading);
        // Another control plane, which sampled the primary and never asked its agent.
        let next = sim.engine(Options::default());
        let leadership = sim.take_over("two").await;
        let _leading = lead(&next, &leadership, &sim);
        while next.view(id).await.unwrap().unwrap().facts.stopped_by.is_none() {
            pause(Duration::from_millis(50)).await;
        }
        let view = next.view(id).await.unwrap().unwrap();
        assert_eq!(view.facts.fence_level, Some(FenceLevel::Supervisor), "{view:#?}");
        assert_eq!(next.sampler().fence_level(&sim.cell.id, &region(A)), None, "it never asked");
    });
}
