//! The engine is killed at every edge, before and after it is applied, and before and after every effect. Another
//! leader goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domicile_api::moves::{MoveKind, MoveView};
use domicile_model::Revision;
use domicile_model::clock::pause;
use domicile_store::{
    Commit, Entry, Header, Key, LeaseId, Listing, MemoryStore, Store, StoreError, Txn, Watcher,
};

use super::happy::{begin_approved, lead, warm_up};
use super::simulate;
use crate::failpoint::{Failpoints, Point};
use crate::options::Sabotage;
use crate::testkit::{Ended, Fault, Sim, end_of};
use crate::{Options, definitions};

/// A store whose user dies at its n-th commit.
pub(super) struct Dying {
    pub(super) inner: MemoryStore,
    pub(super) left: AtomicI64,
    pub(super) after: bool,
    pub(super) dead: Arc<AtomicBool>,
}

impl Dying {
    async fn alive(&self) {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Store for Dying {
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        self.alive().await;
        self.inner.read(keys).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.alive().await;
        self.inner.list(prefix).await
    }
    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        self.alive().await;
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return self.inner.commit(txn).await;
        }
        if self.after {
            self.inner.commit(txn).await?;
        }
        self.dead.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        self.inner.watch(from).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }
    async fn room(&self) -> Result<Option<domicile_store::Room>, StoreError> {
        self.inner.room().await
    }
    async fn forget_before(&self, revision: domicile_model::Revision) -> Result<(), StoreError> {
        self.inner.forget_before(revision).await
    }
}

/// Dies at the n-th time that any failpoint is reached.
struct DyingAt {
    left: AtomicI64,
    place: Option<(&'static str, Point)>,
    dead: Arc<AtomicBool>,
}

#[async_trait]
impl Failpoints for DyingAt {
    async fn reach(&self, step: &str, point: Point) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 || self.place == Some((step, point)) {
            self.dead.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}

struct Death {
    commit: i64,
    after: bool,
    point: i64,
    place: Option<(&'static str, Point)>,
    lost: bool,
    sabotage: Sabotage,
    /// The promotion happens without its slots, and its answer is lost.
    half: bool,
    /// The second leader's tries of this effect are refused.
    refuse: Option<&'static str>,
}

/// Runs a move whose leader dies; none if it ended before.
fn killed(kind: MoveKind, death: &Death) -> Option<(Ended, MoveView, Vec<String>)> {
    simulate(killed_in(kind, death))
}

async fn killed_in(kind: MoveKind, death: &Death) -> Option<(Ended, MoveView, Vec<String>)> {
    let sim = Sim::start().await;
    let dead = Arc::new(AtomicBool::new(false));
    let store = Dying {
        inner: sim.store.clone(),
        left: AtomicI64::new(death.commit),
        after: death.after,
        dead: dead.clone(),
    };
    let failpoints =
        Arc::new(DyingAt { left: AtomicI64::new(death.point), place: death.place, dead: dead.clone() });
    let options = Options { failpoints, sabotage: death.sabotage, ..Options::default() };
    let first = sim.engine_on(Arc::new(store), options);
    let second = sim.engine(Options { sabotage: death.sabotage, ..Options::default() });
    let leadership = sim.take_over("one").await;
    warm_up(kind).await;
    if death.lost {
        sim.lose_a(true);
    }
    if death.half {
        sim.world().faults.push(("promote-slots".to_owned(), Fault::LostAfter));
    }
    let id = begin_approved(&sim, &second, kind, &leadership).await;
    let leading = lead(&first, &leadership, &sim);
    for round in 0..3_000 {
        if death.lost && round == 2_000 {
            break;
        }
        if dead.load(Ordering::SeqCst) || leading.task.is_finished() {
            break;
        }
        if second.view(id).await.unwrap().unwrap().status.is_final() {
            return None;
        }
        pause(Duration::from_millis(10)).await;
    }
    drop(leading);
    if !dead.load(Ordering::SeqCst) {
        return None;
    }
    pause(Duration::from_millis(100)).await;
    if let Some(effect) = death.refuse {
        sim.world().faults = vec![(effect.to_owned(), Fault::Refused); 40];
    }
    let leadership = sim.take_over("two").await;
    let _leading = lead(&second, &leadership, &sim);
    if death.lost {
        pause(Duration::from_secs(25)).await;
        sim.world().servers.get_mut(&crate::testkit::region(crate::testkit::A)).unwrap().writable = false;
        sim.return_a();
    }
    let (ended, view) = end_of(&second, id).await;
    let found = sim.judge(ended, &view).await;
    Some((ended, view, found))
}

const NEVER: Death = Death {
    commit: -1,
    after: false,
    point: -1,
    place: None,
    lost: false,
    half: false,
    refuse: None,
    sabotage: Sabotage {
        skip_acceptance: false,
        skip_wait: false,
        skip_loss_check: false,
        any_fence_level: false,
        ends_by_time: false,
        forget_intent: false,
        unfenced: false,
        trust_old_fence: false,
        trust_sight: false,
        leave_shut: false,
        trust_approvals: false,
        strike_the_living: false,
        open_anyway: false,
    },
};

/// Whether it changes who serves: those have many steps.
const fn moves(kind: MoveKind) -> bool {
    matches!(kind, MoveKind::Switchover | MoveKind::Failover)
}

#[test]
fn killed_at_every_edge_another_leader_ends_it() {
    for kind in definitions::ALL {
        for after in [false, true] {
            let mut deaths = 0;
            for commit in 1.. {
                let Some((ended, view, found)) = killed(kind, &Death { commit, after, ..NEVER }) else {
                    break;
                };
                assert_eq!(found, Vec::<String>::new(), "{kind:?} {commit} {after} {view:#?}");
                assert_ne!(ended, Ended::Stuck, "{kind:?} {commit} {after} {view:#?}");
                deaths = commit;
            }
            assert!(deaths >= if moves(kind) { 12 } else { 3 }, "{kind:?}: {deaths} edges");
        }
    }
}

#[test]
fn killed_around_every_effect_another_leader_ends_it() {
    for kind in definitions::ALL {
        let mut deaths = 0;
        for point in 1.. {
            let Some((ended, view, found)) = killed(kind, &Death { point, ..NEVER }) else { break };
            assert_eq!(found, Vec::<String>::new(), "{kind:?} {point} {view:#?}");
            assert_ne!(ended, Ended::Stuck, "{kind:?} {point} {view:#?}");
            deaths = point;
        }
        assert!(deaths >= if moves(kind) { 8 } else { 2 }, "{kind:?}: {deaths} points");
    }
}

#[test]
fn killed_while_the_old_primary_is_cut_off_and_writing() {
    for commit in 1..8 {
        let death = Death { commit, after: true, lost: true, ..NEVER };
        let Some((ended, view, found)) = killed(MoveKind::Failover, &death) else { break };
        assert_eq!(found, Vec::<String>::new(), "{commit} {view:#?}");
        assert_eq!(ended, Ended::Done, "{commit} {view:#?}");
    }
}

/// Killed between the promotion and its record; the next leader's own attempt would be refused.
fn killed_after_the_promotion(sabotage: Sabotage) -> Vec<String> {
    let death =
        Death { place: Some(("promote", Point::AfterEffect)), sabotage, refuse: Some("promote"), ..NEVER };
    let (_, view, found) = killed(MoveKind::Switchover, &death).unwrap();
    assert!(view.log.iter().any(|e| e.step == "fence"), "{view:#?}");
    found
}

/// The switch: an engine that acts before its intent stands. The next leader believes that nothing was promoted and
/// turns back: two primaries.
#[test]
fn without_intents_a_killed_leader_is_seen_to_do_harm() {
    assert_eq!(killed_after_the_promotion(Sabotage::default()), Vec::<String>::new());
    let found = killed_after_the_promotion(Sabotage { forget_intent: true, ..Sabotage::default() });
    assert!(
        found.iter().any(|f| f.contains("opened again beside")),
        "the proof does not notice that intents are missing: {found:?}"
    );
}

/// The agent dies between the promotion and its slots, and the leader with it, or not.
fn half_promoted(leader_dies: bool, sabotage: Sabotage) -> (Ended, MoveView, Vec<String>) {
    if leader_dies {
        let place = Some(("promote", Point::AfterEffect));
        return killed(MoveKind::Switchover, &Death { place, half: true, sabotage, ..NEVER }).unwrap();
    }
    simulate(async {
        let sim = Sim::start().await;
        sim.world().faults.push(("promote-slots".to_owned(), Fault::LostAfter));
        let engine = sim.engine(Options { sabotage, ..Options::default() });
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Switchover).await;
        let id = begin_approved(&sim, &engine, MoveKind::Switchover, &leadership).await;
        let (ended, view) = end_of(&engine, id).await;
        let found = sim.judge(ended, &view).await;
        (ended, view, found)
    })
}

#[test]
fn a_server_seen_to_write_is_not_taken_for_promoted_before_its_agent_says_so() {
    for leader_dies in [false, true] {
        let (ended, view, found) = half_promoted(leader_dies, Sabotage::default());
        assert_eq!((ended, found), (Ended::Done, Vec::new()), "{leader_dies} {view:#?}");
        let broken = Sabotage { trust_sight: true, ..Sabotage::default() };
        let (_, view, found) = half_promoted(leader_dies, broken);
        assert!(
            found.iter().any(|f| f.contains("before the slots")),
            "the proof does not notice missing slots: {leader_dies} {found:?} {view:#?}"
        );
    }
}
