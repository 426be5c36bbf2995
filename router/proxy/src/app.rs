//! From a checked configuration to a running router: build, then run.
//!
//! Pingora brings its own runtimes for traffic; everything else (registry, proofs, doors) runs on one of ours, which
//! is there before the first request and after the last.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use domicile_mirror::Mirror;
use domicile_model::clock::{Clock, pause};
use domicile_model::{BootId, Role};
use domicile_router_core::inflight::Inflight;
use domicile_router_core::pass::PassKey;
use domicile_router_core::proofs::ProofBook;
use domicile_router_core::witness::WitnessBook;
use domicile_store::Store;
use domicile_store_etcd::EtcdStore;
use domicile_store_file::FileStore;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_proxy::ProxyServiceBuilder;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::config::{Config, Registry};
use crate::doors;
use crate::hold::HoldRoom;
use crate::loops;
use crate::metrics::Metrics;
use crate::serve::Router;
use crate::state::{Proofs, Shared};

/// How long requests in flight may take to end, once the router was told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(20);
/// How long the listener may take to answer its own probe after the start.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

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
    /// The secret is gone.
    #[error("--peer-secret: {0}")]
    Secret(#[from] domicile_model::SecretError),
    /// The witness's memory can't be used.
    #[error(transparent)]
    Witness(#[from] domicile_router_core::witness::JournalError),
    /// The last-good file can't be used.
    #[error("--state: {0}")]
    LastGood(#[from] domicile_mirror::LastGoodError),
    /// Something that only a mistake of ours, or a machine out of threads, explains.
    #[error("the router can't start: {0}")]
    Machine(String),
}

/// A router that is ready to run.
pub struct App {
    shared: Arc<Shared>,
    runtime: Runtime,
    admin: TcpListener,
    peer: Option<TcpListener>,
    log: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("shared", &self.shared).finish_non_exhaustive()
    }
}

fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, BuildError> {
    let error = |source| BuildError::Bind { option, address, source };
    let listener = TcpListener::bind(address).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// Puts a router together: opens its files, binds its doors, begins to follow the registry.
///
/// # Errors
/// What can't be had, and where.
pub fn build(config: Config) -> Result<App, BuildError> {
    // Pingora would go on trying for half a minute and then serve nothing; so it is tried here first.
    drop(bind("listen", config.listen)?);
    let admin = bind("admin", config.admin)?;
    let peer = config.peer.map(|p| bind("peer", p)).transpose()?;
    let machine = |e: &dyn std::fmt::Display| BuildError::Machine(e.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("registry")
        .enable_all()
        .build()
        .map_err(|e| machine(&e))?;
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
    let witness = match (&proofs, &config.peer) {
        (Proofs::Book(_), Some(_)) => Some(std::sync::Mutex::new(match &config.state {
            Some(dir) => WitnessBook::open(&dir.join("witness.jsonl"), clock.now())?,
            None => WitnessBook::forgetful(clock.now()),
        })),
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
        probe_token: uuid::Uuid::new_v4().simple().to_string(),
        metrics: Metrics::new().map_err(|e| machine(&e))?,
        log,
        lease: std::sync::Mutex::new(None),
        last_said: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        config,
    });
    Ok(App { shared, runtime, admin, peer, log: log_thread })
}

/// Runs until told to stop (SIGTERM: drains; SIGINT: at once). Returns when everything is closed.
///
/// # Errors
/// When a door can't be opened after all.
pub fn run(app: App) -> Result<(), BuildError> {
    let App { shared, runtime, admin, peer, log } = app;
    let machine = |e: &dyn std::fmt::Display| BuildError::Machine(e.to_string());
    open_doors(&shared, &runtime, admin, peer).map_err(|e| machine(&e))?;
    let acks = start_loops(&shared, &runtime).map_err(|e| machine(&e))?;
    runtime.spawn(must_answer(shared.clone()));

    let conf = ServerConf {
        threads: shared.config.threads,
        // Our own counts (addresses, follows) end tries earlier; at zero nothing would ever be sent.
        max_retries: 16,
        upstream_keepalive_pool_size: 512,
        // The watch below has already waited for the last requests.
        grace_period_seconds: Some(1),
        graceful_shutdown_timeout_seconds: Some(2),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut options = HttpServerOptions::default();
    options.keepalive_request_limit = Some(100_000);
    let mut service = ProxyServiceBuilder::new(&server.configuration, Router::new(shared.clone()))
        .name("domicile-router")
        .server_options(options)
        .build();
    service.add_tcp(&shared.config.listen.to_string());
    server.add_service(service);
    tracing::info!(
        role = ?shared.config.role,
        id = %shared.config.id,
        region = %shared.config.region,
        listen = %shared.config.listen,
        admin = %shared.config.admin,
        "the router starts"
    );
    server.run(RunArgs { shutdown_signal: Box::new(Signals { shared: shared.clone() }) });

    if let Some(acks) = acks {
        acks.abort();
        runtime.block_on(loops::acks::leave(&shared));
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    // The last handle of the log is gone with the shared state; then its thread writes the rest and ends.
    let wait = Arc::into_inner(shared).is_some();
    if let Some(thread) = log.filter(|_| wait) {
        let _ = thread.join();
    }
    Ok(())
}

fn open_doors(
    shared: &Arc<Shared>,
    runtime: &Runtime,
    admin: TcpListener,
    peer: Option<TcpListener>,
) -> std::io::Result<()> {
    let _here = runtime.enter();
    let admin = tokio::net::TcpListener::from_std(admin)?;
    let doors = doors::admin::router(shared.clone());
    runtime.spawn(async move { axum::serve(admin, doors).await });
    if let Some(peer) = peer {
        let peer = tokio::net::TcpListener::from_std(peer)?;
        let doors = doors::peer::router(shared.clone());
        runtime.spawn(async move { axum::serve(peer, doors).await });
    }
    Ok(())
}

/// Starts them; the handle is that of the acknowledgements, if there are any.
fn start_loops(
    shared: &Arc<Shared>,
    runtime: &Runtime,
) -> Result<Option<tokio::task::JoinHandle<()>>, reqwest::Error> {
    let _here = runtime.enter();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_millis(500))
        .pool_idle_timeout(Duration::from_secs(20))
        .build()?;
    let room = shared.clone();
    runtime.spawn(async move { room.hold.run(&room.mirror).await });
    if matches!(shared.config.registry, Registry::Etcd(_)) {
        let acks = runtime.spawn(loops::acks::run(shared.clone(), client.clone()));
        if shared.config.role == Role::Gate {
            runtime.spawn(loops::proofs::run(shared.clone()));
            runtime.spawn(loops::vouchers::run(shared.clone(), client));
        }
        if shared.witness.is_some() {
            runtime.spawn(loops::witness::run(shared.clone()));
        }
        return Ok(Some(acks));
    }
    Ok(None)
}

/// Ends the process when the listener does not come up: it would stay up with a dead port.
async fn must_answer(shared: Arc<Shared>) {
    let address = shared.config.listen;
    let up = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            pause(Duration::from_millis(50)).await;
        }
    };
    if !address.ip().is_unspecified() && tokio::time::timeout(FIRST_ANSWER, up).await.is_err() {
        tracing::error!(%address, "the listener did not come up: somebody else took the address");
        std::process::exit(1);
    }
}

/// Not ready first, then the last requests, then the end.
struct Signals {
    shared: Arc<Shared>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals can't be heard; stopping");
            return ShutdownSignal::FastShutdown;
        };
        tokio::select! {
            _ = int.recv() => return ShutdownSignal::FastShutdown,
            _ = term.recv() => {}
        }
        let shared = &self.shared;
        tracing::info!("told to stop: not ready from now on");
        shared.draining.store(true, Ordering::SeqCst);
        let last = async {
            pause(shared.config.drain).await;
            while !shared.inflight.busy().is_empty() || !shared.hold.is_empty() {
                pause(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            drained = tokio::time::timeout(shared.config.drain + LAST_REQUESTS, last) => {
                if drained.is_err() {
                    tracing::warn!("requests were still in flight at the end");
                }
            }
            _ = int.recv() => return ShutdownSignal::FastShutdown,
        }
        ShutdownSignal::GracefulTerminate
    }
}
