//! Control planes on the in-process store, and databases that look healthy and do nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_api::agent::{Consent, Fork, LossReport};
use domicile_api::problem::Problem;
use domicile_engine::provider::{
    Databases, EffectError, Observation, PrimarySample, Promoted, Sample, StandbySample,
};
use domicile_model::clock::{Clock, pause};
use domicile_model::links::AddressMap;
use domicile_model::token::Lsn;
use domicile_model::{
    BootId, Cell, Epoch, FenceConstants, HandoverToken, MoveId, RegionId, Revision, Role, RouterId,
    RouterState, Token, World,
};
use domicile_server::serve::options;
use domicile_server::{CancellationToken, Config, Limits, Operators, Server};
use domicile_store::memory::MemoryStore;
use domicile_store::{Key, Store, Txn};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const TOKEN: &str = "a-token-of-ann";

/// A fleet with one cell that has a database pair.
pub(crate) const FLEET: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }

[cells.pool]
primary = "us-east-1"
dr = "us-west-2"

[cells.pool.database]
name = "clinic"
user = "domicile"
password = "env:NOT_READ_HERE"
us-east-1 = { address = "10.0.1.20:5432", agent = "10.0.1.20:7420" }
us-west-2 = { address = "10.1.1.20:5432", agent = "10.1.1.20:7420" }

[tenants.mercy]
cell = "pool"
hosts = ["mercy.example.com"]
residency = ["US"]

[tenants.clinic]
cell = "pool"
"#;

/// Servers that look as before a planned move, and refuse every effect.
pub(crate) struct Idle {
    /// They let a move begin, and then refuse its way back too: it gets stuck.
    pub(crate) obstinate: bool,
}

fn refuse<T>() -> Result<T, EffectError> {
    Err(EffectError::Refused("this server does nothing".into()))
}

/// What every agent of these tests signs with.
pub(crate) fn shown_key() -> domicile_model::SigningKey {
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let key: domicile_seal::keys::PublicKey = public.parse().unwrap();
    domicile_seal::handover::published(&key)
}

#[async_trait]
impl Databases for Idle {
    async fn observe(&self, cell: &Cell, region: &RegionId) -> Observation {
        let primary = *region == cell.primary;
        Observation {
            reachable: true,
            writable: Some(primary),
            standby: Some(!primary),
            system_id: Some("7".into()),
            timeline: Some(1),
            flushed: primary.then_some(Lsn(100)),
            replayed: (!primary).then_some(Lsn(100)),
            streaming: Some(true),
            key: Some(shown_key()),
            fence_level: Some(domicile_model::FenceLevel::Supervisor),
            beside: Some(domicile_engine::provider::Beside {
                jobs: Some(Vec::new()),
                slot_kept_bytes: Some(5),
                slot_limit_bytes: Some(9),
                ..Default::default()
            }),
            retention: Some(domicile_api::protection::Retention {
                limit_bytes: Some(9),
                ..Default::default()
            }),
            loss_slot: Some(true),
            export: Some(domicile_api::agent::ExportPlace {
                country: "US".to_owned().try_into().unwrap(),
                recipient: "age1".into(),
                problem: None,
            }),
            prepared_transactions: Some(0),
            can_rewind: Some(true),
            ..Observation::default()
        }
    }
    async fn settle(&self, _: &Cell, _: &RegionId, _: &Token) -> Result<(), EffectError> {
        if self.obstinate { Ok(()) } else { refuse() }
    }
    async fn fence(
        &self,
        _: &Cell,
        _: &RegionId,
        _: &Token,
        _: Epoch,
        _: Duration,
        _: bool,
    ) -> Result<(HandoverToken, bool), EffectError> {
        refuse()
    }
    async fn unfence(&self, _: &Cell, _: &RegionId, _: &Token) -> Result<(), EffectError> {
        if self.obstinate { refuse() } else { Ok(()) }
    }
    async fn accepts(
        &self,
        _: &Cell,
        _: &RegionId,
        _: &Token,
        _: Epoch,
        _: &HandoverToken,
    ) -> Result<(), EffectError> {
        refuse()
    }
    async fn promote(
        &self,
        _: &Cell,
        _: &RegionId,
        _: &Token,
        _: Epoch,
        _: Option<&HandoverToken>,
        _: Option<&Consent>,
    ) -> Result<Promoted, EffectError> {
        refuse()
    }
    async fn verify(&self, _: &Cell, _: &RegionId, _: &Token) -> Result<(), EffectError> {
        refuse()
    }
    async fn follow(
        &self,
        _: &Cell,
        _: &RegionId,
        _: &RegionId,
        _: Option<Fork>,
        _: &Token,
    ) -> Result<(), EffectError> {
        refuse()
    }
    async fn export_losses(&self, _: &Cell, _: &RegionId, _: Fork, _: &Token) -> Result<(), EffectError> {
        refuse()
    }
    async fn losses(&self, _: &Cell, _: &RegionId, id: MoveId) -> Result<Option<LossReport>, EffectError> {
        let part = |tenant: &str| json!({ "tenant": tenant, "file": format!("{tenant}.jsonl.age"), "rows": 2, "bytes": 900, "sha256": "ab" });
        let report = json!({
            "move": id, "fork": { "parent": 1, "at": "0/9" }, "transactions": [], "own": 0, "blind_spots": [],
            "rows_at": "us-east-1:/srv/lost/pool/1", "parts": [part("clinic")],
        });
        Ok(self.obstinate.then(|| serde_json::from_value(report).unwrap()))
    }
    async fn sample(&self, _: &Cell, _: &RegionId) -> Sample {
        let asked = Clock::Machine.now();
        Sample {
            primary: Some(PrimarySample {
                asked,
                flushed: Lsn(100),
                next_xid: 10,
                oldest_xid: 10,
                streaming: true,
            }),
            standby: Some(StandbySample {
                asked,
                replayed: Lsn(100),
                ended_below: Some(10),
                data_age_ms: Some(5),
                streaming: true,
            }),
        }
    }
}

/// A registry, and a task that lets its leases run out.
pub(crate) fn registry() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new(Clock::Machine));
    let ticking = Arc::downgrade(&store);
    tokio::spawn(async move {
        while let Some(store) = ticking.upgrade() {
            store.tick();
            drop(store);
            pause(Duration::from_millis(20)).await;
        }
    });
    store
}

/// A line of the operators' file.
pub(crate) fn operator(name: &str, token: &str) -> String {
    format!("{name} {}\n", hex::encode(Sha256::digest(token.as_bytes())))
}

/// A line with roles.
pub(crate) fn with_roles(name: &str, token: &str, roles: &str) -> String {
    format!("{} {roles}\n", operator(name, token).trim())
}

/// What a control plane may have of its own.
#[derive(Default)]
pub(crate) struct Special {
    pub(crate) limits: Limits,
    /// The file of operators that it follows.
    pub(crate) tokens: Option<PathBuf>,
    /// Its databases: see [`Idle`].
    pub(crate) obstinate: bool,
    /// What ordinary changes leave of the registry, in bytes.
    pub(crate) reserve: Option<u64>,
    /// How the registry's room is kept.
    pub(crate) room: domicile_server::room::Settings,
    /// Its copy of the archive.
    pub(crate) archive: Option<domicile_server::archive::Settings>,
    /// Its history.
    pub(crate) facts: Option<domicile_server::facts::Settings>,
}

/// A running control plane.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Plane {
    pub(crate) async fn start(name: &str, store: Arc<MemoryStore>) -> Self {
        Self::start_with(name, store, Special::default()).await
    }

    /// One that is special.
    pub(crate) async fn start_with(name: &str, store: Arc<MemoryStore>, special: Special) -> Self {
        let Special { limits, tokens, obstinate, reserve, room, archive, facts } = special;
        let operators = match &tokens {
            Some(file) => Operators::load(file).unwrap(),
            None => Operators::parse(Path::new("tokens"), &operator("ann", TOKEN)).unwrap(),
        };
        let lease = Duration::from_secs(2);
        let mut options = options(name, lease, Duration::from_secs(2), &FenceConstants::DEFAULT);
        // A database that refuses goes on refusing: what becomes of the move is seen sooner.
        options.step = Duration::from_secs(1);
        options.reserve = reserve;
        options.backoff = (Duration::from_millis(10), Duration::from_millis(50));
        let config = Config {
            name: name.into(),
            region: "us-east-1".parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            operators,
            tokens,
            limits,
            constants: FenceConstants::DEFAULT,
            lease,
            links: AddressMap::default(),
            options,
            room,
            archive,
            facts,
        };
        let server = Server::bind(config, store, Arc::new(Idle { obstinate }), Clock::Machine).await.unwrap();
        let address = server.address();
        let cancel = CancellationToken::new();
        let told = cancel.clone();
        let task = tokio::spawn(async move { server.run(told).await });
        Self { address, cancel, task }
    }

    /// As SIGTERM does.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }

    /// As SIGKILL does, as far as a task can: nothing is resigned.
    pub(crate) fn kill(self) {
        self.task.abort();
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(reqwest::Method::GET, path, None, Some(TOKEN), &[]).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(reqwest::Method::POST, path, Some(body), Some(TOKEN), &[]).await
    }

    pub(crate) async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&str>,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.request(method, format!("http://{}{path}", self.address));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn leader(&self) -> Option<String> {
        let (status, body) = self.get("/v1/status").await;
        (status == 200).then(|| body["leader"].as_str().map(str::to_owned)).flatten()
    }

    /// Until somebody leads, as this one sees it; then who.
    pub(crate) async fn led(&self) -> String {
        domicile_chaos_kit::wait::eventually(Duration::from_secs(15), "somebody leads", || self.leader())
            .await
            .unwrap()
    }

    /// Until every check of a move passes.
    pub(crate) async fn plannable(&self, wanted: &Value) {
        let ready = || async {
            let (_, plan) = self.post("/v1/moves/plan", wanted).await;
            let checks = plan["checks"].as_array().cloned().unwrap_or_default();
            !checks.is_empty()
                && !checks.iter().any(|c| c["verdict"] == "failed" || c["verdict"] == "unknown")
        };
        let what = "every check of the plan passes";
        domicile_chaos_kit::wait::eventually(Duration::from_secs(10), what, ready).await.unwrap();
    }

    /// A stream of events; none if it is refused.
    pub(crate) async fn events(&self, id: &str, token: &str) -> Option<reqwest::Response> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = client.get(format!("http://{}/v1/moves/{id}/events", self.address)).bearer_auth(token);
        asked.send().await.unwrap().error_for_status().ok()
    }

    pub(crate) async fn apply(&self, text: &str) -> (u16, Value) {
        self.post("/v1/apply", &json!({ "file": "regions.toml", "text": text })).await
    }
}

pub(crate) fn problem(body: &Value) -> Problem {
    serde_json::from_value(body.clone()).unwrap_or_else(|e| panic!("no problem ({e}): {body}"))
}

/// Gates of both regions, which have applied everything.
pub(crate) async fn gates(store: &MemoryStore, world: &World) {
    for region in ["us-east-1", "us-west-2"] {
        let id = RouterId::new(&format!("gate-{region}")).unwrap();
        let state = RouterState {
            id: id.clone(),
            role: Role::Gate,
            region: region.parse().unwrap(),
            boot: BootId::new(),
            world: world.id,
            applied: Revision(1_000_000),
            busy: std::collections::BTreeSet::new(),
            listen: "127.0.0.1:1".parse().unwrap(),
        };
        store.commit(Txn::in_world(world).put(Key::Router(id), &state)).await.unwrap();
    }
}
