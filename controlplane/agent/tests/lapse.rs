//! Without a proof nothing stays open: agent as a process of its own, on a real etcd.

#![expect(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domicile_api::agent::Running;
use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::postgres::{self, Spec, processes};
use domicile_chaos_kit::process::{Process, Spec as Run};
use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::{Clock, pause};
use domicile_model::{
    CellId, Epoch, FenceLevel, MoveClaim, MoveId, Phase, Placement, RegionId, WitnessSet, World, WorldId,
};
use domicile_store::{Commit, Key, Store, Txn};
use domicile_store_etcd::{EtcdConfig, EtcdStore};
use rig::CONSTANTS;
use rustix::process::Signal;

struct Lone {
    home: tempfile::TempDir,
    spec: Spec,
    data: PathBuf,
    address: SocketAddr,
    config: PathBuf,
    store: EtcdStore,
    agent: Option<Process>,
    etcd: EtcdCluster,
}

impl Lone {
    async fn new() -> Self {
        let etcd = EtcdCluster::start(1).await.unwrap();
        let config: EtcdConfig = etcd.url().parse().unwrap();
        let store = EtcdStore::connect(config).await.unwrap();
        let home = postgres::home().unwrap();
        let data = home.path().join("a");
        let spec = Spec { schema: "CREATE TABLE t (id serial PRIMARY KEY);\n".into(), ..Spec::default() };
        let (dir, s) = (data.clone(), spec.clone());
        tokio::task::spawn_blocking(move || postgres::prepare_primary(&dir, &s).unwrap()).await.unwrap();
        let secrets = home.path().join("secret");
        std::fs::write(&secrets, rig::SECRET).unwrap();
        let (address, listen) = (free_address().unwrap(), free_address().unwrap());
        let path = home.path().join("agent.toml");
        let shown = |p: &Path| p.display().to_string();
        let text = format!(
            "cell = \"c\"\nregion = \"us-east-1\"\ndata_dir = \"{}\"\nlisten = \"{listen}\"\naddress = \"{address}\"\n\
             socket_dir = \"{}\"\nregistry = \"{}\"\nsecret = \"file:{}\"\ndatabase = \"clinic\"\n\
             replication = {{ user = \"replicator\", password = \"file:{}\" }}\n",
            shown(&data),
            shown(&home.path().join("run")),
            etcd.url(),
            shown(&secrets),
            shown(&secrets),
        );
        std::fs::write(&path, text).unwrap();
        let cell = CellId::new("c").unwrap();
        let placement = Placement {
            cell: cell.clone(),
            epoch: Epoch(1),
            holder: Some(RegionId::new("us-east-1").unwrap()),
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(std::collections::BTreeSet::new()),
        };
        let txn = Txn::bare()
            .put(Key::World, &World { id: WorldId::new(), reconciled: true, constants: CONSTANTS })
            .put(Key::Move(cell.clone()), &MoveClaim { moving: MoveId::new() })
            .put(Key::Placement(cell), &placement);
        assert!(matches!(store.commit(txn).await.unwrap(), Commit::Done(_)));
        Self { home, spec, data, address, config: path, store, agent: None, etcd }
    }

    fn start(&mut self) {
        let spec = Run::new("agent", rig::example(), self.home.path()).arg(&self.config);
        self.agent = Some(Process::start(spec).unwrap());
    }

    async fn write(&self) -> Result<String, String> {
        let (address, spec) = (self.address, self.spec.clone());
        let sql = "INSERT INTO t DEFAULT VALUES";
        tokio::task::spawn_blocking(move || {
            postgres::psql(address, "app", &spec.app_password, &spec.database, sql).map_err(|e| e.to_string())
        })
        .await
        .unwrap()
    }

    async fn open(&self) {
        let opened =
            eventually(Duration::from_secs(30), "it is open", || async { self.write().await.is_ok() }).await;
        assert!(opened.is_ok(), "{}", self.agent.as_ref().map(Process::tail).unwrap_or_default());
    }

    /// The supervisor.
    fn supervisor(&self) -> u32 {
        process(&["agent-supervise", &self.data.to_string_lossy()])
    }

    async fn dead_within(&self, limit: Duration) {
        let clock = Clock::Machine;
        let from = clock.now();
        eventually(limit, "no process of PostgreSQL is left", || async { processes(&self.data).is_empty() })
            .await
            .unwrap();
        eprintln!("dead after {:?}", clock.now().since(from));
    }
}

/// The process with these words in its command line.
fn process(words: &[&str]) -> u32 {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let fits = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        words.iter().all(|w| line.contains(w))
    };
    all.filter_map(|e| e.file_name().to_str()?.parse().ok()).find(|pid| fits(*pid)).unwrap()
}

impl Drop for Lone {
    fn drop(&mut self) {
        drop(self.agent.take());
        for pid in processes(&self.data) {
            domicile_chaos_kit::proc::signal(u32::try_from(pid).unwrap(), Signal::KILL);
        }
    }
}

/// FENCE, and what a loaded machine may take to schedule the kill.
const LIMIT: Duration = Duration::from_millis(CONSTANTS.fence_ms + 250);

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_does_not_keep_its_database_open() {
    let mut lone = Lone::new().await;
    lone.start();
    lone.open().await;
    // Only the agent, not its whole process group: its supervisor goes on.
    let agent = process(&["examples/agent", &lone.config.to_string_lossy()]);
    domicile_chaos_kit::proc::stop(agent);
    lone.dead_within(LIMIT).await;
    domicile_chaos_kit::proc::signal(agent, Signal::CONT);
    lone.open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_supervisor_does_not_either_and_a_returning_primary_lets_nobody_in() {
    let mut lone = Lone::new().await;
    lone.start();
    lone.open().await;
    // The registry goes and the supervisor is stopped: the agent itself ends it.
    let supervisor = lone.supervisor();
    domicile_chaos_kit::proc::stop(supervisor);
    lone.etcd.kill(0);
    let clock = Clock::Machine;
    let cut = clock.now();
    eventually(LIMIT, "nobody gets in", || async { lone.write().await.is_err() }).await.unwrap();
    assert!(clock.now().since(cut) < LIMIT);
    // It comes back for itself alone. Whatever way is tried, while the registry is away no write goes in: over TCP,
    // again and again, as the superuser, and over the socket as another user of the machine.
    let until = clock.now() + Duration::from_secs(4);
    let socket = lone.home.path().join("run");
    while clock.now() < until {
        assert!(lone.write().await.is_err());
        let (address, socket) = (lone.address, socket.clone());
        let tried = tokio::task::spawn_blocking(move || {
            let superuser =
                postgres::psql(address, "postgres", "x", "clinic", "INSERT INTO t DEFAULT VALUES");
            let mut local = postgres::as_server_user(&postgres::bin_dir().unwrap().join("psql"));
            local
                .args([
                    "-XAtq",
                    "-w",
                    "-U",
                    "app",
                    "-d",
                    "clinic",
                    "-c",
                    "INSERT INTO t DEFAULT VALUES",
                    "-h",
                ])
                .arg(socket)
                .args(["-p", &address.port().to_string()]);
            superuser.is_ok() || local.current_dir("/").output().unwrap().status.success()
        })
        .await
        .unwrap();
        assert!(!tried);
        pause(Duration::from_millis(100)).await;
    }
    // The agent dies: the database with it.
    lone.agent = None;
    lone.dead_within(Duration::from_secs(5)).await;
    // A new one, registry still away: private.
    lone.start();
    pause(Duration::from_secs(2)).await;
    assert!(lone.write().await.is_err());
    lone.etcd.restart(0).unwrap();
    lone.open().await;
    let held = lone.store.read(&[Key::World]).await.unwrap();
    assert!(held.1[0].is_some());
}

/// Where nobody waits for orphans at once, PostgreSQL takes a killed server for a running one, and each lapse cost a
/// failed start and a rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_files_of_a_killed_server_do_not_keep_the_next_one_from_starting() {
    let mut lone = Lone::new().await;
    let mut killed = postgres::as_server_user(Path::new("/bin/true")).spawn().unwrap();
    let stat = format!("/proc/{}/stat", killed.id());
    eventually(Duration::from_secs(5), "it is a zombie", || async {
        std::fs::read_to_string(&stat).is_ok_and(|s| s.contains(") Z "))
    })
    .await
    .unwrap();
    let (socket, port) = (lone.home.path().join("run"), lone.address.port());
    std::fs::create_dir(&socket).unwrap();
    let words = |dir: &Path| format!("{}\n{}\n0\n{port}\n{}\n", killed.id(), dir.display(), socket.display());
    std::fs::write(lone.data.join("postmaster.pid"), words(&lone.data)).unwrap();
    std::fs::write(socket.join(format!(".s.PGSQL.{port}.lock")), words(&lone.data)).unwrap();
    // Somebody else's stays.
    let other = socket.join(format!(".s.PGSQL.{}.lock", free_address().unwrap().port()));
    std::fs::write(&other, words(lone.home.path())).unwrap();
    lone.start();
    lone.open().await;
    let said = lone.agent.as_ref().map(Process::tail).unwrap_or_default();
    assert!(!said.contains("ended by itself"), "{said}");
    assert!(other.exists());
    killed.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_trusts_itself_would_stay_open() {
    // The counterpart: without the rule, the cut-off database goes on taking writes.
    let mut rig = rig::Rig::new(None, None).await;
    rig.a.config.sabotage.trusts_itself = true;
    rig.up().await;
    rig.store.outage(true);
    pause(LIMIT).await;
    rig.write(false, "unsafe").await.unwrap();
    // What would stop its direct writers is looked up, not claimed: here nothing would.
    let told = |state: domicile_api::agent::AgentState| state.fence_level;
    assert_eq!(rig.state(false).await.and_then(told), Some(FenceLevel::GateOnly));
    // The standby is open for reading only, and would be a primary under its supervisor.
    assert_eq!(rig.state(true).await.and_then(told), Some(FenceLevel::Supervisor));
}

/// Writes again and again for two FENCEs.
async fn goes_on(rig: &rig::Rig, clock: &Clock, what: &str) {
    let from = clock.now();
    let mut written = 0;
    while clock.now().since(from) < CONSTANTS.fence() * 2 {
        rig.write(false, &format!("{what}-{written}")).await.unwrap();
        written += 1;
        pause(Duration::from_millis(50)).await;
    }
    assert!(written > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_availability_comes_first_the_database_goes_on_until_it_hears_otherwise() {
    let clock = Clock::Machine;
    let mut rig = rig::Rig::new(None, None).await;
    rig.up().await;
    // An ordinary cell: with nobody to ask it stops.
    rig.store.outage(true);
    eventually(LIMIT, "it stops", || async { rig.write(false, "ordinary").await.is_err() }).await.unwrap();
    rig.store.outage(false);
    rig.running(false, Running::Open).await;
    // The same database, where its owner chose otherwise.
    rig.availability_first = true;
    rig.place(2, Some("us-east-1")).await;
    let chosen = || async { rig.state(false).await.is_some_and(|s| s.fence_level.is_none()) };
    eventually(Duration::from_secs(5), "it has heard of the choice", chosen).await.unwrap();
    rig.store.outage(true);
    goes_on(&rig, &clock, "first").await;
    // Its agent dies, and the database with it; the next one knows from its disk that it may go on.
    rig.kill_agent(false).await;
    rig.start(false);
    rig.running(false, Running::Open).await;
    goes_on(&rig, &clock, "again").await;
    // It hears that nobody holds the cell, and stops as any other: with the proof in hand, if it has one.
    rig.store.outage(false);
    rig.place(3, None).await;
    eventually(LIMIT, "it obeys the close", || async { rig.write(false, "closed").await.is_err() })
        .await
        .unwrap();
    // Given back, it goes on; its own word ends that, and outlives its agent.
    rig.place(4, Some("us-east-1")).await;
    rig.running(false, Running::Open).await;
    eventually(Duration::from_secs(5), "it has heard of it", || async {
        rig.state(false).await.is_some_and(|s| s.fence_level.is_none() && s.epoch == Some(Epoch(4)))
    })
    .await
    .unwrap();
    rig.place(5, None).await;
    let fenced = rig.fence(5, 10_000, true).await.unwrap();
    assert_eq!(fenced.handover.epoch, Epoch(5));
    rig.store.outage(true);
    rig.kill_agent(false).await;
    rig.start(false);
    rig.running(false, Running::Stopped).await;
    pause(LIMIT).await;
    assert!(rig.write(false, "fenced").await.is_err() && processes(&rig.a.config.data_dir).is_empty());
    // Nor does the standby take its place by itself, whatever it has read.
    assert!(rig.write(true, "standby").await.is_err());
}
