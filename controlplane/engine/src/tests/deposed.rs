//! Two leaders: the old one is paused before or after an effect and wakes up when another one has gone on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domicile_api::moves::MoveKind;
use domicile_model::clock::pause;
use tokio::sync::Notify;

use super::happy::{begin_approved, lead, warm_up};
use super::simulate;
use crate::engine::LeadEnd;
use crate::failpoint::{Failpoints, Point};
use crate::options::Sabotage;
use crate::testkit::{Ended, Sim, end_of};
use crate::{Options, definitions};

/// Pauses at one point until woken.
struct Asleep {
    step: &'static str,
    point: Point,
    reached: AtomicBool,
    wake: Notify,
}

#[async_trait]
impl Failpoints for Asleep {
    async fn reach(&self, step: &str, point: Point) {
        if step == self.step && point == self.point && !self.reached.swap(true, Ordering::SeqCst) {
            self.wake.notified().await;
        }
    }
}

struct Result {
    found: Vec<String>,
    ended: Ended,
    /// The late effects that were let through although another leader had acted there.
    late: usize,
    old: LeadEnd,
}

/// The old leader sleeps at this point; the new one ends the move; the old one wakes. None: never came there.
fn sleeper(
    kind: MoveKind,
    step: &'static str,
    point: Point,
    ignore_tokens: bool,
    sabotage: Sabotage,
) -> Option<Result> {
    simulate(sleeper_in(kind, step, point, ignore_tokens, sabotage))
}

async fn sleeper_in(
    kind: MoveKind,
    step: &'static str,
    point: Point,
    ignore_tokens: bool,
    sabotage: Sabotage,
) -> Option<Result> {
    let sim = Sim::start().await;
    sim.world().ignore_tokens = ignore_tokens;
    let asleep = Arc::new(Asleep { step, point, reached: AtomicBool::new(false), wake: Notify::new() });
    let old = sim.engine(Options { failpoints: asleep.clone(), sabotage, ..Options::default() });
    let new = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("old").await;
    warm_up(kind).await;
    let id = begin_approved(&sim, &new, kind, &leadership).await;
    let mut old_leads = lead(&old, &leadership, &sim);
    for _ in 0..500 {
        if asleep.reached.load(Ordering::SeqCst) {
            break;
        }
        pause(Duration::from_millis(10)).await;
    }
    if !asleep.reached.load(Ordering::SeqCst) {
        return None;
    }
    let leadership = sim.take_over("new").await;
    let _new_leads = lead(&new, &leadership, &sim);
    let (ended, view) = end_of(&new, id).await;
    let before = sim.world().effects.len();
    asleep.wake.notify_one();
    // One that only looks, and finds the move ended, has nothing left to be refused: it stays idle until it is told.
    let old = match tokio::time::timeout(Duration::from_secs(60), &mut old_leads.task).await {
        Ok(ended) => ended.unwrap(),
        Err(_) => {
            old_leads.cancel.cancel();
            (&mut old_leads.task).await.unwrap()
        }
    };
    let late = sim.world().effects[before..].iter().filter(|e| e.3).count();
    let found = sim.judge(ended, &view).await;
    Some(Result { found, ended, late, old })
}

#[test]
fn a_leader_that_wakes_late_does_nothing_and_ends() {
    for kind in definitions::ALL {
        for step in definitions::steps(kind) {
            for point in [Point::BeforeEffect, Point::AfterEffect] {
                let Some(result) = sleeper(kind, step, point, false, Sabotage::default()) else {
                    continue;
                };
                assert_eq!(result.found, Vec::<String>::new(), "{kind:?} {step} {point:?}");
                assert_ne!(result.ended, Ended::Stuck, "{kind:?} {step} {point:?}");
                let idle = *step == "close" && result.old == LeadEnd::Cancelled;
                let deposed = matches!(result.old, LeadEnd::Deposed(_));
                assert!(deposed || idle, "{kind:?} {step} {point:?}: {:?}", result.old);
                // Harmless ones only: a server that no new leader had to touch again takes a late repeat.
                let harmless = ["settle", "verify", "re-protect", "promote", "losses"].contains(step);
                assert!(
                    result.late == 0 || harmless,
                    "{kind:?} {step} {point:?}: a late effect went through"
                );
            }
        }
    }
}

/// The switch: agents that ignore tokens. A late fence then stops what has become the standby.
#[test]
fn without_tokens_a_late_fence_is_seen_to_do_harm() {
    let result =
        sleeper(MoveKind::Switchover, "fence", Point::BeforeEffect, true, Sabotage::default()).unwrap();
    assert!(!result.found.is_empty(), "the proof does not notice a late fence");
}

/// Another leader was elected and has not acted yet: the old one must not write one more edge.
fn edges_after_deposition(sabotage: Sabotage) -> usize {
    simulate(edges_after_deposition_in(sabotage))
}

async fn edges_after_deposition_in(sabotage: Sabotage) -> usize {
    let sim = Sim::start().await;
    let asleep = Arc::new(Asleep {
        step: "settle",
        point: Point::AfterEffect,
        reached: AtomicBool::new(false),
        wake: Notify::new(),
    });
    let engine = sim.engine(Options { failpoints: asleep.clone(), sabotage, ..Options::default() });
    let leadership = sim.take_over("old").await;
    warm_up(MoveKind::Switchover).await;
    let id = begin_approved(&sim, &engine, MoveKind::Switchover, &leadership).await;
    let _leading = lead(&engine, &leadership, &sim);
    while !asleep.reached.load(Ordering::SeqCst) {
        pause(Duration::from_millis(10)).await;
    }
    sim.take_over("new").await;
    let before = engine.view(id).await.unwrap().unwrap().log.len();
    asleep.wake.notify_one();
    pause(Duration::from_secs(2)).await;
    engine.view(id).await.unwrap().unwrap().log.len() - before
}

#[test]
fn a_deposed_leader_writes_no_edge() {
    assert_eq!(edges_after_deposition(Sabotage::default()), 0);
    let broken = Sabotage { unfenced: true, ..Sabotage::default() };
    assert!(edges_after_deposition(broken) > 0, "the proof does not notice unfenced commits");
}

/// The rank under which the old primary was last fenced, and the one under which the standby was promoted.
fn ranks(sabotage: Sabotage) -> (i64, i64) {
    simulate(ranks_in(sabotage))
}

async fn ranks_in(sabotage: Sabotage) -> (i64, i64) {
    let sim = Sim::start().await;
    let asleep = Arc::new(Asleep {
        step: "promote",
        point: Point::BeforeEffect,
        reached: AtomicBool::new(false),
        wake: Notify::new(),
    });
    let old = sim.engine(Options { failpoints: asleep.clone(), ..Options::default() });
    let new = sim.engine(Options { sabotage, ..Options::default() });
    let leadership = sim.take_over("old").await;
    warm_up(MoveKind::Switchover).await;
    let id = begin_approved(&sim, &new, MoveKind::Switchover, &leadership).await;
    let old_leads = lead(&old, &leadership, &sim);
    while !asleep.reached.load(Ordering::SeqCst) {
        pause(Duration::from_millis(10)).await;
    }
    drop(old_leads);
    let leadership = sim.take_over("new").await;
    let _leading = lead(&new, &leadership, &sim);
    assert_eq!(end_of(&new, id).await.0, Ended::Done);
    let world = sim.world();
    let leader = |name: &str| world.effects.iter().rfind(|e| e.0 == name).unwrap().2.0.0.0;
    (leader("fence"), leader("promote"))
}

#[test]
fn a_new_leader_fences_again_before_it_promotes() {
    let (fence, promote) = ranks(Sabotage::default());
    assert_eq!(fence, promote);
    let (fence, promote) = ranks(Sabotage { trust_old_fence: true, ..Sabotage::default() });
    assert!(fence < promote, "the proof does not notice a promotion on another leader's fence");
}
