//! Facts of the traffic: counted here per tenant, region and minute, spooled to disk, and told to the control planes. Nothing that
//! a request waits for: without a control plane, or a disk, requests go on.

mod run;
mod send;
mod spool;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_facts::{ClockBound, Seen};
use domicile_model::{RegionId, SecretRef, TenantId};
use domicile_router_core::facts::{Ledger, outcome};
use http::Method;
use pingora_proxy::Session;

pub use run::{last, run};

use self::run::Keeper;
use self::send::Teller;
use self::spool::Spool;
use crate::serve::ctx::Ctx;
use crate::state::Shared;

/// Rows of one minute: tenants times the regions that served them in it. Whoever comes beyond it is counted as `other`.
pub const MOST_ROWS: usize = 100_000;

/// What may wait on disk, in bytes.
const MOST_BYTES: u64 = 256 << 20;
/// How long a connection to a control plane may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Where facts go.
#[derive(Debug, Clone)]
pub struct FactsConfig {
    /// All control planes.
    pub to: Vec<SocketAddr>,
    /// What this router shows them. Read again for each round: it may be exchanged.
    pub token: SecretRef,
    /// Where facts lie until they have them.
    pub dir: PathBuf,
}

/// What this router counts.
#[derive(Debug)]
pub struct Facts {
    /// The minutes that are not over.
    pub ledger: Ledger,
    /// How far its clock was off when it was last compared.
    clock: Mutex<Option<ClockBound>>,
    keeper: Mutex<Keeper>,
    teller: tokio::sync::Mutex<Teller>,
}

impl Facts {
    /// An empty ledger, and the folder of what was not told before.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(config: &FactsConfig) -> std::io::Result<Arc<Self>> {
        let spool = Spool::open(&config.dir, MOST_BYTES)?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Arc::new(Self {
            ledger: Ledger::new(MOST_ROWS),
            clock: Mutex::default(),
            keeper: Mutex::new(Keeper::new(spool.clone())),
            teller: tokio::sync::Mutex::new(Teller::new(config, spool, client)),
        }))
    }

    fn clock(&self) -> Option<ClockBound> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compared(&self, bound: ClockBound) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(bound);
    }
}

/// Milliseconds since 1970. For facts only: no decision rests on it.
#[must_use]
pub fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Counts a request that is over, where it entered the fleet: a gate counts none that an edge has counted.
pub fn request(shared: &Shared, session: &Session, ctx: &Ctx, status: u16, total: Duration) {
    let Some(facts) = &shared.facts else { return };
    let Some(tenant) = ctx.tenant.as_ref().filter(|_| !(ctx.trusted && ctx.sent.is_some())) else { return };
    let region = ctx.answer.as_ref().map(|a| &a.0).or_else(|| ctx.route.as_ref().map(|r| &r.region));
    let method = &session.req_header().method;
    let seen = Seen {
        outcome: outcome(status, ctx.cause),
        // RFC 9110, section 9.2.1: what is not safe may write.
        write: ![Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method),
        held: ctx.held.then_some(ctx.hold),
        decrypted: ctx.secure().is_some_and(|s| s.peer.is_none()),
        bytes_up: session.body_bytes_read() as u64,
        bytes_down: session.body_bytes_sent() as u64,
    };
    let ended = unix_ms();
    let took = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
    if facts.ledger.count(tenant, region, &seen, ended.saturating_sub(took), ended) {
        return;
    }
    shared.metrics.facts_other.inc();
}

/// Counts a connection that is passed on undecrypted, when it begins and when it ends.
pub fn splice(shared: &Shared, tenant: &TenantId, to: &RegionId, begins: bool, bytes: (u64, u64)) {
    if let Some(facts) = &shared.facts {
        facts.ledger.splice(tenant, to, begins, bytes, unix_ms());
    }
}
