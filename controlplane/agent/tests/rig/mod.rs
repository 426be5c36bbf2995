//! A real PostgreSQL pair with an agent beside each, on the in-process registry.
#![expect(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use domicile_agent::config::{LossExport, Replication, Sabotage};
use domicile_agent::{AgentConfig, run_on};
use domicile_api::agent::{
    AgentState, Consent, ExportLosses, Fence, Fenced, Fork, Progress, ProgressStatus, Promote, Promoted,
    Running, Unfence,
};
use domicile_api::problem::Problem;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::postgres::{self, Spec};
use domicile_chaos_kit::wait::eventually;
use domicile_losses::KeyFile;
use domicile_model::clock::Clock;
use domicile_model::{
    AgentKey, CellId, Country, Epoch, FenceConstants, HandoverToken, JurisdictionId, LeaderFence, MoveClaim,
    MoveId, Phase, Placement, RegionId, Residency, Revision, SecretRef, SigningKey, Tenant, TenantId, Token,
    WitnessSet, World, WorldId,
};
use domicile_store::memory::MemoryStore;
use domicile_store::{Commit, Key, Op, Store, Txn};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) const SECRET: &str = "agent-secret";
pub(crate) const CONSTANTS: FenceConstants =
    FenceConstants { fence_ms: 4_000, renew_ms: 200, drain_ms: 1_000, stop_ms: 500, drift_ppm: 10_000 };

pub(crate) struct Side {
    pub(crate) config: AgentConfig,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Side {
    pub(crate) fn address(&self) -> SocketAddr {
        self.config.address
    }
}

pub(crate) struct Rig {
    pub(crate) home: tempfile::TempDir,
    pub(crate) spec: Spec,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) a: Side,
    pub(crate) b: Side,
    pub(crate) world: World,
    pub(crate) cell: CellId,
    pub(crate) moving: MoveId,
    /// What [`Rig::place`] says comes first.
    pub(crate) availability_first: bool,
    leader: LeaderFence,
    attempt: AtomicU64,
    http: reqwest::Client,
}

pub(crate) fn example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join("agent")
}

/// Who may read what was lost.
pub(crate) fn reader() -> KeyFile {
    static KEY: LazyLock<KeyFile> = LazyLock::new(KeyFile::generate);
    KEY.clone()
}

/// What an agent beside the server in `<home>/<name>` is told.
pub(crate) fn config(
    home: &Path,
    spec: &Spec,
    cell: &CellId,
    name: &str,
    region: &str,
    address: SocketAddr,
) -> AgentConfig {
    let secrets = home.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::create_dir_all(home.join("lost")).unwrap();
    let secret = |name: &str, text: &str| {
        let path = secrets.join(name);
        std::fs::write(&path, text).unwrap();
        SecretRef::File(path.display().to_string())
    };
    AgentConfig {
        cell: cell.clone(),
        region: RegionId::new(region).unwrap(),
        data_dir: home.join(name),
        state_dir: None,
        bin_dir: None,
        listen: free_address().unwrap(),
        address,
        socket_dir: home.join(format!("{name}.run")),
        registry: "memory".into(),
        links: None,
        gates: Vec::new(),
        secret: secret("agent", SECRET),
        peer_secret: None,
        database: spec.database.clone(),
        replication: Replication {
            user: "replicator".into(),
            password: secret("replicator", &spec.replicator_password),
        },
        look_role: "domicile".into(),
        slot: "standby".into(),
        slot_keep_mib: 512,
        rebuild_max_rate_kib: None,
        losses: Some(LossExport {
            directory: home.join("lost"),
            country: Country::new("US").unwrap(),
            recipient: reader().recipient(),
            tenant_column: "tenant_id".into(),
        }),
        sequence_guard: 1_000,
        settings: std::collections::BTreeMap::new(),
        supervisor: Some(vec![example().display().to_string(), "agent-supervise".into()]),
        sabotage: Sabotage::default(),
    }
}

impl Rig {
    /// A pair; A in `us-east-1` holds the cell, B follows. Replication goes to `upstream` where given (a link).
    pub(crate) async fn new(upstream_of_b: Option<SocketAddr>, a_address: Option<SocketAddr>) -> Self {
        let home = postgres::home().unwrap();
        let spec = Spec {
            schema: "CREATE TABLE encounters (tenant_id text, key text, body text, PRIMARY KEY (tenant_id, key));\n\
                     CREATE TABLE keyless (v text);\n\
                     CREATE SEQUENCE numbers; CREATE SEQUENCE cached CACHE 5000; CREATE SEQUENCE short MAXVALUE 60;\n\
                     CREATE SEQUENCE down INCREMENT -2 MINVALUE -100000; CREATE UNLOGGED TABLE scratch (v text);\n"
                .into(),
            ..Spec::default()
        };
        let cell = CellId::new("clinic-1").unwrap();
        let side = |name: &str, region: &str, address: SocketAddr| Side {
            config: config(home.path(), &spec, &cell, name, region, address),
            task: None,
        };
        let a = side("a", "us-east-1", a_address.unwrap_or_else(|| free_address().unwrap()));
        let b = side("b", "us-west-2", free_address().unwrap());
        let (a_dir, b_dir, s) = (a.config.data_dir.clone(), b.config.data_dir.clone(), spec.clone());
        let upstream = upstream_of_b.unwrap_or(a.config.address);
        tokio::task::spawn_blocking(move || {
            postgres::prepare_primary(&a_dir, &s).unwrap();
            postgres::prepare_standby(&a_dir, &b_dir, upstream, "standby", &s).unwrap();
        })
        .await
        .unwrap();
        let store = Arc::new(MemoryStore::new(Clock::Machine));
        let world = World { id: WorldId::new(), reconciled: true, constants: CONSTANTS };
        let moving = MoveId::new();
        let placement = Placement {
            cell: cell.clone(),
            epoch: Epoch(1),
            holder: Some(a.config.region.clone()),
            standby: Some(b.config.region.clone()),
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(std::collections::BTreeSet::new()),
        };
        let txn = Txn::bare()
            .put(Key::World, &world)
            .put(Key::Placement(cell.clone()), &placement)
            .put(Key::Move(cell.clone()), &MoveClaim { moving })
            .op(Op::Put(Key::Leader, b"leader".to_vec(), None));
        let Commit::Done(Revision(revision)) = store.commit(txn).await.unwrap() else { panic!() };
        Self {
            home,
            spec,
            store,
            a,
            b,
            world,
            cell,
            moving,
            availability_first: false,
            leader: LeaderFence(Revision(revision)),
            attempt: AtomicU64::new(1),
            http: reqwest::Client::new(),
        }
    }

    pub(crate) fn start(&mut self, b: bool) {
        let store: Arc<dyn Store> = self.store.clone();
        let side = if b { &mut self.b } else { &mut self.a };
        let config = side.config.clone();
        side.task = Some(tokio::spawn(async move {
            let ended = run_on(config, store).await;
            panic!("the agent ended: {ended:?}");
        }));
    }

    /// Ends an agent as its death would: the supervisor sees its input end.
    pub(crate) async fn kill_agent(&mut self, b: bool) {
        let side = if b { &mut self.b } else { &mut self.a };
        if let Some(task) = side.task.take() {
            task.abort();
            let _ = task.await;
        }
        let dir = side.config.data_dir.clone();
        // Its tasks end one by one; the last of them lets the next agent in.
        let lock = side.config.state_dir().join("lock");
        eventually(Duration::from_secs(10), "the server died with its agent", || async {
            let free = std::fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_ok());
            free && postgres::processes(&dir).is_empty()
        })
        .await
        .unwrap();
    }

    /// Both run, A open, B streaming.
    pub(crate) async fn up(&mut self) {
        self.start(false);
        self.start(true);
        self.running(false, Running::Open).await;
        self.running(true, Running::Standby).await;
        eventually(Duration::from_secs(20), "the standby streams", || async {
            self.state(true).await.is_some_and(|s| s.streaming == Some(true))
        })
        .await
        .unwrap();
        for b in [false, true] {
            let (state, side) = (self.state(b).await.unwrap(), if b { &self.b } else { &self.a });
            self.trust(&side.config.region, state.key.unwrap()).await;
        }
    }

    /// Has the registry believe the agent there by this key.
    pub(crate) async fn trust(&self, region: &RegionId, key: SigningKey) {
        let agent = AgentKey { cell: self.cell.clone(), region: region.clone(), key, by: None };
        let txn = Txn::bare().put(Key::Agent(self.cell.clone(), region.clone()), &agent);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    /// Has the registry know a tenant of the cell.
    pub(crate) async fn tenant(&self, id: &str, allowed: &[&str]) {
        let tenant = Tenant {
            id: TenantId::new(id).unwrap(),
            name: id.into(),
            cell: self.cell.clone(),
            hosts: std::collections::BTreeSet::new(),
            residency: Residency {
                allowed: Some(allowed.iter().map(|j| JurisdictionId::new(j).unwrap()).collect()),
                overrides: std::collections::BTreeMap::new(),
            },
        };
        let txn = Txn::bare().put(Key::Tenant(tenant.id.clone()), &tenant);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    /// Has A read what B never saw, up to the end of the job.
    pub(crate) async fn export(&self, fork: Fork) -> Result<(), String> {
        let order = ExportLosses { token: self.token("losses"), fork };
        let _: Progress = self.call(false, "losses", &order).await.unwrap();
        eventually(Duration::from_secs(20), "the export ends", || async {
            let job = self.state(false).await?.losses.filter(|job| job.token == order.token)?;
            match job.status {
                ProgressStatus::Done => Some(Ok(())),
                ProgressStatus::Running => None,
                ProgressStatus::Failed { why } => Some(Err(why)),
            }
        })
        .await
        .unwrap()
    }

    /// Puts the record of the move into the registry, as far as agents read it: forced, with this consent.
    pub(crate) async fn record(&self, definition: &str, force: bool, accept_loss: Option<u64>) {
        let record = serde_json::json!({"v": 1, "data": {
            "definition": definition,
            "request": {"cell": self.cell, "to": "us-west-2", "force": force, "accept_loss": accept_loss},
        }});
        let put = Op::Put(Key::Workflow(self.moving), serde_json::to_vec(&record).unwrap(), None);
        assert!(matches!(self.store.commit(Txn::bare().op(put)).await.unwrap(), Commit::Done(_)));
    }

    pub(crate) async fn running(&self, b: bool, how: Running) {
        if eventually(Duration::from_secs(20), "the server runs so", || async {
            self.state(b).await.is_some_and(|s| s.running == how)
        })
        .await
        .is_err()
        {
            let side = if b { &self.b } else { &self.a };
            let log = side.config.state_dir().join("postgresql.log");
            panic!(
                "not {how:?}: {:#?}\n{}",
                self.state(b).await,
                std::fs::read_to_string(log).unwrap_or_default()
            );
        }
    }

    pub(crate) fn token(&self, step: &str) -> Token {
        Token {
            world: self.world.id,
            leader: self.leader,
            attempt: self.attempt.fetch_add(1, Ordering::SeqCst),
            moving: self.moving,
            step: step.into(),
            cell: self.cell.clone(),
        }
    }

    pub(crate) async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        b: bool,
        path: &str,
        body: &T,
    ) -> Result<R, Problem> {
        let side = if b { &self.b } else { &self.a };
        let answer = self
            .http
            .post(format!("http://{}/v1/{path}", side.config.listen))
            .bearer_auth(SECRET)
            .json(body)
            .send()
            .await
            .unwrap();
        if answer.status().is_success() {
            Ok(answer.json().await.unwrap())
        } else {
            Err(answer.json().await.unwrap())
        }
    }

    pub(crate) async fn state(&self, b: bool) -> Option<AgentState> {
        let side = if b { &self.b } else { &self.a };
        let url = format!("http://{}/v1/state", side.config.listen);
        self.http.get(url).bearer_auth(SECRET).send().await.ok()?.json().await.ok()
    }

    pub(crate) async fn place(&self, epoch: u64, holder: Option<&str>) {
        let placement = Placement {
            cell: self.cell.clone(),
            epoch: Epoch(epoch),
            holder: holder.map(|r| RegionId::new(r).unwrap()),
            standby: None,
            phase: if holder.is_some() {
                Phase::Serving
            } else {
                Phase::Closed { reason: domicile_model::ClosedReason::Moving, for_ms: 1000 }
            },
            moving: Some(self.moving),
            availability_first: self.availability_first,
            witnesses: WitnessSet::of(std::collections::BTreeSet::new()),
        };
        let txn = Txn::bare().put(Key::Placement(self.cell.clone()), &placement);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    pub(crate) async fn fence(&self, epoch: u64, within_ms: u64, force: bool) -> Result<Fenced, Problem> {
        let order = Fence { token: self.token("fence"), epoch: Epoch(epoch), within_ms, force };
        self.call(false, "fence", &order).await
    }

    pub(crate) async fn unfence(&self) -> Result<AgentState, Problem> {
        self.call(false, "unfence", &Unfence { token: self.token("unfence") }).await
    }

    pub(crate) async fn promote(
        &self,
        epoch: u64,
        handover: Option<HandoverToken>,
    ) -> Result<Promoted, Problem> {
        self.promote_on(epoch, handover, None).await
    }

    pub(crate) async fn promote_on(
        &self,
        epoch: u64,
        handover: Option<HandoverToken>,
        consent: Option<Consent>,
    ) -> Result<Promoted, Problem> {
        let (token, epoch, slot) = (self.token("promote"), Epoch(epoch), "standby".into());
        self.call(true, "promote", &Promote { token, epoch, handover, consent, slot }).await
    }

    pub(crate) async fn sql_at(&self, address: SocketAddr, sql: &str) -> Result<String, String> {
        let (spec, sql) = (self.spec.clone(), sql.to_owned());
        tokio::task::spawn_blocking(move || {
            postgres::psql(address, "app", &spec.app_password, &spec.database, &sql)
                .map_err(|e| e.to_string())
        })
        .await
        .unwrap()
    }

    pub(crate) async fn sql(&self, b: bool, sql: &str) -> Result<String, String> {
        self.sql_at(if b { self.b.address() } else { self.a.address() }, sql).await
    }

    pub(crate) async fn write(&self, b: bool, key: &str) -> Result<String, String> {
        self.sql(b, &format!("INSERT INTO encounters VALUES ('mercy-health', '{key}', 'body of {key}')"))
            .await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for side in [&mut self.a, &mut self.b] {
            if let Some(task) = side.task.take() {
                task.abort();
            }
            // Whatever became of agent and supervisor, nothing of this rig outlives it.
            for pid in postgres::processes(&side.config.data_dir) {
                domicile_chaos_kit::proc::signal(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
            }
        }
    }
}
