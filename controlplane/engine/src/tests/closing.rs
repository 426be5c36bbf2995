//! Cells that a person takes out of service and puts back.

use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::{LogEvent, MoveKind, MoveStatus, Verdict};
use domicile_model::clock::pause;
use domicile_model::{ClosedCell, ClosedReason, EmergencyStop, MoveId, Need, Phase, Placement, RegionId};
use domicile_store::codec::decode;
use domicile_store::{Key, Leadership, Store, Txn};
use jiff::Timestamp;

use super::happy::{ask, begin, lead, warm_up};
use super::{said, said_by, simulate};
use crate::options::Sabotage;
use crate::testkit::{A, B, Ended, Fault, Sim, end_of, region};
use crate::{Engine, MoveError, Options, Service};

async fn placement(sim: &Sim) -> Placement {
    decode(&sim.get(Key::Placement(sim.cell.id.clone())).await.unwrap().value).unwrap()
}

async fn closed(sim: &Sim) -> Option<ClosedCell> {
    sim.get(Key::Closed(sim.cell.id.clone())).await.map(|e| decode(&e.value).unwrap())
}

async fn serve(
    sim: &Sim,
    engine: &Engine,
    lead: &Leadership,
    kind: MoveKind,
    at: Option<&RegionId>,
) -> Result<MoveId, MoveError> {
    let wanted = Service { kind, cell: &sim.cell.id, region: at, reason: "suspected corruption" };
    engine.serve((MoveId::new(), Vec::new()), &wanted, "an operator", lead, &sim.registry).await
}

fn stands_against(refused: Result<MoveId, MoveError>) -> String {
    let Err(MoveError::Blocked(plan)) = refused else { panic!("{refused:?}") };
    let blocking: Vec<_> = plan.checks.iter().filter(|c| c.verdict.blocks()).collect();
    let [only] = blocking.as_slice() else { panic!("{blocking:#?}") };
    format!("{}: {}", only.name, only.why)
}

async fn scene() -> (Sim, Arc<Engine>, Leadership) {
    let sim = Sim::start().await;
    let engine = sim.engine(Options::default());
    let leadership = sim.take_over("one").await;
    warm_up(MoveKind::Switchover).await;
    (sim, engine, leadership)
}

#[test]
fn a_closed_cell_serves_nobody_and_opens_where_it_was_with_what_it_had() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        let _leading = lead(&engine, &leadership, &sim);
        let id = serve(&sim, &engine, &leadership, MoveKind::Close, None).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
        let now = placement(&sim).await;
        let operator = Phase::Closed { reason: ClosedReason::Operator, for_ms: 0 };
        assert_eq!((now.epoch.0, now.holder.clone(), now.phase), (2, None, operator));
        let why = closed(&sim).await.unwrap();
        assert_eq!(
            (&*why.by, &*why.reason, &why.region),
            ("an operator", "suspected corruption", &region(A))
        );
        assert!(why.stopped.is_some() && why.epoch == now.epoch, "{why:?}");
        assert_eq!(view.facts.stopped_by.as_deref(), Some("fenced"));
        assert!(!sim.write(&region(A)), "nobody is served");
        // A second close finds it closed, and no move takes it elsewhere past the person who closed it.
        let again = stands_against(serve(&sim, &engine, &leadership, MoveKind::Close, None).await);
        assert!(again.contains("closed already"), "{again}");
        for kind in [MoveKind::Switchover, MoveKind::Failover] {
            let plan = engine.plan(&ask(&sim, kind)).await.unwrap();
            let check = plan.checks.iter().find(|c| c.name == "no-other-move").unwrap();
            assert!(check.verdict.blocks() && check.why.contains("suspected corruption"), "{check:?}");
        }
        let had = sim.world().servers[&region(A)].xid;
        let elsewhere = serve(&sim, &engine, &leadership, MoveKind::Open, Some(&region(B))).await;
        assert!(stands_against(elsewhere).contains("only a failover"));
        let id = serve(&sim, &engine, &leadership, MoveKind::Open, None).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
        let now = placement(&sim).await;
        assert_eq!((now.epoch.0, now.holder, now.standby), (3, Some(region(A)), Some(region(B))));
        assert_eq!(closed(&sim).await, None);
        assert!(sim.world().servers[&region(A)].xid >= had && sim.write(&region(A)));
        assert_eq!(sim.world().servers[&region(B)].promotions, 0);
    });
}

/// Its region is cut off and goes on writing: the close is done only once it can't.
#[test]
fn a_close_of_a_region_that_does_not_answer_waits_until_its_proofs_have_lapsed() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        let _leading = lead(&engine, &leadership, &sim);
        sim.lose_a(true);
        let begun = sim.clock.now();
        let id = serve(&sim, &engine, &leadership, MoveKind::Close, None).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(view.facts.stopped_by.as_deref(), Some("lapsed"));
        assert!(sim.clock.now().since(begun) >= sim.registry.constants.wait());
        assert_eq!(closed(&sim).await.unwrap().stopped, None);
        // What can't be seen is not opened.
        let refused = serve(&sim, &engine, &leadership, MoveKind::Open, None).await;
        let Err(MoveError::Blocked(plan)) = refused else { panic!("{refused:?}") };
        let newest = plan.checks.iter().find(|c| c.name == "newest-data").unwrap();
        assert_eq!(newest.verdict, Verdict::Unknown, "{newest:?}");
    });
}

#[test]
fn nothing_that_holds_up_moves_holds_up_a_close_and_the_stop_holds_up_an_opening() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        let _leading = lead(&engine, &leadership, &sim);
        let stop = EmergencyStop { by: "ann".into(), reason: "odd".into(), at: Timestamp::now() };
        sim.store.commit(Txn::bare().put(Key::Stop, &stop)).await.unwrap();
        let id = serve(&sim, &engine, &leadership, MoveKind::Close, None).await.unwrap();
        assert_eq!(end_of(&engine, id).await.0, Ended::Done);
        pause(Duration::from_millis(100)).await;
        let refused = stands_against(serve(&sim, &engine, &leadership, MoveKind::Open, None).await);
        assert!(refused.starts_with("emergency-stop"), "{refused}");
        sim.store.commit(Txn::bare().delete(Key::Stop)).await.unwrap();
        let id = serve(&sim, &engine, &leadership, MoveKind::Open, None).await.unwrap();
        assert_eq!(end_of(&engine, id).await.0, Ended::Done);
    });
}

#[test]
fn a_move_that_is_under_way_is_named_to_who_wants_to_close() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        let refused = stands_against(serve(&sim, &engine, &leadership, MoveKind::Close, None).await);
        assert!(refused.contains(&format!("rollback {id}")), "{refused}");
    });
}

/// The standby is being rebuilt, which may take days: nobody who must close the cell waits for it.
#[test]
fn a_cell_is_closed_while_its_standby_is_being_built() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        let _leading = lead(&engine, &leadership, &sim);
        sim.world().faults = vec![("follow-job".to_owned(), Fault::LostBefore); 40];
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        while engine.view(id).await.unwrap().unwrap().step != "re-protect" {
            pause(Duration::from_millis(20)).await;
        }
        pause(Duration::from_secs(2)).await;
        let refused = stands_against(serve(&sim, &engine, &leadership, MoveKind::Close, None).await);
        assert!(refused.contains(&format!("skip {id}")), "{refused}");
        engine.skip(id, "the cell must be closed", said(&leadership, &sim)).await.unwrap();
        let close = serve(&sim, &engine, &leadership, MoveKind::Close, None).await.unwrap();
        let (ended, view) = end_of(&engine, close).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(closed(&sim).await.unwrap().region, region(B), "closed where it was served from");
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, view.facts.skipped), (Ended::Done, vec!["re-protect".into(), "protect".into()]));
    });
}

/// A move that a person has ended goes on repeating its order for a moment, and the agent has taken the next move's
/// meanwhile: what it refuses says nothing about who leads.
#[test]
fn what_an_ended_move_still_sends_deposes_nobody() {
    simulate(async {
        let (sim, _, leadership) = scene().await;
        let nudge = Duration::from_secs(3);
        let engine = sim.engine(Options { nudge, ..Options::default() });
        warm_up(MoveKind::Switchover).await;
        let leading = lead(&engine, &leadership, &sim);
        sim.world().faults = vec![("follow-job".to_owned(), Fault::LostBefore); 40];
        let id = begin(&sim, &engine, MoveKind::Switchover, &leadership).await;
        while engine.view(id).await.unwrap().unwrap().step != "re-protect" {
            pause(Duration::from_millis(20)).await;
        }
        // Right before the next repeat.
        pause(nudge - Duration::from_millis(500)).await;
        engine.skip(id, "built anew instead", said(&leadership, &sim)).await.unwrap();
        let by = "an operator";
        let next = engine.reprotect(&sim.cell.id, Vec::new(), by, &leadership, &sim.registry).await.unwrap();
        while engine.view(next).await.unwrap().unwrap().log.iter().all(|e| e.event != LogEvent::Intent) {
            pause(Duration::from_millis(5)).await;
        }
        pause(Duration::from_secs(15)).await;
        assert!(!leading.task.is_finished(), "the leader still leads");
        let late = sim.world().effects.iter().filter(|e| e.0 == "follow" && !e.3).count();
        assert!(late > 0, "the ended move did repeat its order, in vain");
    });
}

#[test]
fn a_database_that_is_older_than_when_it_was_closed_is_not_opened() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        sim.close_by_hand().await;
        let change =
            |f: &dyn Fn(&mut crate::testkit::Server)| f(sim.world().servers.get_mut(&region(A)).unwrap());
        let (timeline, checkpoint) = {
            let a = &sim.world().servers[&region(A)];
            (a.timeline, a.checkpoint)
        };
        // An older copy was put back under it.
        change(&|a| a.checkpoint = checkpoint - 1);
        let refused = stands_against(serve(&sim, &engine, &leadership, MoveKind::Open, None).await);
        assert!(refused.contains("older than when it was closed"), "{refused}");
        change(&|a| a.checkpoint = checkpoint);
        // The other side was promoted by hand.
        sim.world().servers.get_mut(&region(B)).unwrap().timeline = timeline + 1;
        let refused = stands_against(serve(&sim, &engine, &leadership, MoveKind::Open, None).await);
        assert!(refused.contains("it is older"), "{refused}");
        sim.world().servers.get_mut(&region(B)).unwrap().timeline = timeline;
        sim.world().servers.get_mut(&region(B)).unwrap().writable = true;
        let refused = stands_against(serve(&sim, &engine, &leadership, MoveKind::Open, None).await);
        assert!(refused.contains("takes writes"), "{refused}");
        sim.world().servers.get_mut(&region(B)).unwrap().writable = false;
        // A restore to a point in time begins a timeline: it opens, and the other side follows it no more.
        change(&|a| (a.timeline, a.checkpoint) = (timeline + 1, 10));
        let _leading = lead(&engine, &leadership, &sim);
        let id = serve(&sim, &engine, &leadership, MoveKind::Open, None).await.unwrap();
        assert_eq!(end_of(&engine, id).await.0, Ended::Done);
        assert_eq!(placement(&sim).await.standby, None);
    });
}

/// B was promoted by hand while the cell was closed: what A would serve is old. Gives what must not have happened.
async fn opened_beside_a_new_primary(sabotage: Sabotage) -> Vec<String> {
    let (sim, _, leadership) = scene().await;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    sim.close_by_hand().await;
    {
        let mut world = sim.world();
        let b = world.servers.get_mut(&region(B)).unwrap();
        (b.timeline, b.writable, b.standby) = (b.timeline + 1, true, false);
    }
    let _leading = lead(&engine, &leadership, &sim);
    if let Ok(id) = serve(&sim, &engine, &leadership, MoveKind::Open, None).await {
        end_of(&engine, id).await;
    }
    sim.world().violations.clone()
}

/// The switch: an opening that asks nobody about the data.
#[test]
fn without_asking_for_the_newest_data_two_primaries_are_seen() {
    assert_eq!(simulate(opened_beside_a_new_primary(Sabotage::default())), Vec::<String>::new());
    let broken = Sabotage { open_anyway: true, ..Sabotage::default() };
    let found = simulate(opened_beside_a_new_primary(broken));
    assert!(found.iter().any(|f| f.contains("beside a new one")), "the proof does not notice: {found:?}");
}

/// How many writes a cut-off region acknowledges after its cell was reported as closed.
async fn written_after_the_close(sabotage: Sabotage) -> u64 {
    let (sim, _, leadership) = scene().await;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    let _leading = lead(&engine, &leadership, &sim);
    sim.lose_a(true);
    let id = serve(&sim, &engine, &leadership, MoveKind::Close, None).await.unwrap();
    assert_eq!(end_of(&engine, id).await.0, Ended::Done);
    let done = sim.world().servers[&region(A)].xid;
    pause(Duration::from_secs(15)).await;
    sim.world().servers[&region(A)].xid - done
}

/// The switch: a close that does not wait for the proofs to lapse.
#[test]
fn without_waiting_a_closed_cell_is_seen_to_acknowledge_writes() {
    assert_eq!(simulate(written_after_the_close(Sabotage::default())), 0);
    let broken = Sabotage { skip_wait: true, ..Sabotage::default() };
    assert!(simulate(written_after_the_close(broken)) > 100, "the proof does not notice");
}

/// The registry was restored and does not know who held the cell: both databases must say who is ahead.
#[test]
fn without_the_registrys_word_both_databases_must_be_seen() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        sim.close_by_hand().await;
        sim.store.commit(Txn::bare().delete(Key::Closed(sim.cell.id.clone()))).await.unwrap();
        let nowhere = serve(&sim, &engine, &leadership, MoveKind::Open, None).await;
        assert!(matches!(&nowhere, Err(MoveError::NotNow(why)) if why.contains("--region")), "{nowhere:?}");
        let strange = region("eu-west-1");
        let nowhere = serve(&sim, &engine, &leadership, MoveKind::Open, Some(&strange)).await;
        assert!(matches!(nowhere, Err(MoveError::NotNow(_))), "{nowhere:?}");
        sim.world().servers.get_mut(&region(B)).unwrap().reachable = false;
        let refused =
            stands_against(serve(&sim, &engine, &leadership, MoveKind::Open, Some(&region(A))).await);
        assert!(refused.contains("both databases must be seen"), "{refused}");
        sim.world().servers.get_mut(&region(B)).unwrap().reachable = true;
        let _leading = lead(&engine, &leadership, &sim);
        let id = serve(&sim, &engine, &leadership, MoveKind::Open, Some(&region(A))).await.unwrap();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
    });
}

#[test]
fn a_cell_that_can_not_be_opened_stays_closed() {
    for fault in [Fault::Refused, Fault::LostBefore, Fault::LostAfter] {
        simulate(async {
            let (sim, engine, leadership) = scene().await;
            let _leading = lead(&engine, &leadership, &sim);
            let id = begin(&sim, &engine, MoveKind::Open, &leadership).await;
            sim.world().faults = vec![("unfence".to_owned(), fault); 40];
            let (ended, view) = end_of(&engine, id).await;
            assert_eq!((ended, sim.judge(ended, &view).await), (Ended::RolledBack, Vec::new()), "{view:#?}");
            assert!(sim.world().servers[&region(A)].fence.is_some(), "stopped again");
        });
    }
}

#[test]
fn a_close_is_turned_back_only_where_opening_needs_nobody() {
    for need in [Need::None, Need::One] {
        simulate(async {
            let (sim, engine, leadership) = scene().await;
            let _leading = lead(&engine, &leadership, &sim);
            sim.world().faults = vec![("fence".to_owned(), Fault::LostBefore); 40];
            let id = begin(&sim, &engine, MoveKind::Close, &leadership).await;
            while engine.view(id).await.unwrap().unwrap().step != "fence" {
                pause(Duration::from_millis(5)).await;
            }
            sim.ask_approval(need).await;
            let said = engine.rollback(id, said(&leadership, &sim)).await;
            if need == Need::One {
                assert!(
                    matches!(&said, Err(MoveError::NotNow(why)) if why.contains("takes approval")),
                    "{said:?}"
                );
                return;
            }
            said.unwrap();
            let (ended, view) = end_of(&engine, id).await;
            assert_eq!((ended, sim.judge(ended, &view).await), (Ended::RolledBack, Vec::new()), "{view:#?}");
            assert_eq!(closed(&sim).await, None);
        });
    }
}

#[test]
fn closing_and_opening_wait_for_the_people_that_the_policy_asks_for() {
    simulate(async {
        let (sim, engine, leadership) = scene().await;
        sim.ask_approval(Need::One).await;
        let _leading = lead(&engine, &leadership, &sim);
        for kind in [MoveKind::Close, MoveKind::Open] {
            let id = serve(&sim, &engine, &leadership, kind, None).await.unwrap();
            pause(Duration::from_secs(5)).await;
            let view = engine.view(id).await.unwrap().unwrap();
            assert_eq!(view.status, MoveStatus::Running);
            let hash = view.waits_for().unwrap().hash.clone();
            assert_eq!(
                placement(&sim).await.holder.is_some(),
                kind == MoveKind::Close,
                "nothing was touched"
            );
            engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)).await.unwrap();
            let (ended, view) = end_of(&engine, id).await;
            assert_eq!((ended, sim.judge(ended, &view).await), (Ended::Done, Vec::new()), "{view:#?}");
        }
    });
}
