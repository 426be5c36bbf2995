//! What all parts of one router share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use domicile_mirror::{Mirror, RoutingTable, Source};
use domicile_model::clock::{BootTime, Clock};
use domicile_model::{BootId, CellId, Epoch, FenceConstants, Role};
use domicile_router_core::admit::Route;
use domicile_router_core::inflight::Inflight;
use domicile_router_core::pass::PassKey;
use domicile_router_core::proofs::ProofBook;
use domicile_router_core::witness::WitnessBook;
use domicile_store::Store;
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::facts::Facts;
use crate::front::splice::Splices;
use crate::hold::HoldRoom;
use crate::metrics::Metrics;
use crate::standing::{Dial, Standing};
use crate::tls::{Keys, Secure};
use crate::upgrade;

/// How a gate knows that it may answer.
#[derive(Debug)]
pub enum Proofs {
    /// It need not: one file decides, and this process reads it.
    NotNeeded,
    /// Under a proof only.
    Book(ArcSwap<ProofBook>),
}

/// What all parts share.
pub struct Shared {
    /// What the router was told.
    pub config: Config,
    /// The one clock.
    pub clock: Clock,
    /// This life of the process.
    pub boot: BootId,
    /// The registry itself, for proofs and acknowledgements.
    pub store: Arc<dyn Store>,
    /// The registry's copy.
    pub mirror: Mirror,
    /// Requests in flight per cell.
    pub inflight: Inflight,
    /// Rung when a cell became idle while someone waited for that.
    pub idle: Arc<Notify>,
    /// Requests that wait for a move.
    pub hold: HoldRoom,
    /// What this gate can prove.
    pub proofs: Proofs,
    /// Changes whenever a proof came.
    pub proven: watch::Sender<u64>,
    /// Asks for a registry proof at once.
    pub prove_now: Notify,
    /// What this router remembers as a witness, if it is one.
    pub witness: Option<std::sync::Mutex<WitnessBook>>,
    /// Signs passes.
    pub pass: Option<PassKey>,
    /// The secret of peers. Never logged.
    pub secret: Option<Box<str>>,
    /// Connections that are passed on undecrypted.
    pub splices: Splices,
    /// Streams that stand open.
    pub standing: Arc<Standing>,
    /// Where they are carried over.
    pub dial: Dial,
    /// Set when they are to end, since the router stops.
    pub stopping: watch::Sender<bool>,
    /// What it knows of TLS.
    pub keys: Arc<Keys>,
    /// Answers the probe of the own listener, and nothing else does.
    pub probe_token: String,
    /// The numbers.
    pub metrics: Metrics,
    /// The log of requests.
    pub log: AccessLog,
    /// What is counted for the control planes, if they are to be told.
    pub facts: Option<Arc<Facts>>,
    /// The lease of this router's acknowledgements.
    pub lease: std::sync::Mutex<Option<domicile_store::LeaseId>>,
    /// The second of the last message that every request could cause.
    pub last_said: AtomicU64,
    /// Set when the router was told to stop.
    pub draining: AtomicBool,
    /// What it knows of a change of processes.
    pub upgrade: upgrade::State,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.config.id).finish_non_exhaustive()
    }
}

impl Shared {
    /// The present moment.
    #[must_use]
    pub fn now(&self) -> BootTime {
        self.clock.now()
    }

    /// The present table.
    #[must_use]
    pub fn table(&self) -> Arc<RoutingTable> {
        self.mirror.table()
    }

    /// The constants of the fence: the world's, or the usual ones before there is a world.
    #[must_use]
    pub fn constants(&self) -> FenceConstants {
        self.table().world().map_or(FenceConstants::DEFAULT, |w| w.constants)
    }

    /// Whether this gate may let in a request for (cell, epoch).
    #[must_use]
    pub fn admits(&self, cell: &CellId, epoch: Epoch) -> bool {
        match &self.proofs {
            Proofs::NotNeeded => true,
            Proofs::Book(book) => book.load().admits(cell, epoch, self.now()) || self.stands(cell, epoch),
        }
    }

    /// Whether this gate may let out a piece of an answer for (cell, epoch).
    #[must_use]
    pub fn answers(&self, cell: &CellId, epoch: Epoch) -> bool {
        match &self.proofs {
            Proofs::NotNeeded => true,
            Proofs::Book(_) if self.config.sabotage == crate::config::Sabotage::AnswersUnchecked => true,
            Proofs::Book(book) => {
                let known = self.table().placement(cell.as_str()).map(|p| p.placement.epoch);
                book.load().answers(cell, epoch, known, self.now()) || self.stands(cell, epoch)
            }
        }
    }

    /// Whether an admitted request may be sent now. What goes to the application needs the proof, and a table that knows
    /// no newer epoch.
    #[must_use]
    pub fn sends(&self, cell: &CellId, route: &Route) -> bool {
        !route.local || (self.admits(cell, route.epoch) && self.answers(cell, route.epoch))
    }

    /// Whether this gate goes on for (cell, epoch) without a proof, because availability comes first there.
    #[must_use]
    pub fn stands(&self, cell: &CellId, epoch: Epoch) -> bool {
        domicile_router_core::proofs::stands(&self.table(), cell, &self.config.region, epoch)
    }

    /// Changes the book of proofs and tells those who wait for one.
    pub fn prove(&self, mut change: impl FnMut(&mut ProofBook)) {
        if let Proofs::Book(book) = &self.proofs {
            book.rcu(|old| {
                let mut new = ProofBook::clone(old);
                change(&mut new);
                new
            });
            self.proven.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// True at most once a second: for messages that every request could cause.
    #[must_use]
    pub fn now_and_then(&self) -> bool {
        let second = self.now().as_nanos() / 1_000_000_000;
        self.last_said.swap(second, Ordering::Relaxed) != second
    }

    /// Whether what stands in headers is believed of this client, given what TLS says of it.
    #[must_use]
    pub fn trusts(&self, secure: Option<&Secure>, client: Option<IpAddr>) -> bool {
        match secure {
            // Whoever speaks TLS and is no router is a user, wherever it comes from.
            Some(secure) => secure.peer.is_some(),
            None => client.is_some_and(|ip| self.config.trusted.iter().any(|net| net.contains(ip))),
        }
    }

    /// Whether this is a gate.
    #[must_use]
    pub fn is_gate(&self) -> bool {
        self.config.role == Role::Gate
    }

    /// Whether the router was told to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Why it should get no traffic; none if it should.
    #[must_use]
    pub fn not_ready(&self) -> Option<&'static str> {
        // Another process that is ready stands behind the same addresses.
        if self.is_draining() && !self.upgrade.has_left() {
            Some("draining: the router was told to stop")
        } else if self.mirror.freshness().source == Source::None {
            Some("no table: neither the registry nor a last-good file was read yet")
        } else {
            None
        }
    }
}

/// Milliseconds, for logs and metrics.
#[must_use]
pub fn millis(length: Duration) -> f64 {
    (length.as_secs_f64() * 1e6).round() / 1e3
}
