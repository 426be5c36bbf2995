//! Routers, applications and a small fleet for the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::process::{Process, Spec};
use domicile_chaos_kit::wait::eventually;
use domicile_model::fleet::HostClaim;
use domicile_model::{
    Category, Cell, CellId, ClosedReason, Country, Epoch, FenceConstants, HostPattern, JurisdictionId, Phase,
    Placement, Region, RegionId, Residency, Revision, RouterId, RouterState, Tenant, TenantId, WitnessSet,
    WitnessState, World, WorldId,
};
use domicile_router::config::Sabotage;
use domicile_store::codec::{decode, encode};
use domicile_store::right::{first_right, take_right};
use domicile_store::{Commit, Key, Op, Store, Txn};
use domicile_store_etcd::EtcdStore;

pub(crate) use crate::origin::Origin;

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_domicile-router");

/// Short, so that tests need not wait long; far apart enough for a busy machine.
pub(crate) const QUICK: FenceConstants =
    FenceConstants { fence_ms: 3_000, renew_ms: 300, drain_ms: 600, stop_ms: 300, drift_ppm: 10_000 };

/// A running router.
pub(crate) struct Router {
    pub(crate) process: Process,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) id: String,
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

impl Router {
    /// Starts the binary and waits until it is ready.
    pub(crate) async fn start(name: &str, dir: &Path, args: &[String]) -> Self {
        let r = Self::launch(name, dir, BIN, args, None);
        r.until_ready().await;
        r
    }

    /// The same router, broken on purpose: see `sabotaged_router_process` in switches.rs.
    pub(crate) async fn start_as(sabotage: Sabotage, name: &str, dir: &Path, args: &[String]) -> Self {
        if sabotage == Sabotage::None {
            return Self::start(name, dir, args).await;
        }
        let exe = std::env::current_exe().unwrap();
        let sabotage = format!("{sabotage:?}");
        let test =
            ["switches::sabotaged_router_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
        let r = Self::launch(name, dir, exe.to_str().unwrap(), args, Some((&test, &sabotage)));
        r.until_ready().await;
        r
    }

    /// With the arguments and the sabotage of a broken one, it is this program itself.
    pub(crate) fn launch(
        name: &str,
        dir: &Path,
        program: &str,
        args: &[String],
        broken: Option<(&[&str], &str)>,
    ) -> Self {
        let value = |flag: &str| {
            let at = args.iter().position(|a| a == flag);
            at.and_then(|i| args.get(i + 1)).and_then(|v| v.parse().ok())
        };
        let listen = value("--listen").unwrap_or_else(|| free_address().unwrap());
        let admin = value("--admin").unwrap_or_else(|| free_address().unwrap());
        let mut all = args.to_vec();
        if value("--listen").is_none() {
            all.extend(["--listen".into(), listen.to_string()]);
        }
        if value("--admin").is_none() {
            all.extend(["--admin".into(), admin.to_string()]);
        }
        let spec = Spec::new(name, program, dir);
        let spec = match broken {
            None => spec.args(&all),
            Some((before, sabotage)) => spec
                .args(before)
                .env("DOMICILE_TEST_ARGS", all.join("\n"))
                .env("DOMICILE_TEST_SABOTAGE", sabotage),
        };
        Self { process: Process::start(spec).unwrap(), listen, admin, id: name.to_owned() }
    }

    pub(crate) async fn until_ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        let client = client();
        self.process
            .until(SOON, "it is ready", || {
                let ask = client.get(&url).send();
                async move { ask.await.is_ok_and(|a| a.status() == 200) }
            })
            .await
            .unwrap();
        self.process.until_listening(SOON, self.listen).await.unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let answer = client().get(format!("http://{}{path}", self.admin)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until this stands in its numbers: what a client has seen is counted a moment later.
    pub(crate) async fn counts(&self, line: &str) {
        let there = eventually(SOON, line, || async { self.admin("/metrics").await.1.contains(line) }).await;
        if let Err(error) = there {
            panic!("{error}\n{}", self.admin("/metrics").await.1);
        }
    }

    /// The most memory that it has ever had resident, in KiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
    }

    /// GET for a host.
    pub(crate) async fn get(&self, host: &str, path: &str) -> reqwest::Result<reqwest::Response> {
        client().get(self.url(path)).header("host", host).send().await
    }
}

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

pub(crate) fn cell() -> CellId {
    CellId::new("mercy").unwrap()
}

pub(crate) const HOST: &str = "mercy.example.com";

/// The tenant, which keeps everything in the US but, where TLS may end, also what is named here.
fn mercy(tls: Option<&[&str]>) -> Tenant {
    let names = |all: &[&str]| all.iter().map(|n| JurisdictionId::new(n).unwrap()).collect::<BTreeSet<_>>();
    Tenant {
        id: TenantId::new("mercy").unwrap(),
        name: "Mercy".into(),
        cell: cell(),
        hosts: BTreeSet::from([HostPattern::new(HOST).unwrap()]),
        residency: Residency {
            allowed: Some(names(&["US"])),
            overrides: tls.map(|all| (Category::Tls, names(all))).into_iter().collect(),
        },
    }
}

/// An etcd with a fleet of one cell in it, and what stands around it: an application and a gate in each of two
/// regions, and an edge in a third.
pub(crate) struct Fleet {
    pub(crate) etcd: EtcdCluster,
    pub(crate) store: EtcdStore,
    pub(crate) world: World,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) east: Origin,
    pub(crate) west: Origin,
    /// Application and ingress of a region that the tenant's policy forbids: what it sees has left the country.
    pub(crate) abroad: Origin,
    pub(crate) gates: BTreeMap<&'static str, SocketAddr>,
    /// Where the edges of the regions inside the policy take TLS, if a test starts some.
    pub(crate) inside: BTreeMap<&'static str, SocketAddr>,
}

impl Fleet {
    pub(crate) async fn new() -> Self {
        let (east, west) = (Origin::start("east").await, Origin::start("west").await);
        let (to_east, to_west) = (east.addr, west.addr);
        Self::of(east, west, to_east, to_west).await
    }

    /// With other applications at these addresses.
    pub(crate) async fn with(to_east: SocketAddr, to_west: SocketAddr) -> Self {
        Self::of(Origin::start("east").await, Origin::start("west").await, to_east, to_west).await
    }

    async fn of(east: Origin, west: Origin, to_east: SocketAddr, to_west: SocketAddr) -> Self {
        let etcd = EtcdCluster::start_linked(1).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
        let direct = format!("etcd://{}", etcd.members()[0].direct());
        let store = EtcdStore::connect(direct.parse().unwrap()).await.unwrap();
        let abroad = Origin::start("abroad").await;
        let world = World { id: WorldId::new(), reconciled: true, constants: QUICK };
        let each = || ["us-east-1", "us-west-2"].into_iter().map(|r| (r, free_address().unwrap()));
        let (gates, inside): (BTreeMap<_, _>, BTreeMap<_, _>) = (each().collect(), each().collect());
        let mut txn = Txn::bare().op(Op::Put(Key::World, encode(&world), None));
        for (id, country) in [("us-east-1", "US"), ("us-west-2", "US"), ("eu-west-1", "IE")] {
            let ingress = vec![gates.get(id).copied().unwrap_or(abroad.addr)];
            let edges = inside.get(id).copied().into_iter().collect();
            let id = region(id);
            let country = Country::new(country).unwrap();
            let record = Region { id: id.clone(), country, ingress, edges };
            txn = txn.put(Key::Region(id), &record);
        }
        let record = Cell {
            id: cell(),
            primary: region("us-east-1"),
            dr: region("us-west-2"),
            availability_first: false,
            rpo_ms: Cell::DEFAULT_RPO_MS,
            ingress: BTreeMap::new(),
            application: BTreeMap::from([
                (region("us-east-1"), vec![to_east]),
                (region("us-west-2"), vec![to_west]),
                (region("eu-west-1"), vec![abroad.addr]),
            ]),
            mllp: BTreeMap::from([
                (region("us-east-1"), vec![to_east]),
                (region("us-west-2"), vec![to_west]),
            ]),
            database: None,
        };
        txn = txn.put(Key::Cell(cell()), &record);
        let record = mercy(Some(&["US", "IE"]));
        let claim = HostClaim { tenant: record.id.clone() };
        txn = txn.put(Key::Host(HostPattern::new(HOST).unwrap()), &claim);
        txn = txn.put(Key::Tenant(record.id.clone()), &record);
        let witnesses = ["gate-us-east-1", "gate-us-west-2", "edge"].map(|w| RouterId::new(w).unwrap());
        let placement = Placement {
            cell: cell(),
            epoch: Epoch::FIRST,
            holder: Some(region("us-east-1")),
            standby: Some(region("us-west-2")),
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(witnesses.into()),
        };
        let txn = first_right(txn, &placement).unwrap();
        assert!(matches!(store.commit(txn).await.unwrap(), Commit::Done(_)));
        Self { etcd, store, world, dir, east, west, abroad, gates, inside }
    }

    pub(crate) fn args(&self, role: &str, id: &str, region: &str) -> Vec<String> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut args: Vec<String> = [
            "--role",
            role,
            "--id",
            id,
            "--region",
            region,
            "--registry",
            &self.etcd.url(),
            "--peer",
            &free_address().unwrap().to_string(),
            "--state",
            &path(id),
            "--access-log",
            &path(&format!("{id}.log")),
            "--trusted-networks",
            "127.0.0.0/8",
            "--peer-secret",
            &format!("file:{}", path("secret")),
            "--drain-ms",
            "50",
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        if let Some(listen) = self.gates.get(region).filter(|_| role == "gate") {
            args.extend(["--listen".into(), listen.to_string()]);
        }
        args
    }

    pub(crate) async fn gate(&self, region: &str) -> Router {
        self.gate_as(Sabotage::None, region).await
    }

    pub(crate) async fn edge(&self) -> Router {
        self.edge_as(Sabotage::None).await
    }

    /// A gate, broken on purpose.
    pub(crate) async fn gate_as(&self, sabotage: Sabotage, region: &str) -> Router {
        let id = format!("gate-{region}");
        Router::start_as(sabotage, &id, self.dir.path(), &self.args("gate", &id, region)).await
    }

    /// An edge, broken on purpose.
    pub(crate) async fn edge_as(&self, sabotage: Sabotage) -> Router {
        Router::start_as(sabotage, "edge", self.dir.path(), &self.args("edge", "edge", "eu-west-1")).await
    }

    /// An edge that sees the registry through a link of its own.
    pub(crate) async fn linked_edge_as(&self, sabotage: Sabotage) -> (Router, Link) {
        let link = Link::start(self.etcd.members()[0].direct()).await.unwrap();
        let mut args = self.args("edge", "edge", "eu-west-1");
        let at = args.iter().position(|a| a == "--registry").unwrap();
        args[at + 1] = format!("etcd://{}", link.addr());
        (Router::start_as(sabotage, "edge", self.dir.path(), &args).await, link)
    }

    pub(crate) async fn placement(&self) -> (Placement, Revision) {
        let (_, entries) = self.store.read(&[Key::Placement(cell())]).await.unwrap();
        let entry = entries.into_iter().next().flatten().unwrap();
        (decode(&entry.value).unwrap(), entry.modified)
    }

    /// Changes where the tenant's TLS may end. None: only where everything else is, in the US.
    pub(crate) async fn tls_may_end(&self, tls: Option<&[&str]>) {
        let record = mercy(tls);
        let txn = Txn::in_world(&self.world).put(Key::Tenant(record.id.clone()), &record);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    /// One more tenant in the cell, with the same policy.
    pub(crate) async fn tenant(&self, id: &str, host: &str) {
        let claim = HostClaim { tenant: TenantId::new(id).unwrap() };
        let txn = Txn::in_world(&self.world).put(Key::Host(HostPattern::new(host).unwrap()), &claim);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
        self.tls_of(id, host, &["US", "IE"]).await;
    }

    /// Where that tenant lets TLS end.
    pub(crate) async fn tls_of(&self, id: &str, host: &str, tls: &[&str]) {
        let hosts = BTreeSet::from([HostPattern::new(host).unwrap()]);
        let record = Tenant { id: TenantId::new(id).unwrap(), name: id.into(), hosts, ..mercy(Some(tls)) };
        let txn = Txn::in_world(&self.world).put(Key::Tenant(record.id.clone()), &record);
        assert!(matches!(self.store.commit(txn).await.unwrap(), Commit::Done(_)));
    }

    /// Changes the placement as the control plane does; the revision of the change.
    pub(crate) async fn place(&self, change: impl FnOnce(&mut Placement)) -> Revision {
        let (old, seen) = self.placement().await;
        let mut new = old.clone();
        change(&mut new);
        let (txn, _) = take_right(Txn::in_world(&self.world), &old, seen, new).unwrap();
        match self.store.commit(txn).await.unwrap() {
            Commit::Done(revision) => revision,
            refused @ Commit::Refused { .. } => panic!("{refused:?}"),
        }
    }

    pub(crate) async fn hold(&self, for_ms: u64) -> Revision {
        self.place(|p| p.phase = Phase::Holding { for_ms }).await
    }

    pub(crate) async fn close(&self, for_ms: u64) -> Revision {
        self.place(|p| {
            p.phase = Phase::Closed { reason: ClosedReason::Moving, for_ms };
            p.holder = None;
        })
        .await
    }

    pub(crate) async fn serve(&self, by: &str) -> Revision {
        let by = region(by);
        self.place(|p| {
            p.phase = Phase::Serving;
            p.holder = Some(by);
        })
        .await
    }

    pub(crate) async fn router_state(&self, id: &str) -> Option<RouterState> {
        let key = Key::Router(RouterId::new(id).unwrap());
        let (_, entries) = self.store.read(&[key]).await.unwrap();
        entries.into_iter().next().flatten().map(|e| decode(&e.value).unwrap())
    }

    pub(crate) async fn witness_state(&self, id: &str) -> Option<WitnessState> {
        let key = Key::Witness(RouterId::new(id).unwrap());
        let (_, entries) = self.store.read(&[key]).await.unwrap();
        entries.into_iter().next().flatten().map(|e| decode(&e.value).unwrap())
    }

    /// Waits until every witness has said where it answers, and the tables have heard of it.
    pub(crate) async fn witnesses_known(&self) {
        for id in ["gate-us-east-1", "gate-us-west-2", "edge"] {
            eventually(SOON, "every witness has said where it answers", || async {
                self.witness_state(id).await.is_some()
            })
            .await
            .unwrap();
        }
        domicile_model::clock::pause(Duration::from_millis(500)).await;
    }

    /// Waits until these routers have acknowledged a revision with nothing in flight.
    pub(crate) async fn acknowledged(&self, ids: &[&str], revision: Revision) {
        for id in ids {
            eventually(SOON, &format!("{id} acknowledges {revision} with nothing in flight"), || async {
                self.router_state(id).await.is_some_and(|s| s.applied >= revision && s.busy.is_empty())
            })
            .await
            .unwrap();
        }
    }
}

/// Waits until a router answers a GET with this status.
pub(crate) async fn until_status(router: &Router, path: &str, status: u16) {
    eventually(SOON, &format!("{} answers {status} to {path}", router.id), || async {
        router.get(HOST, path).await.is_ok_and(|a| a.status() == status)
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", router.process.tail()));
}
