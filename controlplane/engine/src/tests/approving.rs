//! Moves that wait for people: nothing is touched meanwhile, only the right people count, and only for what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use domicile_api::moves::{LogEvent, MoveKind, MoveStatus, MoveView};
use domicile_model::clock::pause;
use domicile_model::{EmergencyStop, Freeze, FreezeId, MoveId, Need};
use domicile_store::{Key, Leadership, Store, Txn};
use jiff::{SignedDuration, Timestamp};

use super::happy::{begin, begin_approved, lead, warm_up};
use super::killed::Dying;
use super::{said, said_by, simulate};
use crate::options::Sabotage;
use crate::testkit::{Ended, Sim, end_of};
use crate::{Engine, MoveError, Options};

/// A simulation whose policy asks for this many people, and a move in it that waits for them.
async fn waiting(need: Need, kind: MoveKind) -> (Sim, Arc<Engine>, Leadership, MoveId) {
    let sim = Sim::start().await;
    sim.ask_approval(need).await;
    let engine = sim.engine(Options::default());
    let leadership = sim.take_over("one").await;
    warm_up(kind).await;
    let id = begin(&sim, &engine, kind, &leadership).await;
    (sim, engine, leadership, id)
}

async fn view(engine: &Engine, id: MoveId) -> MoveView {
    engine.view(id).await.unwrap().unwrap()
}

async fn hash(engine: &Engine, id: MoveId) -> String {
    view(engine, id).await.waits_for().unwrap().hash.clone()
}

async fn placed_at(sim: &Sim) -> domicile_model::Revision {
    sim.get(Key::Placement(sim.cell.id.clone())).await.unwrap().modified
}

#[test]
fn a_move_waits_for_two_other_people_and_touches_nothing_meanwhile() {
    for kind in [MoveKind::Switchover, MoveKind::Failover] {
        simulate(async {
            let (sim, engine, leadership, id) = waiting(Need::Two, kind).await;
            let before = placed_at(&sim).await;
            let _leading = lead(&engine, &leadership, &sim);
            let hash = hash(&engine, id).await;
            let own = engine.approve(id, &hash, "", said(&leadership, &sim)).await;
            assert!(matches!(own, Err(MoveError::NotYours(_))), "{own:?}");
            let other = engine.approve(id, &"0".repeat(64), "", said_by("bob", &leadership, &sim)).await;
            assert!(matches!(&other, Err(MoveError::NotNow(why)) if why.contains(&hash)), "{other:?}");
            // The same person twice is one person.
            for _ in 0..2 {
                engine.approve(id, &hash, "fine", said_by("bob", &leadership, &sim)).await.unwrap();
            }
            pause(Duration::from_secs(30)).await;
            let seen = view(&engine, id).await;
            assert_eq!((seen.step.as_str(), &seen.status), ("approve", &MoveStatus::Running), "{seen:#?}");
            let given = &seen.waits_for().unwrap().given;
            assert_eq!(given.iter().map(|g| (&*g.by, &*g.note)).collect::<Vec<_>>(), [("bob", "fine")]);
            assert_eq!(placed_at(&sim).await, before, "nothing was held or closed");
            assert_eq!(sim.world().effects, [], "nothing was sent to a database");
            engine.approve(id, &hash, "", said_by("eve", &leadership, &sim)).await.unwrap();
            let (ended, seen) = end_of(&engine, id).await;
            assert_eq!(ended, Ended::Done, "{seen:#?}");
            assert_eq!(sim.judge(ended, &seen).await, Vec::<String>::new(), "{seen:#?}");
            let approval = seen.approval.clone().unwrap();
            assert_eq!((approval.given.len(), approval.voided), (2, 0), "numbers that jitter void nothing");
            assert!(seen.facts.approval_ms.is_some(), "{:#?}", seen.facts);
            assert!(seen.steps.contains(&"approve".to_owned()));
        });
    }
}

#[test]
fn where_the_policy_asks_for_nobody_no_move_waits() {
    simulate(async {
        let (sim, engine, leadership, id) = waiting(Need::None, MoveKind::Failover).await;
        let _leading = lead(&engine, &leadership, &sim);
        let (ended, seen) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{seen:#?}");
        assert!(seen.approval.is_none() && !seen.steps.contains(&"approve".to_owned()));
        let late = engine.approve(id, "", "", said_by("bob", &leadership, &sim)).await;
        assert!(matches!(late, Err(MoveError::NotNow(_))), "{late:?}");
    });
}

#[test]
fn what_is_not_approved_in_time_is_over_and_nothing_was_done() {
    simulate(async {
        let (sim, engine, leadership, id) = waiting(Need::Two, MoveKind::Switchover).await;
        let before = placed_at(&sim).await;
        let hash = hash(&engine, id).await;
        engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)).await.unwrap();
        let wall = || Timestamp::now() + SignedDuration::from_mins(61);
        let later = sim.engine(Options { wall, ..Options::default() });
        let late = later.approve(id, &hash, "", said_by("eve", &leadership, &sim)).await;
        assert!(matches!(&late, Err(MoveError::NotNow(why)) if why.contains("is over")), "{late:?}");
        let _leading = lead(&later, &leadership, &sim);
        let (ended, seen) = end_of(&later, id).await;
        assert_eq!(ended, Ended::RolledBack, "{seen:#?}");
        let MoveStatus::RolledBack { why } = &seen.status else { panic!() };
        assert!(why.contains("1 of 2 people"), "{why}");
        assert_eq!(sim.judge(ended, &seen).await, Vec::<String>::new(), "{seen:#?}");
        assert_eq!(placed_at(&sim).await, before);
    });
}

#[test]
fn a_person_refuses_or_the_one_who_asked_takes_it_back() {
    for refuse in [false, true] {
        simulate(async {
            let (sim, engine, leadership, id) = waiting(Need::One, MoveKind::Failover).await;
            let before = placed_at(&sim).await;
            let _leading = lead(&engine, &leadership, &sim);
            if refuse {
                engine.reject(id, "not today", said_by("bob", &leadership, &sim)).await.unwrap();
            } else {
                engine.rollback(id, said(&leadership, &sim)).await.unwrap();
            }
            let (ended, seen) = end_of(&engine, id).await;
            assert_eq!(ended, Ended::RolledBack, "{seen:#?}");
            assert_eq!(sim.judge(ended, &seen).await, Vec::<String>::new(), "{seen:#?}");
            assert_eq!(placed_at(&sim).await, before);
            let why = format!("{:?}", seen.status);
            assert!(!refuse || why.contains("rejected by bob: not today"), "{why}");
            let late = engine.reject(id, "again", said_by("bob", &leadership, &sim)).await;
            assert!(matches!(late, Err(MoveError::NotNow(_))), "{late:?}");
        });
    }
}

fn freeze(sim: &Sim) -> Freeze {
    let now = Timestamp::now();
    Freeze {
        id: FreezeId::new(),
        from: now - SignedDuration::from_mins(1),
        until: now + SignedDuration::from_mins(1),
        cells: [sim.cell.id.clone()].into(),
        by: "ann".into(),
        reason: "go-live".into(),
    }
}

/// A freeze begins between the approvals and the start. Gives how the move stands then.
async fn frozen_meanwhile(sabotage: Sabotage) -> (Sim, Arc<Engine>, Leadership, MoveId, Freeze) {
    let (sim, _, leadership, id) = waiting(Need::One, MoveKind::Switchover).await;
    let engine = sim.engine(Options { sabotage, ..Options::default() });
    warm_up(MoveKind::Switchover).await;
    let hash = hash(&engine, id).await;
    let freeze = freeze(&sim);
    sim.store.commit(Txn::bare().put(Key::Freeze(freeze.id), &freeze)).await.unwrap();
    engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)).await.unwrap();
    (sim, engine, leadership, id, freeze)
}

#[test]
fn approvals_of_something_else_are_void_and_people_are_asked_again() {
    simulate(async {
        let (sim, engine, leadership, id, freeze) = frozen_meanwhile(Sabotage::default()).await;
        let first = hash(&engine, id).await;
        let _leading = lead(&engine, &leadership, &sim);
        pause(Duration::from_secs(10)).await;
        let seen = view(&engine, id).await;
        let approval = seen.waits_for().expect("it asks again");
        assert_eq!((approval.given.len(), approval.voided), (0, 1), "{seen:#?}");
        assert_ne!(approval.hash, first);
        let said = seen.log.iter().rfind(|e| e.event == LogEvent::Asked).unwrap();
        assert!(said.note.contains("approval of bob is void") && said.note.contains("freeze"), "{said:?}");
        assert_eq!(sim.world().effects, []);
        // Approved as it stands it still does not start: a check stands against it.
        let second = approval.hash.clone();
        engine.approve(id, &second, "", said_by("bob", &leadership, &sim)).await.unwrap();
        pause(Duration::from_secs(10)).await;
        assert_eq!(view(&engine, id).await.waits_for().unwrap().voided, 2);
        // It ends: what was approved first is asked for again, and holds.
        sim.store.commit(Txn::bare().delete(Key::Freeze(freeze.id))).await.unwrap();
        engine.approve(id, &second, "", said_by("bob", &leadership, &sim)).await.unwrap();
        pause(Duration::from_secs(10)).await;
        let third = hash(&engine, id).await;
        assert_eq!(third, first, "the same situation has the same hash");
        engine.approve(id, &third, "", said_by("bob", &leadership, &sim)).await.unwrap();
        let (ended, seen) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{seen:#?}");
        assert_eq!(sim.judge(ended, &seen).await, Vec::<String>::new(), "{seen:#?}");
    });
}

/// The switch: approvals that are taken as they are. The move goes on under a freeze that nobody approved.
#[test]
fn without_another_look_an_approved_move_is_seen_to_do_what_nobody_approved() {
    simulate(async {
        let broken = Sabotage { trust_approvals: true, ..Sabotage::default() };
        let (sim, engine, leadership, id, _) = frozen_meanwhile(broken).await;
        let _leading = lead(&engine, &leadership, &sim);
        assert_eq!(end_of(&engine, id).await.0, Ended::Done, "the proof does not notice");
    });
}

#[test]
fn one_look_that_fails_voids_nothing() {
    simulate(async {
        let (sim, engine, leadership, id) = waiting(Need::One, MoveKind::Switchover).await;
        let hash = hash(&engine, id).await;
        let a = crate::testkit::region(crate::testkit::A);
        sim.world().servers.get_mut(&a).unwrap().streaming = false;
        sim.world().servers.get_mut(&crate::testkit::region(crate::testkit::B)).unwrap().streaming = false;
        let _leading = lead(&engine, &leadership, &sim);
        engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)).await.unwrap();
        pause(Duration::from_millis(300)).await;
        for server in sim.world().servers.values_mut() {
            server.streaming = true;
        }
        let (ended, seen) = end_of(&engine, id).await;
        assert_eq!((ended, seen.approval.as_ref().unwrap().voided), (Ended::Done, 0), "{seen:#?}");
    });
}

#[test]
fn two_people_who_approve_at_once_both_count() {
    simulate(async {
        let (sim, engine, leadership, id) = waiting(Need::Two, MoveKind::Switchover).await;
        let hash = hash(&engine, id).await;
        let (bob, eve) = tokio::join!(
            engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)),
            engine.approve(id, &hash, "", said_by("eve", &leadership, &sim)),
        );
        bob.unwrap();
        eve.unwrap();
        assert_eq!(view(&engine, id).await.waits_for().unwrap().given.len(), 2);
    });
}

#[test]
fn an_approved_move_is_held_up_by_a_pause_and_by_the_emergency_stop() {
    simulate(async {
        let (sim, engine, leadership, id) = waiting(Need::One, MoveKind::Switchover).await;
        let _leading = lead(&engine, &leadership, &sim);
        engine.pause(id, "wait", said(&leadership, &sim)).await.unwrap();
        let stop = EmergencyStop { by: "ann".into(), reason: "odd".into(), at: Timestamp::now() };
        sim.store.commit(Txn::bare().put(Key::Stop, &stop)).await.unwrap();
        let hash = hash(&engine, id).await;
        engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)).await.unwrap();
        engine.resume(id, said(&leadership, &sim)).await.unwrap();
        pause(Duration::from_secs(10)).await;
        assert_eq!(view(&engine, id).await.waits_for().unwrap().given.len(), 1, "it stands meanwhile");
        sim.store.commit(Txn::bare().delete(Key::Stop)).await.unwrap();
        assert_eq!(end_of(&engine, id).await.0, Ended::Done);
    });
}

/// A control plane dies while it writes an approval. Who approved asks again, and is counted once.
#[test]
fn an_approval_whose_writer_died_stands_once_or_not_at_all() {
    for after in [false, true] {
        simulate(async {
            let (sim, engine, leadership, id) = waiting(Need::Two, MoveKind::Switchover).await;
            let hash = hash(&engine, id).await;
            let dead = Arc::new(AtomicBool::new(false));
            let store = Dying { inner: sim.store.clone(), left: AtomicI64::new(1), after, dead };
            let dying = sim.engine_on(Arc::new(store), Options::default());
            let said = said_by("bob", &leadership, &sim);
            let cut = tokio::time::timeout(Duration::from_secs(5), dying.approve(id, &hash, "", said)).await;
            assert!(cut.is_err());
            let standing = view(&engine, id).await.waits_for().unwrap().given.len();
            assert_eq!(standing, usize::from(after));
            engine.approve(id, &hash, "", said_by("bob", &leadership, &sim)).await.unwrap();
            assert_eq!(view(&engine, id).await.waits_for().unwrap().given.len(), 1);
            let deposed = leadership.clone();
            let _new = sim.take_over("two").await;
            let late = engine.approve(id, &hash, "", said_by("eve", &deposed, &sim)).await;
            assert!(matches!(late, Err(MoveError::Deposed)), "{late:?}");
        });
    }
}

#[test]
fn the_plan_says_whom_a_move_would_wait_for() {
    simulate(async {
        let sim = Sim::start().await;
        sim.ask_approval(Need::Two).await;
        let engine = sim.engine(Options::default());
        warm_up(MoveKind::Switchover).await;
        let plan = engine.plan(&super::happy::ask(&sim, MoveKind::Switchover)).await.unwrap();
        assert_eq!((plan.approval, plan.approval_expires_ms), (Need::Two, Some(3_600_000)));
        assert_eq!(&plan.steps[..2], ["claim", "approve"]);
        let leadership = sim.take_over("one").await;
        let id = begin_approved(&sim, &engine, MoveKind::Switchover, &leadership).await;
        assert_eq!(view(&engine, id).await.waits_for().unwrap().given.len(), 2);
    });
}

/// A store on which somebody tightens the policy just before a move is claimed.
struct Meddled {
    inner: domicile_store::MemoryStore,
    policy: std::sync::Mutex<Option<Txn>>,
}

#[async_trait::async_trait]
impl Store for Meddled {
    async fn read(
        &self,
        keys: &[Key],
    ) -> Result<(domicile_store::Header, Vec<Option<domicile_store::Entry>>), domicile_store::StoreError>
    {
        self.inner.read(keys).await
    }
    async fn list(&self, prefix: &str) -> Result<domicile_store::Listing, domicile_store::StoreError> {
        self.inner.list(prefix).await
    }
    async fn commit(&self, txn: Txn) -> Result<domicile_store::Commit, domicile_store::StoreError> {
        let policy = self.policy.lock().unwrap().take();
        if let Some(policy) = policy {
            self.inner.commit(policy).await?;
        }
        self.inner.commit(txn).await
    }
    async fn watch(
        &self,
        from: domicile_model::Revision,
    ) -> Result<Box<dyn domicile_store::Watcher>, domicile_store::StoreError> {
        self.inner.watch(from).await
    }
    async fn grant(&self, ttl: Duration) -> Result<domicile_store::LeaseId, domicile_store::StoreError> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: domicile_store::LeaseId) -> Result<(), domicile_store::StoreError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: domicile_store::LeaseId) -> Result<(), domicile_store::StoreError> {
        self.inner.revoke(lease).await
    }
    async fn room(&self) -> Result<Option<domicile_store::Room>, domicile_store::StoreError> {
        self.inner.room().await
    }
    async fn forget_before(
        &self,
        revision: domicile_model::Revision,
    ) -> Result<(), domicile_store::StoreError> {
        self.inner.forget_before(revision).await
    }
}

#[test]
fn a_policy_that_is_tightened_while_a_move_starts_counts_for_it() {
    simulate(async {
        let sim = Sim::start().await;
        let fleet = [(domicile_model::Change::Switchover, Need::Two)].into();
        let strict = domicile_model::Approvals { fleet, ..domicile_model::Approvals::default() };
        let policy = std::sync::Mutex::new(Some(Txn::bare().put(Key::Approvals, &strict)));
        let engine =
            sim.engine_on(Arc::new(Meddled { inner: sim.store.clone(), policy }), Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Switchover).await;
        let request = super::happy::ask(&sim, MoveKind::Switchover);
        let raced = engine.request(&request, "an operator", &leadership, &sim.registry).await;
        assert!(matches!(raced, Err(MoveError::Busy(_))), "{raced:?}");
        let id = engine.request(&request, "an operator", &leadership, &sim.registry).await.unwrap();
        assert_eq!(view(&engine, id).await.waits_for().unwrap().need, Need::Two);
    });
}
