//! A control plane from start to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domicile_engine::provider::Databases;
use domicile_engine::{Engine, Options};
use domicile_model::clock::Clock;
use domicile_model::links::AddressMap;
use domicile_model::{FenceConstants, RegionId};
use domicile_store::Store;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::app::{App, Looked};
use crate::doors::{self, Limits};
use crate::lead::{self, Ambition};
use crate::metrics::Metrics;
use crate::operators::Operators;
use crate::roster::{self, Roster};
use crate::{archive, facts, http, room, samples};

/// Longest wait for open requests when stopping.
const CLOSE: Duration = Duration::from_secs(3);
/// How long a connection to the leader may take.
const CONNECT: Duration = Duration::from_secs(1);

/// What a control plane is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub region: RegionId,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the others reach it; the address that it listens on if none.
    pub advertise: Option<SocketAddr>,
    /// Who may call.
    pub operators: Operators,
    /// The file that says who, looked at again and again; none if that never changes.
    pub tokens: Option<PathBuf>,
    /// What callers may take.
    pub limits: Limits,
    /// The fence of a registry that has no world yet.
    pub constants: FenceConstants,
    /// Life of the leader's lease; whole seconds, two at least.
    pub lease: Duration,
    /// From addresses in the registry to those to dial.
    pub links: AddressMap,
    /// Choices of the engine.
    pub options: Options,
    /// How the registry's room is kept.
    pub room: room::Settings,
    /// The archive of what leaves the registry; none: nothing does.
    pub archive: Option<archive::Settings>,
    /// The history of what routers saw; none: it is not kept here.
    pub facts: Option<facts::Settings>,
}

/// Why a control plane does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody could reach it.
    #[error("control plane {name} can't listen on {address}: is another process there?")]
    Listen {
        /// Its name.
        name: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A client or the counts could not be made.
    #[error("control plane can't start: {0}")]
    Start(String),
    /// The copy of the archive can't be kept.
    #[error("--archive-dir")]
    Archive(#[source] domicile_archive::ArchiveError),
    /// The history can't be kept.
    #[error("--history-dir")]
    History(#[source] domicile_history::HistoryError),
    /// The fence constants would stop healthy cells.
    #[error("--fence: {0}")]
    Constants(&'static str),
    /// The lease is too short or too long.
    #[error("--lease: {0:?} is not from 2 s to 60 s")]
    Lease(Duration),
}

/// Fence constants for this FENCE: the usual ones, scaled down with it so that a short fence is usable.
#[must_use]
pub fn constants(fence: Duration) -> FenceConstants {
    let fence_ms = u64::try_from(fence.as_millis()).unwrap_or(u64::MAX);
    let usual = FenceConstants::DEFAULT;
    FenceConstants {
        fence_ms,
        renew_ms: usual.renew_ms.min(fence_ms / 10).max(1),
        drain_ms: usual.drain_ms.min(fence_ms / 5).max(1),
        stop_ms: usual.stop_ms.min(fence_ms / 10).max(1),
        drift_ppm: usual.drift_ppm,
    }
}

/// The engine's choices that follow from the lease, the longest hold and the fence.
#[must_use]
pub fn options(name: &str, lease: Duration, hold: Duration, constants: &FenceConstants) -> Options {
    let usual = Options::default();
    // An effect must have ended before another leader can act.
    let call = usual.call.min(lease * 4 / 5);
    let mut options = usual;
    options.name = name.to_owned();
    options.call = call;
    options.clean_stop = options.clean_stop.min(call * 9 / 10);
    options.hold = hold;
    // A forced move lasts WAIT and the promotion; what gave up before was held for nothing.
    options.hold_forced = hold.max(constants.wait() + Duration::from_secs(5));
    options
}

/// A control plane that listens already.
pub struct Server {
    app: Arc<App>,
    ambition: Ambition,
    leading: watch::Sender<Option<Arc<crate::app::Led>>>,
    listener: TcpListener,
    address: SocketAddr,
    tokens: Option<PathBuf>,
    limits: Limits,
}

impl Server {
    /// Binds; nothing is served and nobody is asked yet.
    ///
    /// # Errors
    /// When the address is taken, or a number is unusable.
    pub async fn bind(
        config: Config,
        store: Arc<dyn Store>,
        databases: Arc<dyn Databases>,
        clock: Clock,
    ) -> Result<Self, ServeError> {
        if let Some(problem) = config.constants.problem() {
            return Err(ServeError::Constants(problem));
        }
        if config.lease < Duration::from_secs(2) || config.lease > Duration::from_secs(60) {
            return Err(ServeError::Lease(config.lease));
        }
        let refused =
            |source| ServeError::Listen { name: config.name.clone(), address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        // No connection is kept: the leader closes one that is quiet for a while, and a change sent on it just then would
        // have an unknown outcome.
        let client =
            reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).pool_max_idle_per_host(0).build();
        let engine = Engine::new(Arc::clone(&store), databases, clock.clone(), config.options);
        let advertised = config.advertise.unwrap_or(address);
        let copy = config.archive.map(|settings| archive::Archive::open(settings, advertised)).transpose();
        let copy = copy.map_err(ServeError::Archive)?;
        let history = match config.facts {
            Some(settings) => Some(facts::Kept::open(settings).await.map_err(ServeError::History)?),
            None => None,
        };
        let keeper = room::Keeper::new(Arc::clone(&engine), clock.clone());
        let (leading, led) = watch::channel(None);
        let app = Arc::new(App {
            name: config.name,
            region: config.region,
            store,
            clock,
            engine,
            roster: Roster::new(config.operators),
            streams: Arc::new(Semaphore::new(config.limits.streams)),
            leading: led,
            changes: Mutex::new(()),
            changed: Notify::new(),
            looked: Mutex::new(Looked::default()),
            protected: crate::protection::Protected::default(),
            links: config.links,
            room: keeper,
            archive: copy.map(Arc::new),
            facts: history,
            history: config.room.history,
            http: client.map_err(|e| ServeError::Start(e.to_string()))?,
            metrics: Metrics::new().map_err(|e| ServeError::Start(e.to_string()))?,
        });
        let ambition = Ambition {
            address: config.advertise.unwrap_or(address),
            lease: config.lease,
            constants: config.constants,
            settled: std::sync::atomic::AtomicBool::new(false),
        };
        Ok(Self { app, ambition, leading, listener, address, tokens: config.tokens, limits: config.limits })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, then resigns. A registry that is away ends nothing.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { app, ambition, leading, listener, address, tokens, limits } = self;
        tracing::info!(name = app.name, region = %app.region, %address, "the control plane serves");
        let router = http::router(&app);
        let connected = app.metrics.connections.clone();
        let serving = doors::serve(listener, router, limits, connected, cancel.clone());
        // Whoever drops this future ends all of it.
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        let work = async {
            tokio::select! {
                () = samples::run(&app) => {}
                () = room::run(&app) => {}
                () = facts::run(&app) => {}
                () = facts::copy::follow(&app) => {}
                () = archive::copies::follow(&app) => {}
                () = roster::follow(&app, tokens) => {}
                () = lead::run(&app, &ambition, &leading, &cancel) => {}
            }
        };
        work.await;
        // Streams of events would keep it open for ever.
        if tokio::time::timeout(CLOSE, serving).await.is_err() {
            tracing::info!("requests that were still open were cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_fence_gets_constants_that_are_usable() {
        assert_eq!(constants(Duration::from_secs(10)), FenceConstants::DEFAULT);
        for ms in [500, 1000, 2000, 3000, 5000, 30_000] {
            assert_eq!(constants(Duration::from_millis(ms)).problem(), None, "{ms}");
        }
        assert!(constants(Duration::from_secs(3600)).problem().is_some());
    }

    #[test]
    fn an_effect_ends_before_the_lease_does() {
        for secs in [2, 3, 10, 60] {
            let lease = Duration::from_secs(secs);
            let options = options("a", lease, Duration::from_secs(10), &FenceConstants::DEFAULT);
            assert!(options.call < lease && options.clean_stop < options.call);
            assert!(options.hold_forced > FenceConstants::DEFAULT.wait());
        }
    }
}
