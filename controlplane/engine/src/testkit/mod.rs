//! A cell in simulation: two servers that know tokens, fences and timelines, a fleet of routers that acknowledges, and
//! a clock that runs with tokio's paused time. Records what happened, in order, and what must not have happened.

mod databases;
mod fleet;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_api::agent::{ExportPlace, Fork, LossReport};
use domicile_api::protection::Retention;
use domicile_model::clock::{BootTime, Clock, ManualClock, pause};
use domicile_model::fleet::{Database, DatabaseEndpoint};
use domicile_model::token::Lsn;
use domicile_model::{
    AgentKey, Approvals, BootId, Cell, CellId, Change, ClosedCell, ClosedReason, Country, Epoch,
    FenceConstants, FenceLevel, HandoverToken, LeaderFence, Need, Phase, Placement, Region, RegionId,
    Residency, Role, RouterId, SecretRef, SigningKey, StoppedAt, Tenant, TenantId, Token, WitnessSet, World,
    WorldId,
};
use domicile_store::codec::decode;
use domicile_store::{Commit, Entry, Key, Leadership, MemoryStore, Op, Store, Txn};

use crate::provider::{Beside, Job};
use crate::{Engine, Options};

pub(crate) use databases::FakeDatabases;
pub(crate) use judge::{Ended, end_of};

pub(crate) const A: &str = "us-east-1";
pub(crate) const B: &str = "us-west-2";

/// How one effect goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Certainly not done.
    Refused,
    /// Lost on its way: not done, and nobody knows.
    LostBefore,
    /// Done, and its answer is lost.
    LostAfter,
}

/// One of the two servers.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) reachable: bool,
    pub(crate) writable: bool,
    pub(crate) standby: bool,
    pub(crate) streaming: bool,
    pub(crate) timeline: u32,
    pub(crate) fork: Option<Fork>,
    pub(crate) flushed: u64,
    pub(crate) xid: u64,
    pub(crate) checkpoint: u64,
    pub(crate) fence: Option<(HandoverToken, bool)>,
    pub(crate) highest: Option<Token>,
    /// What it tells of what stops its direct writers.
    pub(crate) fence_level: Option<FenceLevel>,
    pub(crate) follow: Option<Job>,
    pub(crate) losses: Option<Job>,
    /// The list that the newest export made.
    pub(crate) report: Option<LossReport>,
    pub(crate) promotions: u32,
    /// Whether it has the slots that keep what a standby and the list of losses need. A promotion makes them last.
    pub(crate) slots: bool,
    pub(crate) lost: u64,
    /// What stands in it beside what is replicated and listed.
    pub(crate) beside: Option<Beside>,
    /// What it keeps for others.
    pub(crate) retention: Option<Retention>,
    /// Where its agent exports lost rows to.
    pub(crate) export: Option<ExportPlace>,
    /// Stopped by its own agent when its proof ended.
    pub(crate) lapsed: bool,
    /// Started again for its agent alone.
    pub(crate) private: bool,
    /// Once promoted: until when it lets anybody in without holding the cell.
    pub(crate) open_until: Option<BootTime>,
}

/// Everything that the simulation knows.
pub(crate) struct World2 {
    pub(crate) servers: BTreeMap<RegionId, Server>,
    /// Effects in the order in which they arrived: name, region, rank, whether it was let through.
    pub(crate) effects: Vec<(String, RegionId, (LeaderFence, u64), bool)>,
    pub(crate) faults: Vec<(String, Fault)>,
    /// Effects arrive twice.
    pub(crate) twice: bool,
    /// A server that ignores tokens: the switch that shows what they are for.
    pub(crate) ignore_tokens: bool,
    /// B takes no handover for the old primary's word.
    pub(crate) disbelieves: bool,
    pub(crate) violations: Vec<String>,
    /// Every placement that was ever seen, in order.
    pub(crate) placements: Vec<Placement>,
    /// When the newest close was seen by the fleet.
    pub(crate) closed_at: Option<BootTime>,
    pub(crate) routers_down: BTreeSet<RouterId>,
    pub(crate) witnesses_down: BTreeSet<RouterId>,
    /// The standby gets nothing more.
    pub(crate) link_cut: bool,
    pub(crate) planned: bool,
    /// Gates of A report this many requests in flight.
    pub(crate) busy: u64,
}

/// The simulation. Clones share one world.
#[derive(Clone)]
pub(crate) struct Sim {
    pub(crate) store: MemoryStore,
    pub(crate) clock: Clock,
    hand: ManualClock,
    world: Arc<Mutex<World2>>,
    pub(crate) cell: Cell,
    pub(crate) registry: World,
}

pub(crate) fn region(text: &str) -> RegionId {
    RegionId::new(text).unwrap()
}

pub(crate) fn router(text: &str) -> RouterId {
    RouterId::new(text).unwrap()
}

/// What the agent there signs with. The simulation checks no signatures.
fn key_of(at: &RegionId) -> SigningKey {
    SigningKey { id: format!("id of {at}"), public: format!("key of {at}") }
}

fn agent_key(cell: &Cell, at: &str) -> AgentKey {
    AgentKey { cell: cell.id.clone(), region: region(at), key: key_of(&region(at)), by: None }
}

fn server(writable: bool) -> Server {
    Server {
        reachable: true,
        writable,
        standby: !writable,
        streaming: true,
        timeline: 1,
        fork: None,
        flushed: 10_000,
        xid: 1_000,
        checkpoint: 0,
        fence: None,
        highest: None,
        fence_level: Some(FenceLevel::Supervisor),
        follow: None,
        losses: None,
        report: None,
        promotions: 0,
        slots: writable,
        lost: 0,
        retention: Some(Retention { limit_bytes: Some(1 << 32), ..Retention::default() }),
        beside: Some(Beside { jobs: Some(Vec::new()), ..Beside::default() }),
        export: Some(ExportPlace {
            country: Country::new("US").unwrap(),
            recipient: "age1".to_owned(),
            problem: None,
        }),
        lapsed: false,
        private: false,
        open_until: None,
    }
}

impl Sim {
    /// A cell that A serves and B protects, with gates in both, an edge and a third witness elsewhere. Time runs as
    /// tokio's does: start the test with paused time.
    pub(crate) async fn start() -> Self {
        let hand = ManualClock::new();
        let clock = Clock::Manual(hand.clone());
        let store = MemoryStore::new(clock.clone());
        let endpoint = |n: u16| DatabaseEndpoint {
            address: std::net::SocketAddr::from(([127, 0, 0, 1], n)),
            agent: std::net::SocketAddr::from(([127, 0, 0, 1], n + 1)),
        };
        let cell = Cell {
            id: CellId::new("mercy-health").unwrap(),
            primary: region(A),
            dr: region(B),
            availability_first: false,
            rpo_ms: 3_600_000,
            ingress: BTreeMap::new(),
            application: BTreeMap::new(),
            mllp: BTreeMap::new(),
            database: Some(Database {
                name: "clinic".into(),
                user: "domicile".into(),
                password: SecretRef::Env("PGPASSWORD".into()),
                endpoints: [(region(A), endpoint(10)), (region(B), endpoint(20))].into(),
            }),
        };
        let registry = World { id: WorldId::new(), reconciled: true, constants: FenceConstants::DEFAULT };
        let placement = Placement {
            cell: cell.id.clone(),
            epoch: Epoch(1),
            holder: Some(region(A)),
            standby: Some(region(B)),
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of([router("gate-a"), router("gate-b"), router("edge-e")].into()),
        };
        let world = World2 {
            servers: [(region(A), server(true)), (region(B), server(false))].into(),
            effects: Vec::new(),
            faults: Vec::new(),
            twice: false,
            ignore_tokens: false,
            disbelieves: false,
            violations: Vec::new(),
            placements: vec![placement.clone()],
            closed_at: None,
            routers_down: BTreeSet::new(),
            witnesses_down: BTreeSet::new(),
            link_cut: false,
            planned: true,
            busy: 0,
        };
        let country = |id: &str, c: &str| Region {
            id: region(id),
            country: domicile_model::Country::new(c).unwrap(),
            ingress: vec![],
            edges: vec![],
        };
        let tenant = Tenant {
            id: TenantId::new("mercy-health").unwrap(),
            name: "Mercy Health".into(),
            cell: cell.id.clone(),
            hosts: BTreeSet::new(),
            residency: Residency {
                allowed: Some([domicile_model::JurisdictionId::new("US").unwrap()].into()),
                overrides: BTreeMap::new(),
            },
        };
        let txn = Txn::bare()
            .put(Key::World, &registry)
            .put(Key::Region(region(A)), &country(A, "US"))
            .put(Key::Region(region(B)), &country(B, "US"))
            .put(Key::Cell(cell.id.clone()), &cell)
            .put(Key::Tenant(tenant.id.clone()), &tenant)
            .put(Key::Placement(cell.id.clone()), &placement)
            .put(Key::Agent(cell.id.clone(), region(A)), &agent_key(&cell, A))
            .put(Key::Agent(cell.id.clone(), region(B)), &agent_key(&cell, B));
        assert!(matches!(store.commit(txn).await, Ok(Commit::Done(_))));
        let sim = Self { store, clock, hand, world: Arc::new(Mutex::new(world)), cell, registry };
        sim.announce(Role::Gate, "gate-a", A).await;
        sim.announce(Role::Gate, "gate-b", B).await;
        sim.announce(Role::Edge, "edge-e", "eu-west-1").await;
        tokio::spawn(sim.clone().run_time());
        tokio::spawn(sim.clone().run_fleet());
        tokio::spawn(sim.clone().run_load());
        sim
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World2> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manual clock follows tokio's.
    async fn run_time(self) {
        loop {
            pause(Duration::from_millis(5)).await;
            self.hand.advance(Duration::from_millis(5));
        }
    }

    /// As a close leaves it: nobody holds the cell, and A is stopped by its agent's word.
    pub(crate) async fn close_by_hand(&self) {
        let key = Key::Placement(self.cell.id.clone());
        let old: Placement = decode(&self.get(key.clone()).await.unwrap().value).unwrap();
        let phase = Phase::Closed { reason: ClosedReason::Operator, for_ms: 0 };
        let new = Placement { epoch: old.epoch.next(), holder: None, phase, ..old };
        let stopped = {
            let mut world = self.world();
            let a = world.servers.get_mut(&region(A)).unwrap();
            (a.checkpoint, a.writable, a.streaming) = (a.flushed, false, false);
            a.flushed += 10;
            let (timeline, checkpoint) = (a.timeline, lsn(a.checkpoint));
            let token = Token {
                world: self.registry.id,
                leader: LeaderFence(domicile_model::Revision(0)),
                attempt: 0,
                moving: domicile_model::MoveId::new(),
                step: "fence".into(),
                cell: self.cell.id.clone(),
            };
            let system_id = "7300".to_owned();
            let handover = HandoverToken {
                cell: self.cell.id.clone(),
                epoch: new.epoch,
                system_id: system_id.clone(),
                timeline,
                checkpoint,
                token,
                seal: None,
            };
            a.fence = Some((handover, true));
            let (flushed, xid) = (a.flushed, a.xid);
            let b = world.servers.get_mut(&region(B)).unwrap();
            (b.flushed, b.xid) = (flushed, xid);
            StoppedAt { system_id, timeline, checkpoint }
        };
        let closed = ClosedCell {
            cell: self.cell.id.clone(),
            moving: domicile_model::MoveId::new(),
            by: "an operator".into(),
            reason: "test".into(),
            at: jiff::Timestamp::now(),
            region: region(A),
            epoch: new.epoch,
            stopped: Some(stopped),
        };
        let txn = Txn::bare().put(key, &new).put(Key::Closed(self.cell.id.clone()), &closed);
        self.store.commit(txn).await.unwrap();
        // Until the fleet has followed.
        pause(Duration::from_millis(100)).await;
    }

    /// The owner's wish for the cell, and what its placement says, as they stand from now on.
    pub(crate) async fn prefer(&self, wish: bool, placed: bool) {
        let key = Key::Placement(self.cell.id.clone());
        let old: Placement = decode(&self.get(key.clone()).await.unwrap().value).unwrap();
        let new = Placement { epoch: old.epoch.next(), availability_first: placed, ..old };
        let cell = Cell { availability_first: wish, ..self.cell.clone() };
        let txn = Txn::bare().put(key, &new).put(Key::Cell(cell.id.clone()), &cell);
        self.store.commit(txn).await.unwrap();
        // Until the fleet has followed.
        pause(Duration::from_millis(100)).await;
    }

    /// From now on so many people must approve whatever may have to be approved.
    pub(crate) async fn ask_approval(&self, need: Need) {
        let fleet = Change::ALL.into_iter().map(|change| (change, need)).collect();
        let approvals = Approvals { fleet, ..Approvals::default() };
        self.store.commit(Txn::bare().put(Key::Approvals, &approvals)).await.unwrap();
    }

    /// Takes the leadership, as a campaign would: the key is made anew.
    pub(crate) async fn take_over(&self, name: &str) -> Leadership {
        let value = format!("{name}-{}", BootId::new()).into_bytes();
        self.store.commit(Txn::bare().delete(Key::Leader)).await.unwrap();
        let put = Op::Put(Key::Leader, value.clone(), None);
        let Ok(Commit::Done(at)) = self.store.commit(Txn::bare().op(put)).await else { panic!("not led") };
        Leadership { fence: LeaderFence(at), value }
    }

    /// An engine on a store that may differ from the simulation's own, sampling as a server would.
    pub(crate) fn engine_on(&self, store: Arc<dyn Store>, options: Options) -> Arc<Engine> {
        let engine = Engine::new(store, Arc::new(FakeDatabases(self.clone())), self.clock.clone(), options);
        let (sampler, sim) = (engine.sampler().clone(), self.clone());
        tokio::spawn(async move {
            for round in 0_u64.. {
                let holder = sim.world().placements.last().and_then(|p| p.holder.clone());
                if let Some(holder) = holder {
                    if round.is_multiple_of(12) {
                        sampler.look(&sim.cell, &holder).await;
                    }
                    sampler.sample(&sim.cell, &holder).await;
                }
                pause(Duration::from_millis(250)).await;
            }
        });
        engine
    }

    pub(crate) fn engine(&self, options: Options) -> Arc<Engine> {
        self.engine_on(Arc::new(self.store.clone()), options)
    }

    pub(crate) async fn get(&self, key: Key) -> Option<Entry> {
        self.store.read(&[key]).await.unwrap().1.pop().flatten()
    }

    /// A region dies or is cut off: nobody reaches its server, its routers lose their leases.
    pub(crate) fn lose_a(&self, alive: bool) {
        let mut world = self.world();
        world.routers_down.insert(router("gate-a"));
        world.witnesses_down.insert(router("gate-a"));
        world.link_cut = true;
        let server = world.servers.get_mut(&region(A)).unwrap();
        server.reachable = false;
        server.writable = alive && server.writable;
    }

    /// It comes back, as its agent leaves it: stopped for others.
    pub(crate) fn return_a(&self) {
        let mut world = self.world();
        world.link_cut = false;
        world.routers_down.clear();
        world.witnesses_down.clear();
        world.servers.get_mut(&region(A)).unwrap().reachable = true;
    }
}

/// What the standby has replayed.
pub(crate) fn lsn(n: u64) -> Lsn {
    Lsn(n)
}
