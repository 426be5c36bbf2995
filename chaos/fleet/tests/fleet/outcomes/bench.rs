//! A fleet whose control plane is two engines of ours, and one row of the table in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domicile_api::moves::{MoveKind, MoveRequest, MoveStatus, MoveView};
use domicile_chaos::control::{LinkAct, UnitAct};
use domicile_chaos_kit::wait;
use domicile_engine::faults::{Fault, Faulty};
use domicile_engine::provider::{Databases, EffectError};
use domicile_engine::{Consent, Engine, Failpoints, LeadEnd, Options, Point, Said};
use domicile_model::clock::{Clock, pause};
use domicile_model::{
    BootId, Cell, CellId, LeaderFence, MoveId, Phase, Placement, RegionId, SecretRef, World,
};
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use domicile_store::codec::decode;
use domicile_store::{Commit, Key, Leadership, Op, Store, Txn};
use domicile_store_etcd::EtcdStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Strike;
use crate::scene::{LONG, Scene};

/// Stops its engine for good at one point.
#[derive(Default)]
struct Stop {
    at: Mutex<Option<(String, Point)>>,
    reached: AtomicBool,
    seen: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Failpoints for Stop {
    async fn reach(&self, step: &str, point: Point) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(step.to_owned());
        let here = self.at.lock().unwrap().as_ref().is_some_and(|(s, p)| s == step && *p == point);
        if here {
            self.reached.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}

/// An engine that leads. Dropping it kills the engine where it stands.
struct Leading {
    leadership: Leadership,
    cancel: CancellationToken,
    task: JoinHandle<LeadEnd>,
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Bench {
    pub(super) scene: Scene,
    pub(super) store: Arc<EtcdStore>,
    databases: Arc<dyn Databases>,
    faulty: Arc<Faulty>,
    stop: Arc<Stop>,
    world: World,
    /// Its effects go wrong.
    pub(super) first: Arc<Engine>,
    /// Takes over.
    second: Arc<Engine>,
    samplers: Vec<JoinHandle<()>>,
    /// The forced moves that were done.
    pub(super) forced: Vec<(MoveId, &'static str, RegionId)>,
    /// Replication that is cut, from database to database, so that there is something to lose.
    cut: Mutex<Option<(String, String)>>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for sampler in &self.samplers {
            sampler.abort();
        }
    }
}

impl Bench {
    pub(super) async fn up() -> Self {
        let scene = Scene::up_with(&["--fence-ms", "5000"]).await;
        let store = Arc::new(EtcdStore::connect(scene.fleet.registry.parse().unwrap()).await.unwrap());
        // The fleet's control plane takes up the agents' keys: both of each cell that has a database.
        let trusted = || async {
            let cells = store.list("cells/").await.ok()?.entries;
            let with_databases =
                cells.iter().filter(|e| decode::<Cell>(&e.value).unwrap().database.is_some());
            let keys = store.list("agents/").await.ok()?.entries;
            (keys.len() == 2 * with_databases.count()).then_some(())
        };
        wait::eventually(LONG, "the keys of all agents are trusted", trusted).await.unwrap();
        // The engines are ours: effects of a program can't be made to go wrong.
        scene.unit(UnitAct::Terminate, "control").await;
        let secret = scene.fleet.home.join("secrets").join("agent").display().to_string();
        let config = PostgresConfig::new("outcomes", SecretRef::File(secret));
        let databases: Arc<dyn Databases> = Arc::new(PostgresDatabases::new(config, Clock::Machine).unwrap());
        let faulty = Faulty::new(databases.clone());
        let stop = Arc::new(Stop::default());
        let (_, found) = store.read(&[Key::World]).await.unwrap();
        let world: World = decode(&found[0].as_ref().unwrap().value).unwrap();
        let options = |name: &str| {
            let mut options = Options::default();
            options.name = name.to_owned();
            // How long a step is tried: what never succeeds shall not take long here.
            options.step = Duration::from_secs(2);
            options.slow_poll = Duration::from_millis(100);
            options
        };
        let mut with_faults = options("first");
        with_faults.failpoints = stop.clone();
        let first = Engine::new(store.clone(), faulty.clone(), Clock::Machine, with_faults);
        let second = Engine::new(store.clone(), databases.clone(), Clock::Machine, options("second"));
        let samplers = [&first, &second].map(|engine| sampling(engine.clone(), store.clone())).into();
        Self {
            scene,
            store,
            databases,
            faulty,
            stop,
            world,
            first,
            second,
            samplers,
            forced: Vec::new(),
            cut: Mutex::default(),
        }
    }

    async fn get<T: domicile_store::Record>(&self, key: Key) -> T {
        let read = || async { self.store.read(std::slice::from_ref(&key)).await.ok() };
        let (_, found) = wait::eventually(LONG, "the registry answers", read).await.unwrap();
        decode(&found[0].as_ref().unwrap().value).unwrap()
    }

    /// Takes the leadership from whoever has it.
    async fn lead(&self, engine: &Arc<Engine>) -> Leading {
        // Again if nobody knows whether it was done: a member of the registry may just have died.
        let took = || async {
            let value = format!("{{\"of\":\"{}\"}}", BootId::new()).into_bytes();
            self.store.commit(Txn::bare().delete(Key::Leader)).await.ok()?;
            let put = Txn::bare().op(Op::Put(Key::Leader, value.clone(), None));
            match self.store.commit(put).await {
                Ok(Commit::Done(at)) => Some((at, value)),
                _ => None,
            }
        };
        let (at, value) = wait::eventually(LONG, "it leads", took).await.unwrap();
        let (leadership, cancel) = (Leadership { fence: LeaderFence(at), value }, CancellationToken::new());
        let (engine, by, world, token) =
            (engine.clone(), leadership.clone(), self.world.clone(), cancel.clone());
        let task = tokio::spawn(async move { engine.lead(by, world, token).await });
        Leading { leadership, cancel, task }
    }

    /// Starts a move to the other side as soon as nothing stands against it.
    async fn begin(&self, kind: MoveKind, cell: &str, leading: &Leading) -> (MoveId, RegionId, RegionId) {
        let id = CellId::new(cell).unwrap();
        let placement: Placement = self.get(Key::Placement(id.clone())).await;
        let (from, to) = (placement.holder.unwrap(), placement.standby.unwrap());
        let force = kind == MoveKind::Failover;
        let request = MoveRequest {
            cell: id,
            to: to.clone(),
            force,
            accept_loss: force.then_some(1_000_000),
            accept_unknown: false,
            tenants: Vec::new(),
            reason: "a row of the table".to_owned(),
        };
        // What a planned move needs is needed here by the forced one too: each row begins with a whole pair.
        let planned = MoveRequest { force: false, accept_loss: None, ..request.clone() };
        let whole = || async {
            let whole = self.first.plan(&planned).await.ok()?;
            if whole.checks.iter().any(|c| c.verdict.blocks()) {
                pause(Duration::from_millis(100)).await;
                return None;
            }
            Some(())
        };
        if let Err(late) = wait::eventually(LONG, "the pair is whole", whole).await {
            panic!("{late}: {:#?}", self.first.plan(&planned).await);
        }
        if force {
            self.fall_behind(cell, &from, &to).await;
        }
        let started =
            || async { self.first.request(&request, "a test", &leading.leadership, &self.world).await.ok() };
        match wait::eventually(LONG, "the move starts", started).await {
            Ok(id) => (id, from, to),
            Err(late) => panic!("{late}: {:#?}", self.first.plan(&request).await),
        }
    }

    /// Cuts the replication, and waits until something was written that the standby will never have.
    async fn fall_behind(&self, cell: &str, from: &RegionId, to: &RegionId) {
        let (primary, standby) = (format!("database-{cell}-{from}"), format!("database-{cell}-{to}"));
        self.scene.link(LinkAct::Cut, &primary, &standby, false).await;
        *self.cut.lock().unwrap() = Some((primary, standby));
        let definition: Cell = self.get(Key::Cell(CellId::new(cell).unwrap())).await;
        let at = self.databases.observe(&definition, from).await.flushed;
        let behind = || async {
            let now = self.databases.observe(&definition, from).await.flushed;
            let has = self.databases.observe(&definition, to).await.replayed;
            (now > at && now.zip(has).is_some_and(|(now, has)| now > has)).then_some(())
        };
        wait::eventually(LONG, "the standby lacks something", behind).await.unwrap();
    }

    /// Heals what was cut.
    async fn heal(&self) {
        let cut = self.cut.lock().unwrap().take();
        if let Some((primary, standby)) = cut {
            self.scene.link(LinkAct::Heal, &primary, &standby, false).await;
        }
    }

    async fn end_of(&self, id: MoveId) -> MoveView {
        let ended = || async {
            pause(Duration::from_millis(50)).await;
            let view = self.second.view(id).await.ok().flatten()?;
            // The way back to a pair needs it.
            if view.facts.serving_epoch.is_some() {
                self.heal().await;
            }
            (!matches!(view.status, MoveStatus::Running | MoveStatus::RollingBack)).then_some(view)
        };
        match wait::eventually(LONG, "the move has ended", ended).await {
            Ok(view) => view,
            Err(late) => panic!("{late}: {:#?}", self.second.view(id).await),
        }
    }

    /// Which steps have an effect, and at which the engine can be stopped: by a move at which nothing goes wrong.
    pub(super) async fn clean(
        &mut self,
        kind: MoveKind,
        cell: &'static str,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let outcome = self.row(kind, cell, None).await;
        assert_eq!(outcome, "done", "{kind:?}");
        let points = std::mem::take(&mut *self.stop.seen.lock().unwrap());
        (self.faulty.seen().into_iter().collect(), points)
    }

    /// One move, and how it ended.
    pub(super) async fn row(
        &mut self,
        kind: MoveKind,
        cell: &'static str,
        strike: Option<(&str, Strike)>,
    ) -> String {
        *self.stop.at.lock().unwrap() = None;
        self.stop.reached.store(false, Ordering::SeqCst);
        self.faulty.set(None);
        drop(self.faulty.seen());
        self.stop.seen.lock().unwrap().clear();
        let leading = self.lead(&self.first).await;
        let (id, from, to) = self.begin_struck(kind, cell, strike, &leading).await;
        let gone = match strike {
            None => false,
            Some((_, Strike::Effect(fault))) => fault == Fault::Late,
            Some((_, Strike::Gone(_))) => true,
        };
        let mut leading = Some(leading);
        if gone {
            let there = || async { self.stop.reached.load(Ordering::SeqCst) || self.faulty.struck() > 0 };
            if let Err(late) = wait::eventually(LONG, "the leader comes to where it ends", there).await {
                panic!("{late}: {strike:?} {:#?}", self.second.view(id).await);
            }
            leading = None;
        }
        let leading = match leading {
            Some(leading) => leading,
            None => self.lead(&self.second).await,
        };
        let view = self.end_of(id).await;
        let mut outcome = match &view.status {
            MoveStatus::Done => "done".to_owned(),
            MoveStatus::RolledBack { .. } => "rolled back".to_owned(),
            MoveStatus::Stuck { step, why } => format!("stuck at {step}: {}", reason(why)),
            other => panic!("{other:?}"),
        };
        if let Some((_, Strike::Effect(_))) = strike {
            assert!(self.faulty.struck() > 0, "nothing went wrong: {strike:?} {view:#?}");
        }
        for arrival in self.faulty.arrive().await {
            outcome += match arrival {
                Ok(()) => "; taken late",
                Err(EffectError::Deposed(_)) => "; outranked late",
                Err(EffectError::Refused(_)) => "; refused late",
                Err(EffectError::Unknown(_)) => "; unanswered late",
            };
        }
        if matches!(view.status, MoveStatus::Stuck { .. }) {
            self.faulty.set(None);
            self.retried(id, &leading).await;
            outcome += "; retried: done";
        }
        let back = matches!(view.status, MoveStatus::RolledBack { .. });
        let (holder, standby) = if back { (from, to) } else { (to, from) };
        self.stands(cell, &holder, &standby).await;
        if kind == MoveKind::Failover && !back {
            self.forced.push((id, cell, standby));
        }
        leading.cancel.cancel();
        outcome
    }

    /// Tries a stuck move again, now that nothing goes wrong. More than once: a step has little time here, and a busy
    /// machine may need more.
    async fn retried(&self, id: MoveId, leading: &Leading) {
        let through = || async {
            let view = self.end_of(id).await;
            if let MoveStatus::Stuck { .. } = view.status {
                let said = Said {
                    by: "a test",
                    leadership: &leading.leadership,
                    world: &self.world,
                    also: Vec::new(),
                };
                // What can't be said now is said again.
                self.first.retry(id, Consent::default(), said).await.ok()?;
                return None;
            }
            Some(view.status)
        };
        let ended = wait::eventually(LONG, "mended and tried again, it is through", through).await;
        match ended {
            Ok(status) => assert_eq!(status, MoveStatus::Done),
            Err(late) => panic!("{late}: {:#?}", self.second.view(id).await),
        }
    }

    async fn begin_struck(
        &self,
        kind: MoveKind,
        cell: &str,
        strike: Option<(&str, Strike)>,
        leading: &Leading,
    ) -> (MoveId, RegionId, RegionId) {
        // What looks before the start is no effect, so the fault can stand from here on.
        match strike {
            None => {}
            Some((step, Strike::Effect(fault))) => self.faulty.set(Some((step, fault))),
            Some((step, Strike::Gone(point))) => {
                *self.stop.at.lock().unwrap() = Some((step.to_owned(), point));
            }
        }
        self.begin(kind, cell, leading).await
    }

    /// The registry says so, and the databases are so: one of them writes, the other follows it.
    async fn stands(&self, cell: &str, holder: &RegionId, standby: &RegionId) {
        let id = CellId::new(cell).unwrap();
        let placement: Placement = self.get(Key::Placement(id.clone())).await;
        assert_eq!((placement.holder.as_ref(), placement.standby.as_ref()), (Some(holder), Some(standby)));
        assert_eq!((placement.phase, placement.moving), (Phase::Serving, None));
        let definition: Cell = self.get(Key::Cell(id)).await;
        let as_it_should_be = || async {
            let (writes, follows) = (
                self.databases.observe(&definition, holder).await,
                self.databases.observe(&definition, standby).await,
            );
            let one = writes.writable == Some(true) && writes.fence.is_none();
            one && follows.writable == Some(false)
                && follows.streaming == Some(true)
                && follows.fence.is_none()
        };
        if let Err(late) = wait::eventually(LONG, "one writes and one follows", as_it_should_be).await {
            let (a, b) = (
                self.databases.observe(&definition, holder).await,
                self.databases.observe(&definition, standby).await,
            );
            panic!("{late}: {a:#?} {b:#?}");
        }
    }
}

/// Samples as a server does.
fn sampling(engine: Arc<Engine>, store: Arc<EtcdStore>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut holders: BTreeMap<CellId, RegionId> = BTreeMap::new();
        loop {
            if let (Ok(cells), Ok(placements)) = (store.list("cells/").await, store.list("placements/").await)
            {
                for entry in placements.entries {
                    if let Ok(Placement { cell, holder: Some(holder), .. }) = decode(&entry.value) {
                        holders.insert(cell, holder);
                    }
                }
                let cells = cells.entries.iter().filter_map(|e| decode::<Cell>(&e.value).ok());
                let held = cells.filter_map(|c| holders.get(&c.id).cloned().map(|holder| (c, holder)));
                engine.sampler().tick(&held.collect::<Vec<_>>());
            }
            pause(Duration::from_millis(250)).await;
        }
    })
}

/// A reason without what differs from run to run.
fn reason(why: &str) -> String {
    let text: String = why.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    text.replace("##", "#")
}
