//! From a checked configuration to a running router: build, then run.
//!
//! Traffic runs on a runtime of its own; everything else (registry, proofs, doors) on another one, which is there before the
//! first request and after the last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use domicile_mirror::{Mirror, Source};
use domicile_model::clock::Clock;
use domicile_model::{BootId, Role};
use domicile_router_core::inflight::Inflight;
use domicile_router_core::pass::PassKey;
use domicile_router_core::proofs::ProofBook;
use domicile_store::Store;
use domicile_store_etcd::EtcdStore;
use domicile_store_file::FileStore;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::config::{Config, Registry};
use crate::doors;
use crate::facts::{self, Facts};
use crate::front::splice::Splices;
use crate::front::{Door, Front};
use crate::hold::HoldRoom;
use crate::loops;
use crate::metrics::Metrics;
use crate::standing::Dial;
use crate::state::{Proofs, Shared};
use crate::stop;
use crate::tls::guard::Guard;
use crate::tls::peers::{PeerName, Peers};
use crate::tls::{self, Keys, Tls};
use crate::upgrade::duties::{Duties, witness_book};
use crate::upgrade::follow::{Running, greet};
use crate::upgrade::{Sockets, leave};

/// How long the first table is waited for, where certificates are to be read.
const FIRST_TABLE: Duration = Duration::from_secs(2);

/// Why a router could not be put together. The program ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Somebody else listens there, or the address is not this machine's.
    #[error(
        "--{option}: can't listen on {address}: {source}; choose another address, or stop who listens there"
    )]
    Bind {
        /// Which option named it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder can't be used.
    #[error("--{option}: {path} can't be used: {source}")]
    File {
        /// Which option named it.
        option: &'static str,
        /// The path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The registry's description is not usable.
    #[error("--registry: {0}")]
    Registry(String),
    /// Certificates that can't be used: all of them.
    #[error("TLS:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Tls(Vec<crate::tls::shelf::Unusable>),
    /// The secret is gone.
    #[error("--peer-secret: {0}")]
    Secret(#[from] domicile_model::SecretError),
    /// The witness's memory can't be used.
    #[error(transparent)]
    Witness(#[from] domicile_router_core::witness::JournalError),
    /// The last-good file can't be used.
    #[error("--state: {0}")]
    LastGood(#[from] domicile_mirror::LastGoodError),
    /// The running router's place can't be taken. It goes on.
    #[error("--upgrade: {0}")]
    Upgrade(String),
    /// Something that only a mistake of ours, or a machine out of threads, explains.
    #[error("the router can't start: {0}")]
    Machine(String),
}

/// A router that is ready to run.
pub struct App {
    shared: Arc<Shared>,
    runtime: Runtime,
    sockets: Sockets,
    /// The process whose place this one takes.
    running: Option<Running>,
    log: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Puts a router together: opens its files, binds its doors, begins to follow the registry.
///
/// # Errors
/// What can't be had, and where.
pub fn build(config: Config) -> Result<App, BuildError> {
    let bound = if config.upgrade { None } else { Some(Sockets::bind(&config)?) };
    let machine = |e: &dyn std::fmt::Display| BuildError::Machine(e.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("registry")
        .enable_all()
        .build()
        .map_err(|e| machine(&e))?;
    let mut running = config.upgrade.then(|| runtime.block_on(greet(&config))).transpose()?;
    if running.is_some() {
        // As far as it can be seen without the table, by which keys may be read.
        keys(&config, &Guard::new(None, &config))?;
    }
    let clock = Clock::Machine;
    if let Some(dir) = &config.state {
        std::fs::create_dir_all(dir).map_err(|source| BuildError::File {
            option: "state",
            path: dir.display().to_string(),
            source,
        })?;
    }
    let secret = config.peer_secret.as_ref().map(domicile_model::SecretRef::read).transpose()?;
    let (log, log_thread) = match &config.access_log {
        None => (AccessLog::off(), None),
        Some(path) => {
            let (log, thread) = AccessLog::open(path).map_err(|source| BuildError::File {
                option: "access-log",
                path: path.display().to_string(),
                source,
            })?;
            (log, Some(thread))
        }
    };
    let facts = config.facts.as_ref().map(Facts::open).transpose().map_err(|source| BuildError::File {
        option: "state",
        path: config.facts.as_ref().map(|f| f.dir.display().to_string()).unwrap_or_default(),
        source,
    })?;
    let (store, proofs): (Arc<dyn Store>, Proofs) = match &config.registry {
        Registry::File(path) => {
            // It starts a task that looks whether the file has changed.
            let _here = runtime.enter();
            let store = FileStore::open(path).map_err(|e| BuildError::Registry(e.to_string()))?;
            (Arc::new(store), Proofs::NotNeeded)
        }
        Registry::Etcd(etcd) => {
            let mut etcd = etcd.clone();
            for endpoint in &mut etcd.endpoints {
                if let Ok(address) = endpoint.parse() {
                    *endpoint = config.links.dial(address).to_string();
                }
            }
            etcd.call_timeout = config.registry_call;
            let store = runtime
                .block_on(EtcdStore::connect(etcd))
                .map_err(|e| BuildError::Registry(e.to_string()))?;
            (Arc::new(store), Proofs::Book(ArcSwap::from_pointee(ProofBook::new())))
        }
    };
    // From here on it needs what a running process has; that goes on without, so this comes last.
    let sockets = match (bound, &mut running) {
        (Some(sockets), _) => sockets,
        (None, Some(running)) => runtime.block_on(running.take(&config))?,
        (None, None) => return Err(BuildError::Upgrade("no running router was asked".into())),
    };
    let witness = match (&proofs, &config.peer) {
        (Proofs::Book(_), Some(_)) => Some(std::sync::Mutex::new(witness_book(&config, clock.now())?)),
        _ => None,
    };
    let mirror = {
        let _here = runtime.enter();
        // A file registry is its own last-good copy.
        let last_good = match &config.registry {
            Registry::Etcd(_) => config.state.as_ref().map(|dir| dir.join("table")),
            Registry::File(_) => None,
        };
        let mut options = domicile_mirror::Options { last_good, ..domicile_mirror::Options::default() };
        options.pace.answer = config.registry_call;
        Mirror::start(store.clone(), clock.clone(), options)?
    };
    if config.tls.is_some() {
        // Which keys may be here stands in the table. Without it, none is read until it comes.
        let _ = runtime.block_on(async { tokio::time::timeout(FIRST_TABLE, mirror.started()).await });
    }
    let known = mirror.freshness().source != Source::None;
    let keys = Arc::new(keys(&config, &Guard::new(known.then(|| mirror.table()), &config))?);
    let idle = Arc::new(Notify::new());
    let bell = idle.clone();
    let shared = Arc::new(Shared {
        clock,
        boot: BootId::new(),
        store,
        mirror,
        inflight: Inflight::new(move || bell.notify_one()),
        idle,
        hold: HoldRoom::new(config.hold),
        proofs,
        proven: watch::Sender::new(0),
        prove_now: Notify::new(),
        witness,
        pass: secret.as_deref().and_then(PassKey::new),
        secret: secret.map(Into::into),
        keys,
        splices: Splices::default(),
        standing: Arc::default(),
        dial: Dial::default(),
        stopping: watch::Sender::new(false),
        probe_token: uuid::Uuid::new_v4().simple().to_string(),
        metrics: Metrics::new().map_err(|e| machine(&e))?,
        log,
        facts,
        lease: std::sync::Mutex::new(None),
        last_said: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        upgrade: crate::upgrade::State::default(),
        config,
    });
    Ok(App { shared, runtime, sockets, running, log: log_thread })
}

/// Reads all certificates and keys; all that is wrong with them at once.
fn keys(config: &Config, guard: &Guard) -> Result<Keys, BuildError> {
    let mut wrong = Vec::new();
    let clients =
        config.tls.clone().and_then(|tls| Tls::open(tls, guard).map_err(|all| wrong.extend(all)).ok());
    let name = PeerName { role: config.role, region: config.region.clone() };
    let peers = config.peers.clone().and_then(|p| Peers::open(p, name).map_err(|why| wrong.push(why)).ok());
    let probe = config.listen_tls.map(|_| tls::Probe::new()).transpose().map_err(BuildError::Machine)?;
    if !wrong.is_empty() {
        return Err(BuildError::Tls(wrong));
    }
    Ok(Keys { clients, peers, probe, look_now: Notify::new() })
}

/// Runs until told to stop (SIGTERM: drains; SIGINT: at once). Returns when everything is closed.
///
/// # Errors
/// When a door can't be opened after all.
pub fn run(app: App) -> Result<(), BuildError> {
    let App { shared, runtime, sockets, mut running, log } = app;
    let machine = |e: &dyn std::fmt::Display| BuildError::Machine(e.to_string());
    // Traffic has threads of its own: however much of it there is, proofs and acknowledgements are in time.
    let traffic = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(shared.config.threads)
        .thread_name("traffic")
        .enable_all()
        .build()
        .map_err(|e| machine(&e))?;
    let words = {
        let _here = runtime.enter();
        stop::Words::listen().map_err(|e| machine(&e))?
    };
    let duties = Arc::new(Duties::new(shared.clone()));
    start_loops(&shared, &runtime, &duties).map_err(|e| machine(&e))?;
    if let Some(running) = &mut running {
        runtime.block_on(running.ready(&shared))?;
    }
    open_doors(&shared, &runtime, &sockets).map_err(|e| machine(&e))?;
    let front = Front::new(shared.clone());
    open_front(&front, &traffic, &sockets).map_err(|e| machine(&e))?;
    if matches!(shared.config.registry, Registry::Etcd(_)) {
        let _here = runtime.enter();
        duties.acknowledge();
    }
    if let Some(running) = running {
        runtime.spawn(running.follow(shared.clone()));
    }
    hear_of_upgrades(&shared, &runtime, &duties, sockets).map_err(|e| machine(&e))?;
    tracing::info!(
        role = ?shared.config.role,
        id = %shared.config.id,
        region = %shared.config.region,
        listen = ?shared.config.listen,
        listen_tls = ?shared.config.listen_tls,
        admin = %shared.config.admin,
        "the router starts"
    );
    runtime.block_on(stop::serve_until_told(&shared, &front, &traffic, words));
    drop(front);
    traffic.shutdown_timeout(Duration::from_secs(1));
    runtime.block_on(facts::last(&shared));

    // Of one that has left, nothing stands there any more but what the other one said.
    if runtime.block_on(duties.end()) {
        runtime.block_on(loops::acks::leave(&shared));
    }
    drop(duties);
    if let Some(path) = shared.config.upgrade_socket.as_ref().filter(|_| !shared.upgrade.is_passed_on()) {
        let _ = std::fs::remove_file(path);
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    // The last handle of the log is gone with the shared state; then its thread writes the rest and ends.
    let wait = Arc::into_inner(shared).is_some();
    if let Some(thread) = log.filter(|_| wait) {
        let _ = thread.join();
    }
    Ok(())
}

fn open_doors(shared: &Arc<Shared>, runtime: &Runtime, sockets: &Sockets) -> std::io::Result<()> {
    let _here = runtime.enter();
    doors::open(shared.clone(), sockets.admin.try_clone()?, doors::admin::router(shared.clone()))?;
    if let Some(peer) = &sockets.peer {
        doors::open(shared.clone(), peer.try_clone()?, doors::peer::router(shared.clone()))?;
    }
    Ok(())
}

fn open_front(front: &Front, traffic: &Runtime, sockets: &Sockets) -> std::io::Result<()> {
    let _here = traffic.enter();
    for (listener, door) in [(&sockets.listen, Door::Http), (&sockets.listen_tls, Door::Https)] {
        if let Some(listener) = listener {
            front.open(tokio::net::TcpListener::from_std(listener.try_clone()?)?, door);
        }
    }
    Ok(())
}

/// Without a place where it is heard of, the sockets are needed no more.
fn hear_of_upgrades(
    shared: &Arc<Shared>,
    runtime: &Runtime,
    duties: &Arc<Duties>,
    sockets: Sockets,
) -> std::io::Result<()> {
    let _here = runtime.enter();
    let Some(listener) = &sockets.upgrade else { return Ok(()) };
    let listener = tokio::net::UnixListener::from_std(listener.try_clone()?)?;
    runtime.spawn(leave::run(shared.clone(), duties.clone(), sockets, listener));
    Ok(())
}

/// Starts all but the acknowledgements.
fn start_loops(shared: &Arc<Shared>, runtime: &Runtime, duties: &Duties) -> Result<(), reqwest::Error> {
    let _here = runtime.enter();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_millis(500))
        .pool_idle_timeout(Duration::from_secs(20))
        .build()?;
    runtime.spawn(tls::run(shared.clone()));
    runtime.spawn(stop::reload_when_told(shared.clone()));
    let (standing, mirror) = (shared.standing.clone(), shared.mirror.clone());
    runtime.spawn(async move { standing.run(&mirror).await });
    let room = shared.clone();
    runtime.spawn(async move { room.hold.run(&room.mirror).await });
    let splicing = shared.clone();
    runtime.spawn(async move { splicing.splices.run(&splicing.mirror).await });
    runtime.spawn(facts::run(shared.clone()));
    if matches!(shared.config.registry, Registry::Etcd(_)) {
        if shared.config.role == Role::Gate {
            runtime.spawn(loops::proofs::run(shared.clone()));
            runtime.spawn(loops::vouchers::run(shared.clone(), client));
        }
        duties.witness();
    }
    Ok(())
}
