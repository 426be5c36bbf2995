//! Proofs that a gate lends: while the agent can't reach the registry they keep its database open, and not a moment
//! longer than the gate may answer itself. The agent, etcd, PostgreSQL and the router's own program, all real.

#![expect(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::net::SocketAddr;
use std::time::Duration;

use domicile_agent::AgentConfig;
use domicile_api::agent::{AgentState, Fence};
use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::postgres::{self, Spec, processes};
use domicile_chaos_kit::process::{Process, Spec as Run};
use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::{BootTime, Clock, pause};
use domicile_model::{
    Cell, CellId, ClosedReason, Country, Epoch, LeaderFence, MoveId, Phase, Placement, Region, RegionId,
    Revision, RouterId, SecretRef, Token, WitnessSet, World, WorldId,
};
use domicile_store::codec::decode;
use domicile_store::right::{first_right, take_right};
use domicile_store::{Commit, Key, Store, Txn};
use domicile_store_etcd::EtcdStore;
use rig::CONSTANTS;
use rustix::process::Signal;

const PEER_SECRET: &str = "peer-secret";
const REGION: &str = "us-east-1";
const GATE: &str = "gate-us-east-1";
/// FENCE, and what a loaded machine may take to schedule the kill.
const LIMIT: Duration = Duration::from_millis(CONSTANTS.fence_ms + 250);

/// One region: a primary with its agent, and a gate that is its cell's only witness. The agent's way to the registry is
/// a link that can be cut, the gate's is not.
struct Region1 {
    home: tempfile::TempDir,
    spec: Spec,
    config: AgentConfig,
    agent: Option<tokio::task::JoinHandle<()>>,
    gate: Option<Process>,
    peer: SocketAddr,
    store: EtcdStore,
    world: World,
    etcd: EtcdCluster,
}

impl Region1 {
    async fn new() -> Self {
        let etcd = EtcdCluster::start_linked(1).await.unwrap();
        let direct = format!("etcd://{}", etcd.members()[0].direct());
        let store = EtcdStore::connect(direct.parse().unwrap()).await.unwrap();
        let home = postgres::home().unwrap();
        let spec = Spec { schema: "CREATE TABLE t (id serial PRIMARY KEY);\n".into(), ..Spec::default() };
        let (cell, region) = (CellId::new("c").unwrap(), RegionId::new(REGION).unwrap());
        let mut config = rig::config(home.path(), &spec, &cell, "a", REGION, free_address().unwrap());
        let (dir, s) = (config.data_dir.clone(), spec.clone());
        tokio::task::spawn_blocking(move || postgres::prepare_primary(&dir, &s).unwrap()).await.unwrap();
        let secret = home.path().join("secrets").join("peer");
        std::fs::write(&secret, PEER_SECRET).unwrap();
        let peer = free_address().unwrap();
        config.registry = etcd.url();
        config.gates = vec![peer];
        config.peer_secret = Some(SecretRef::File(secret.display().to_string()));
        let world = World { id: WorldId::new(), reconciled: true, constants: CONSTANTS };
        let country = Country::new("US").unwrap();
        let record = Cell {
            id: cell.clone(),
            primary: region.clone(),
            dr: RegionId::new("us-west-2").unwrap(),
            availability_first: false,
            rpo_ms: Cell::DEFAULT_RPO_MS,
            ingress: std::collections::BTreeMap::new(),
            application: std::collections::BTreeMap::new(),
            mllp: std::collections::BTreeMap::new(),
            database: None,
        };
        let placement = Placement {
            cell: cell.clone(),
            epoch: Epoch::FIRST,
            holder: Some(region.clone()),
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of([RouterId::new(GATE).unwrap()].into()),
        };
        let mut txn = Txn::bare().put(Key::World, &world).put(Key::Cell(cell), &record);
        for id in [region, record.dr.clone()] {
            txn = txn.put(
                Key::Region(id.clone()),
                &Region { id, country, ingress: Vec::new(), edges: Vec::new() },
            );
        }
        let txn = first_right(txn, &placement).unwrap();
        assert!(matches!(store.commit(txn).await.unwrap(), Commit::Done(_)));
        Self { home, spec, config, agent: None, gate: None, peer, store, world, etcd }
    }

    /// The router's program lies beside this package's own: `cargo build -p domicile-router` makes it.
    fn start_gate(&mut self) {
        let program = rig::example().parent().unwrap().parent().unwrap().join("domicile-router");
        assert!(program.is_file(), "{} is missing: cargo build -p domicile-router", program.display());
        let path = |name: &str| self.home.path().join(name).display().to_string();
        let address = || free_address().unwrap().to_string();
        let run = Run::new("gate", program, self.home.path())
            .args(["--role", "gate", "--id", GATE, "--region", REGION])
            .args(["--registry", &format!("etcd://{}", self.etcd.members()[0].direct())])
            .args(["--listen", &address(), "--admin", &address(), "--peer", &self.peer.to_string()])
            .args(["--state", &path("gate-state"), "--access-log", "off"])
            .args(["--peer-secret", &format!("file:{}", path("secrets/peer"))]);
        self.gate = Some(Process::start(run).unwrap());
    }

    /// Whether the gate lends, asked as the agent asks.
    async fn lends(&self) -> bool {
        let body = serde_json::json!({"cell": "c", "region": REGION});
        let url = format!("http://{}/v1/proof", self.peer);
        let asked = reqwest::Client::new().post(url).bearer_auth(PEER_SECRET).json(&body).send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    }

    /// Agent and gate run, the database is open, the gate lends.
    async fn up(&mut self) {
        self.start_gate();
        let config = self.config.clone();
        self.agent = Some(tokio::spawn(async move {
            let ended = domicile_agent::run(config).await;
            panic!("the agent ended: {ended:?}");
        }));
        self.open().await;
        let lends = eventually(Duration::from_secs(20), "the gate lends", || self.lends()).await;
        assert!(lends.is_ok(), "{}", self.gate.as_ref().map(Process::tail).unwrap_or_default());
    }

    async fn open(&self) {
        let open = eventually(Duration::from_secs(30), "it is open", || async { self.write().await.is_ok() });
        let open = open.await;
        assert!(open.is_ok(), "{:#?}", self.state().await);
    }

    async fn write(&self) -> Result<String, String> {
        let (address, spec) = (self.config.address, self.spec.clone());
        let sql = "INSERT INTO t DEFAULT VALUES";
        tokio::task::spawn_blocking(move || {
            postgres::psql(address, "app", &spec.app_password, &spec.database, sql).map_err(|e| e.to_string())
        })
        .await
        .unwrap()
    }

    async fn state(&self) -> Option<AgentState> {
        let url = format!("http://{}/v1/state", self.config.listen);
        reqwest::Client::new().get(url).bearer_auth(rig::SECRET).send().await.ok()?.json().await.ok()
    }

    /// Every write of this long succeeds.
    async fn stays_open(&self, long: Duration) {
        let until = Clock::Machine.now() + long;
        let mut writes = 0;
        while Clock::Machine.now() < until {
            if let Err(why) = self.write().await {
                panic!("after {writes} writes: {why}\n{:#?}", self.state().await);
            }
            writes += 1;
            pause(Duration::from_millis(50)).await;
        }
        eprintln!("{writes} writes in {long:?}");
    }

    /// Nothing of PostgreSQL is left within FENCE of this moment, and nobody gets in afterwards.
    async fn closes_within_fence_of(&self, from: BootTime) {
        let left = (from + LIMIT).since(Clock::Machine.now());
        let closed = eventually(left, "nobody gets in", || async { self.write().await.is_err() }).await;
        assert!(closed.is_ok(), "{:#?}", self.state().await);
        eprintln!("closed after {:?}", Clock::Machine.now().since(from));
        let until = from + LIMIT + Duration::from_secs(2);
        while Clock::Machine.now() < until {
            assert!(self.write().await.is_err(), "{:#?}", self.state().await);
            pause(Duration::from_millis(50)).await;
        }
    }

    fn cut_agent_off(&self) {
        self.etcd.members()[0].client_link().unwrap().cut();
    }

    /// Takes the cell from its region, as a move does.
    async fn close(&self) {
        let key = Key::Placement(self.config.cell.clone());
        let (_, found) = self.store.read(&[key]).await.unwrap();
        let found = found[0].clone().unwrap();
        let old: Placement = decode(&found.value).unwrap();
        let phase = Phase::Closed { reason: ClosedReason::Moving, for_ms: 1_000 };
        let new = Placement { holder: None, phase, ..old.clone() };
        let (txn, _) = take_right(Txn::in_world(&self.world), &old, found.modified, new).unwrap();
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }
}

impl Drop for Region1 {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
        for pid in processes(&self.config.data_dir) {
            domicile_chaos_kit::proc::signal(u32::try_from(pid).unwrap(), Signal::KILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_lends_keeps_the_database_open_without_the_registry_and_it_closes_with_the_gate() {
    let mut region = Region1::new().await;
    region.up().await;
    region.etcd.kill(0);
    region.stays_open(CONSTANTS.fence() * 3).await;
    let state = region.state().await.unwrap();
    assert!(matches!(state.proof, Some((Epoch::FIRST, left)) if left <= CONSTANTS.fence_ms), "{state:?}");
    // It says on what it lives.
    let said = state.problems.join(" ");
    assert!(said.contains("registry") && said.contains("lent by the gate"), "{said}");

    let stopped = Clock::Machine.now();
    region.gate = None;
    region.closes_within_fence_of(stopped).await;
    let said = region.state().await.unwrap().problems.join(" ");
    assert!(said.contains("no gate of us-east-1 lends a proof") && said.contains("start a gate"), "{said}");

    // The gate comes back from its disk, the registry does not: open again.
    region.start_gate();
    region.open().await;
    region.etcd.restart(0).unwrap();
    eventually(Duration::from_secs(20), "the registry proves again", || async {
        region.state().await.is_some_and(|s| s.problems.is_empty())
    })
    .await
    .unwrap();
}

/// A region that was cut off while it held the cell, and does not any more, asks for no proof: that it got none once must
/// not stand against every later move.
#[tokio::test(flavor = "multi_thread")]
async fn who_needs_no_proof_any_more_does_not_tell_that_the_registry_was_silent() {
    let mut region = Region1::new().await;
    region.up().await;
    region.cut_agent_off();
    let told = |what: bool| {
        let region = &region;
        eventually(
            Duration::from_secs(20),
            "the registry's silence is told, or no more",
            move || async move {
                let problems = region.state().await?.problems;
                (problems.iter().any(|p| p.contains("registry")) == what).then_some(())
            },
        )
    };
    told(true).await.unwrap();
    let token = Token {
        world: region.world.id,
        leader: LeaderFence(Revision(1)),
        attempt: 1,
        moving: MoveId::new(),
        step: "fence".into(),
        cell: region.config.cell.clone(),
    };
    let order = Fence { token, epoch: Epoch(2), within_ms: 20_000, force: false };
    let url = format!("http://{}/v1/fence", region.config.listen);
    let asked = reqwest::Client::new().post(url).bearer_auth(rig::SECRET).json(&order).send().await.unwrap();
    assert!(asked.status().is_success(), "{}", asked.text().await.unwrap());
    told(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_gate_the_same_database_closes() {
    let mut region = Region1::new().await;
    region.config.gates.clear();
    region.up().await;
    let stopped = Clock::Machine.now();
    region.etcd.kill(0);
    region.closes_within_fence_of(stopped).await;
    assert!(region.lends().await, "the gate itself goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lives_on_lent_proofs_closes_when_its_cell_is_taken_away() {
    let mut region = Region1::new().await;
    region.up().await;
    region.cut_agent_off();
    region.stays_open(CONSTANTS.fence() * 2).await;
    let closed = Clock::Machine.now();
    region.close().await;
    region.closes_within_fence_of(closed).await;
    assert!(!region.lends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_keeps_lent_proofs_would_stay_open() {
    // The counterpart: lent time is not counted, and the database takes writes that another region's never will see.
    let mut region = Region1::new().await;
    region.config.sabotage.keeps_lent_proofs = true;
    region.up().await;
    region.cut_agent_off();
    region.stays_open(CONSTANTS.fence() * 2).await;
    region.close().await;
    eventually(LIMIT, "the gate stops to lend", || async { !region.lends().await }).await.unwrap();
    pause(LIMIT).await;
    region.write().await.unwrap();
}
