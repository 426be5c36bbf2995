//! A handover that the new primary's side does not believe shows before the point of no return; and no planned move starts
//! from an agent whose word would not be believed.

use domicile_api::moves::{MoveKind, Verdict};
use domicile_model::{AgentKey, SigningKey};
use domicile_store::{Key, Store, Txn};

use super::happy::{ask, begin, lead, warm_up};
use super::simulate;
use crate::options::Sabotage;
use crate::testkit::{A, Ended, Sim, end_of, region};
use crate::{MoveError, Options};

fn disbelieved(kind: MoveKind, sabotage: Sabotage) -> (Ended, Vec<String>, bool) {
    simulate(async move {
        let sim = Sim::start().await;
        let options = Options { sabotage, ..Options::default() };
        let engine = sim.engine(options);
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(kind).await;
        sim.world().disbelieves = kind == MoveKind::Switchover;
        let id = begin(&sim, &engine, kind, &leadership).await;
        let (ended, view) = end_of(&engine, id).await;
        let intended = view.log.iter().any(|entry| entry.step == "promote");
        (ended, sim.judge(ended, &view).await, intended)
    })
}

#[test]
fn a_handover_that_is_not_believed_turns_the_move_back_before_the_intent_to_promote() {
    let (ended, found, intended) = disbelieved(MoveKind::Switchover, Sabotage::default());
    assert_eq!((ended, intended), (Ended::RolledBack, false));
    assert!(found.is_empty(), "{found:#?}");
}

/// The switch: nobody asks beforehand, and the move is stuck where nothing turns back.
#[test]
fn without_asking_beforehand_the_move_is_stuck_past_the_point_of_no_return() {
    let sabotage = Sabotage { skip_acceptance: true, ..Sabotage::default() };
    let (ended, _, intended) = disbelieved(MoveKind::Switchover, sabotage);
    assert_eq!((ended, intended), (Ended::Stuck, true));
}

#[test]
fn no_planned_move_starts_from_an_agent_whose_key_is_not_the_trusted_one() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Switchover).await;
        let key = Key::Agent(sim.cell.id.clone(), region(A));
        let other = AgentKey {
            cell: sim.cell.id.clone(),
            region: region(A),
            key: SigningKey { id: "another".into(), public: "key".into() },
            by: None,
        };
        let verdict = async |request: &_| {
            let plan = engine.plan(request).await.unwrap();
            plan.checks.iter().find(|c| c.name == "handover-key").map(|c| (c.verdict, c.why.clone()))
        };
        let (planned, forced) = (ask(&sim, MoveKind::Switchover), ask(&sim, MoveKind::Failover));
        assert_eq!(verdict(&planned).await.unwrap().0, Verdict::Passed);

        sim.store.commit(Txn::bare().put(key.clone(), &other)).await.unwrap();
        let (found, why) = verdict(&planned).await.unwrap();
        assert_eq!(found, Verdict::Failed);
        assert!(why.contains("trust-agent mercy-health --region us-east-1 --key id of us-east-1"), "{why}");
        let blocked = engine.request(&planned, "ann", &leadership, &sim.registry).await;
        assert!(matches!(blocked, Err(MoveError::Blocked(_))), "{blocked:?}");

        sim.store.commit(Txn::bare().delete(key)).await.unwrap();
        assert_eq!(verdict(&planned).await.unwrap().0, Verdict::Unknown);
        // A forced move rests on consent, not on the word of a primary that may be lost.
        assert_eq!(verdict(&forced).await, None);
    });
}
